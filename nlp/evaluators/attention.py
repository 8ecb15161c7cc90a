"""Where a model looks: alignments, self-attention by head, and words by their weight.

Every attention of a model that puts its weights into the collection `attention_weights`, or
into its output as `weights`, is drawn, so that one entry under `evals` serves recurrent and attentive encoder-decoders,
language models, encoders, and Lin's sentence classifier. `nlp.visualize` names the papers.
"""

import dataclasses
import functools
import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from nlp import visualize
from nlp.evaluators.generation import call, check_positive, tokenizer_of
from training.evaluation import Batches, Report

_END = "<eos>"
_NAMES = ("pad", "bos", "eos", "unk", "mask")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentionPictures:
    """An evaluator, see `training.evaluation`: no metrics, only pictures of examples.

    - `alignment`: of an encoder-decoder, source against target. The target is the
      reference, and the row of a token shows what was looked at to write it.
    - `self_attention`, or `encoder` and `decoder`: of a sequence to itself.
    - `words`: of attention with a single query, as Lin's: the words of the text on a ground
      that shows their weight, that of their tokens together; also the page `words.html` among the texts.

    Each shows one layer's mean over heads, and `..._heads` all heads of all layers for the
    first example. What a model lacks is left out.

    Args:
        data: a pipeline with `eval_batches`; its first examples are shown.
        tokenizer: None takes the task's.
        source_tokenizer: of an encoder-decoder's source; None for the same.
        num_examples: how many.
        layer: which layer's mean over heads, -1 the last.
        max_tokens: of a sequence; the rest is not shown.
    """

    data: Any
    tokenizer: Any = None
    source_tokenizer: Any = None
    num_examples: int = 4
    layer: int = -1
    max_tokens: int = 48

    def __post_init__(self):
        check_positive(num_examples=self.num_examples, max_tokens=self.max_tokens)

    def __call__(self, run: Any, state: Any) -> Report:
        """Raises RunError for unreadable data."""
        target = tokenizer_of(run, self.tokenizer)
        source = self.source_tokenizer or target
        function = functools.partial(look, count=self.num_examples)
        step = run.compile(function, key=("attention pictures", self.num_examples))
        with Batches(self.data, run, self.num_examples) as batches:
            found = jax.device_get(call(step, state, next(batches)))
            skipped = batches.skipped
        real = found["mask"]
        axes = {"source": [token_texts(source, row) for row in found["first"][real]]}
        if "second" in found:
            targets = [token_texts(target, row) for row in found["second"][real]]
            targets = [x[:-1] if x[-1] == _END else x for x in targets]
            axes["target"] = targets
            # The query of a token writes the next.
            axes["written"] = [[*words[1:], _END] for words in targets]
        axes = {k: [words[: self.max_tokens] for words in x] for k, x in axes.items()}
        pictures, texts = {}, {}
        if real.any():
            for kind, layers in kinds(found["weights"], "target" in axes).items():
                shown = [weights[real] for weights in layers]
                if kind == "words":
                    made, page = self._colored(shown, axes["source"])
                    pictures |= made
                    texts["words.html"] = page
                else:
                    rows, columns = _AXES[kind]
                    pictures |= self._maps(kind, shown, axes[rows], axes[columns])
        return Report({}, pictures, skipped, texts)

    def _maps(
        self,
        kind: str,
        layers: Sequence[np.ndarray],
        rows: Sequence[Sequence[str]],
        columns: Sequence[Sequence[str]],
    ) -> dict[str, np.ndarray]:
        """Pictures of one kind; a layer is float [B, N, T, S]."""
        i = self.layer % len(layers)
        chosen = layers[i].mean(1)
        heads = layers[i].shape[1]
        title = f"layer {i}, mean of {heads} heads" if heads > 1 else f"layer {i}"
        maps = [
            visualize.heat_map(weights[: len(r), : len(c)], r, c, title=title)
            for weights, r, c in zip(chosen, rows, columns, strict=True)
        ]
        pictures = {kind: visualize.tiles(maps)}
        same = [w for w in layers if w.shape[1:] == layers[i].shape[1:]]
        if len(same) * heads > 1:
            cut = np.stack([w[0, :, : len(rows[0]), : len(columns[0])] for w in same])
            title = "first example: queries downwards, keys to the right"
            pictures[f"{kind}_heads"] = visualize.heads(cut, title=title)
        return pictures

    def _colored(
        self, layers: Sequence[np.ndarray], texts: Sequence[Sequence[str]]
    ) -> tuple[dict[str, np.ndarray], str]:
        """Words by their weight, the mean over heads, and by head for the first example."""
        weights = layers[self.layer % len(layers)][:, :, 0]  # [B, N, S]
        words = [whole_words(t, w) for t, w in zip(texts, weights, strict=True)]
        means = [(f"example {i}", t, w.mean(0)) for i, (t, w) in enumerate(words)]
        text, heads = words[0]
        by_head = [(f"example 0, head {n}", text, w) for n, w in enumerate(heads)]
        named, by_head = (
            [(f"{t}, largest {x.max():.2g}", w, x) for t, w, x in parts]
            for parts in (means, by_head)
        )
        draw = lambda parts: visualize.frame(
            visualize.stack(
                [visualize.colored_words(w, x, title=t) for t, w, x in parts]
            )
        )
        pictures = {"words": draw(named)}
        if len(by_head) > 1:
            pictures["words_heads"] = draw(by_head)
        return pictures, visualize.colored_words_html([*named, *by_head])


# Of the rows and columns of each kind of picture.
_AXES = {
    "alignment": ("written", "source"),
    "encoder": ("source", "source"),
    "decoder": ("target", "target"),
    "self_attention": ("source", "source"),
}


def look(state: Any, batch: Any, *, task: Any, count: int) -> dict[str, Any]:
    """A model's attention weights for the first `count` rows of a batch.

    Returns:
        `weights`: the layer's path -> float32 [B, N, T, S], of a scanned stack of layers
        [L, B, N, T, S]; `first` and, of an encoder-decoder, `second`, int32 [B, T]: the
        model's token arguments; `mask`, bool [B].
    """
    batch = jax.tree.map(lambda x: x[:count] if x.ndim else x, dict(batch))
    inputs = task.plain_inputs(batch)
    outputs, found = task.model.apply(
        {"params": state.eval_params, **state.collections},
        *inputs,
        train=False,
        mutable=["attention_weights"],
    )
    weights = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(found):
        names = jax.tree_util.keystr(path[1:], simple=True, separator="/").split("/")
        weights["/".join(names)] = leaf.astype("float32")
    given = getattr(outputs, "weights", None)
    if (
        given is not None and given.ndim == 3
    ):  # [B, hops, T], part of what the model says
        weights["weights"] = given[:, :, None].astype("float32")
    result = {"weights": weights, "first": inputs[0], "mask": batch["mask"]}
    parameters = inspect.signature(type(task.model).__call__).parameters
    if "target" in parameters:
        result["second"] = inputs[1]
    return result


def kinds(
    weights: Mapping[str, np.ndarray], has_target: bool
) -> dict[str, list[np.ndarray]]:
    """Sorts the weights of a model into pictures.

    Args:
        weights: path -> [B, N, T, S] or [L, B, N, T, S].
        has_target: whether the model is an encoder-decoder.

    Returns:
        Kind of picture -> layers from the first to the last, [B, N, T, S] each.
    """
    crosses = any("cross" in path for path in weights)
    found: dict[str, list[np.ndarray]] = {}
    for path in sorted(weights, key=_natural):
        layers = weights[path] if weights[path].ndim == 5 else [weights[path]]
        if has_target and "encoder" in path.split("/")[0]:
            kind = "encoder"
        elif has_target:
            kind = "decoder" if crosses and "cross" not in path else "alignment"
        else:
            kind = "words" if layers[0].shape[-2] == 1 else "self_attention"
        found.setdefault(kind, []).extend(layers)
    return found


def whole_words(
    tokens: Sequence[str], weights: np.ndarray
) -> tuple[list[str], np.ndarray]:
    """Tokens joined to words at spaces, their weights added.

    Args:
        tokens: T of `token_text`, at least one.
        weights: float [N, S], S >= T.

    Returns:
        W words and weights [N, W].
    """
    starts = [
        i
        for i, token in enumerate(tokens)
        if i == 0 or token.startswith(("_", "<")) or tokens[i - 1].startswith("<")
    ]
    ends = [*starts[1:], len(tokens)]
    words = ["".join(tokens[a:b]) for a, b in zip(starts, ends, strict=True)]
    words = [word.strip("_") or word for word in words]
    return words, np.add.reduceat(weights[:, : len(tokens)], starts, axis=1)


def _natural(path: str) -> list[Any]:
    """Sorts block_2 before block_10."""
    return [int(x) if x.isdigit() else x for x in re.split(r"(\d+)", path)]


def token_texts(tokenizer: Any, ids: np.ndarray) -> list[str]:
    """The tokens of a row, int32 [T], before the padding at its end; at least one."""
    real = np.flatnonzero(ids != getattr(tokenizer, "pad_id", None))
    length = real[-1] + 1 if real.size else 1
    return [token_text(tokenizer, i) for i in ids[:length].tolist()]


def token_text(tokenizer: Any, token: int) -> str:
    """One token as a person should see it: special ones by name, a space as '_'."""
    for name in _NAMES:
        if getattr(tokenizer, f"{name}_id", None) == token:
            return f"<{name}>"
    text = tokenizer.decode([token])
    return text.replace(" ", "_") or "?"
