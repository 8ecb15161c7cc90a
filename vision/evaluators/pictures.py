"""Pictures of what a model has learned: positions, attention, filters, features.

What a model lacks is left out, so that one entry under `evals` serves any of them. The
drawing is that of `vision.plots`, which names the papers. t-SNE: L. van der Maaten,
G. Hinton, "Visualizing Data using t-SNE", 2008,
https://www.jmlr.org/papers/v9/vandermaaten08a.html.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from training.evaluation import Batches, Report
from training.features import extract
from vision import plots

PICTURES = ("position_similarity", "attention", "filters", "features")
PROJECTIONS = ("pca", "tsne")
_COMPONENTS = 28  # of patch filters, as in the ViT paper
_TSNE_DIMS = 50  # t-SNE's distances are those between so many principal components


@dataclasses.dataclass(frozen=True, kw_only=True)
class RepresentationPictures:
    """An evaluator, see `training.evaluation`: no metrics, up to four pictures.

    - `position_similarity`: cosines between the rows of a learned `position_embedding`.
    - `attention`: of a ViT's class token in the last block, and its rollout over all.
    - `filters`: the first layer's kernel, `patch_embedding` or else the first convolution
      on the image's channels; of the former also the principal components.
    - `features`: `represent` of some examples, projected onto a plane.

    The network is the model itself or what it holds as `backbone`. The moving average of
    the parameters counts where there is one.

    Args:
        data: a `data.pipeline.Pipeline`; of its examples a random part is shown, the same
            in every call.
        show: which pictures.
        num_images: rows of `attention`.
        points: dots of `features`.
        projection: 'pca', or 'tsne' (scikit-learn's; seconds for 1000 points).
        label_key: where a batch holds the class that colours a dot; without such a field,
            or with several classes per image, all dots have one colour.
        seed: of the choice of examples, and of t-SNE.
    """

    data: Any
    show: tuple[str, ...] = PICTURES
    num_images: int = 8
    points: int = 1000
    projection: str = "pca"
    label_key: str = "label"
    seed: int = 0
    _sample: Any = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self):
        for name, values, known in (
            ("show", self.show, PICTURES),
            ("projection", (self.projection,), PROJECTIONS),
        ):
            unknown = [value for value in values if value not in known]
            if unknown:
                raise ValueError(f"{name} is {unknown[0]!r}; known: {', '.join(known)}")
        for name in ("num_images", "points"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(
                    f"{name} is {value}; it must be positive: leave the picture out of "
                    "show instead"
                )
        count = max(self.points, self.num_images)
        sample = Sample(self.data.source, count, self.seed)
        object.__setattr__(
            self, "_sample", dataclasses.replace(self.data, source=sample)
        )

    def __call__(self, run: Any, state: Any) -> Report:
        """Raises RunError for unreadable data."""
        with Batches(self._sample, run, self.num_images) as batches:
            batch = next(batches)
        pictures, skipped = self._network(run, state, batch), 0
        model = run.experiment.task.model
        if "features" in self.show and hasattr(model, "represent"):
            labelled = self.label_key in batch and batch[self.label_key].ndim == 1
            keys = (self.label_key,) if labelled else ()
            found = extract(run, state, self._sample, keys=keys, limit=self.points)
            skipped = min(self.points, len(self._sample)) - len(found)
            pictures |= self._features(run, found)
        return Report({}, pictures, skipped)

    def _network(self, run: Any, state: Any, batch: Any) -> dict[str, np.ndarray]:
        """All pictures but the features."""
        function = functools.partial(look, count=self.num_images, show=self.show)
        key = ("representation pictures", self.num_images, self.show)
        found = jax.device_get(run.compile(function, key=key)(state, batch))
        grid = patch_grid(state.eval_params, found["image"].shape)
        real = found["mask"]
        pictures = {}
        if "positions" in found:
            positions = found["positions"]
            pictures["position_similarity"] = plots.position_similarity(positions, grid)
        if "kernel" in found:
            components = _COMPONENTS if grid else 0
            pictures["filters"] = plots.filters(found["kernel"], components=components)
        if "attention" in found and real.any():
            patches = slice(-grid[0] * grid[1], None)  # the last tokens
            rollout = plots.attention_rollout(found["means"])[:, 0, patches]
            pictures["attention"] = plots.attention_maps(
                run.experiment.task.denormalize(found["image"])[real],
                found["attention"][real][..., patches],
                grid,
                rollout=rollout[real],
            )
        return pictures

    def _features(self, run: Any, found: Any) -> dict[str, np.ndarray]:
        values = found.values.reshape(len(found), -1)
        finite = np.isfinite(values).all(1)
        if finite.sum() < 2:
            return {}
        labels = found.fields.get(self.label_key)
        names = getattr(run.experiment.task, "class_names", ())
        names = names or getattr(self.data.source, "classes", ())
        points, title = project(values[finite], self.projection, self.seed)
        labels = None if labels is None else labels[finite]
        return {"features": plots.scatter(points, labels, names, title)}


class Sample:
    """A random part of a source, in random order: a source.

    Args:
        source: `len`, `[i]`, optionally `features` and `describe(i)`.
        count: examples, or all if there are fewer.
        seed: of the choice.
    """

    def __init__(self, source: Any, count: int, seed: int):
        self._source = source
        self._indices = np.random.default_rng(seed).permutation(len(source))[:count]
        self.features = getattr(source, "features", None)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._source[int(self._indices[index])]

    def describe(self, index: int) -> str:
        """Names the source's record in an error."""
        index = int(self._indices[index])
        describe = getattr(self._source, "describe", None)
        return describe(index) if describe else f"record {index}"


def look(
    state: Any, batch: Any, *, task: Any, count: int, show: tuple[str, ...]
) -> dict[str, Any]:
    """What the pictures need of the parameters and the first `count` examples.

    Returns:
        `image` [B, H, W, C] as the model sees it, `mask` bool [B], and what the model has
        of: `positions` [h * w, D]; `kernel` [P, Q, C, D]; `attention` [B, N, T], of the
        class token in the last block; `means` of all blocks' heads, a list of
        [B, 1, T, T]. All float32.
    """
    batch = jax.tree.map(lambda x: x[:count] if x.ndim else x, dict(batch))
    inputs = task.plain_inputs(batch)
    image, net = inputs[0], network(state.eval_params)
    found = {"image": image, "mask": batch["mask"]}
    grid = patch_grid(net, image.shape)
    kernel = first_kernel(net, image.shape[-1])
    if "filters" in show and kernel is not None:
        found["kernel"] = kernel
    if grid and "position_similarity" in show and "position_embedding" in net:
        positions = net["position_embedding"]
        positions = positions.reshape(-1, positions.shape[-1])
        if len(positions) >= grid[0] * grid[1]:
            found["positions"] = positions[-grid[0] * grid[1] :]
    if grid and "attention" in show and "class_token" in net:
        weights = attention_weights(state, inputs, task.model)
        if weights:
            found["attention"] = weights[-1][:, :, 0]
            found["means"] = [w.mean(1, keepdims=True) for w in weights]
    return jax.tree.map(lambda x: x if x.dtype == bool else x.astype("float32"), found)


def network(params: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a tree that belongs to the network itself, inside any `backbone`."""
    while "backbone" in params:
        params = params["backbone"]
    return params


def patch_grid(
    params: Mapping[str, Any], image_shape: tuple[int, ...]
) -> tuple[int, int] | None:
    """(rows, columns) of patches, or None for a network without `patch_embedding`."""
    kernel = network(params).get("patch_embedding", {}).get("kernel")
    if kernel is None or kernel.ndim != 4:
        return None
    return image_shape[1] // kernel.shape[0], image_shape[2] // kernel.shape[1]


def first_kernel(params: Mapping[str, Any], channels: int) -> Any:
    """[P, Q, C, D] of the layer that sees the image, or None.

    `patch_embedding`, else `stem_conv`, else the first by name that takes C = `channels`.
    """
    net = network(params)
    for name in ("patch_embedding", "stem_conv"):
        kernel = net.get(name, {}).get("kernel")
        if kernel is not None and kernel.ndim == 4:
            return kernel
    for path, leaf in jax.tree_util.tree_leaves_with_path(net):
        if path[-1].key == "kernel" and leaf.ndim == 4 and leaf.shape[2] == channels:
            return leaf
    return None


def attention_weights(state: Any, inputs: tuple, model: Any) -> list[jax.Array]:
    """[B, N, T, T] of every block of a network's encoder while it represents examples."""
    _, found = model.apply(
        {"params": state.eval_params, **state.collections},
        *inputs,
        train=False,
        method="represent",
        mutable=["attention_weights"],
    )
    encoder = network(found.get("attention_weights", {})).get("encoder", {})
    if "blocks" in encoder:  # scanned
        return list(encoder["blocks"]["attention"]["weights"][0])
    blocks = [encoder.get(f"block_{i}", {}) for i in range(len(encoder))]
    return [b["attention"]["weights"][0] for b in blocks if "attention" in b]


def project(values: np.ndarray, projection: str, seed: int) -> tuple[np.ndarray, str]:
    """Features on a plane, and a line that says how.

    Args:
        values: float [N, D], N >= 2, finite.
        projection: 'pca' or 'tsne'.
        seed: of t-SNE.

    Returns:
        float64 [N, 2] and the line.
    """
    dims = 2 if projection == "pca" else _TSNE_DIMS
    points, _ = plots.principal_components(values, dims)
    if projection == "pca" or len(values) < 4:  # too few for neighbourhoods
        total = values.var(0, dtype=np.float64).sum()
        share = points[:, :2].var(0).sum() / max(total, 1e-30)
        title = f"PCA of {len(values)} features: {100 * share:.0f} % of the variance"
        missing = max(0, 2 - points.shape[1])
        return np.pad(points[:, :2], ((0, 0), (0, missing))), title
    # Imported here: a second, for those who ask for t-SNE.
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits  # scikit-learn's own

    perplexity = min(30.0, (len(values) - 1) / 3)
    tsne = TSNE(
        perplexity=perplexity,
        init="pca" if points.shape[1] > 1 else "random",
        random_state=seed,
    )
    # The result depends on the number of threads, and many are slow on a busy machine.
    with threadpool_limits(1):
        points = tsne.fit_transform(points.astype(np.float32)).astype(np.float64)
    return points, f"t-SNE of {len(values)} features, perplexity {perplexity:.0f}"
