"""BERT and RoBERTa in the files of Hugging Face."""

from training.weight_naming import Naming, Rule, same, torch_linear, torch_norm

# How a file calls a norm's scale and bias: the first ones were translated from TensorFlow.
TORCH_NORM = ("weight", "bias")
TENSORFLOW_NORM = ("gamma", "beta")


def norm(ours: str, theirs: str, leaves: tuple[str, str] = TORCH_NORM) -> list[Rule]:
    return [
        Rule(f"params/{ours}/{leaf}", f"{theirs}.{name}")
        for leaf, name in zip(("scale", "bias"), leaves, strict=True)
    ]


def embeddings(
    ours: str, theirs: str, leaves: tuple[str, str] = TORCH_NORM
) -> list[Rule]:
    """`nlp.layers.embeddings.SummedEmbeddings` without its projection."""
    return [
        *same(f"{ours}/token/embedding", f"{theirs}.word_embeddings.weight"),
        *same(f"{ours}/position/embedding", f"{theirs}.position_embeddings.weight"),
        *same(f"{ours}/type/embedding", f"{theirs}.token_type_embeddings.weight"),
        *norm(f"{ours}/norm", f"{theirs}.LayerNorm", leaves),
    ]


def block(ours: str, theirs: str, leaves: tuple[str, str] = TORCH_NORM) -> list[Rule]:
    """A post-norm block."""
    return [
        *(
            rule
            for name in ("query", "key", "value")
            for rule in torch_linear(
                f"{ours}/attention/{name}", f"{theirs}.attention.self.{name}"
            )
        ),
        *torch_linear(
            f"{ours}/attention/out", f"{theirs}.attention.output.dense", in_axes=2
        ),
        *norm(f"{ours}/attention_norm", f"{theirs}.attention.output.LayerNorm", leaves),
        *torch_linear(f"{ours}/mlp/up", f"{theirs}.intermediate.dense"),
        *torch_linear(f"{ours}/mlp/down", f"{theirs}.output.dense"),
        *norm(f"{ours}/mlp_norm", f"{theirs}.output.LayerNorm", leaves),
    ]


def masked_head(leaves: tuple[str, str] = TORCH_NORM) -> list[Rule]:
    return [
        *torch_linear("masked_head/dense", "cls.predictions.transform.dense"),
        *norm("masked_head/norm", "cls.predictions.transform.LayerNorm", leaves),
        *same("masked_head/bias", "cls.predictions.bias"),
    ]


# The embeddings and the bias once more, and places counted.
TIED = (
    r"cls\.predictions\.decoder\.(weight|bias)",
    r"(.+\.)?embeddings\.position_ids",
)


def _bert(name: str, leaves: tuple[str, str]) -> Naming:
    return Naming(
        name,
        (
            *embeddings("embeddings", "embeddings", leaves),
            *block("encoder/block_{}", "encoder.layer.{}", leaves),
            *masked_head(leaves),
            *torch_linear("pooler", "pooler.dense"),
            *torch_linear("next_head", "cls.seq_relationship"),
        ),
        ignored=TIED,
        prefixes=("bert.",),
    )


BERT = _bert("hugging_face_bert", TORCH_NORM)
BERT_TENSORFLOW = _bert("hugging_face_bert_tensorflow", TENSORFLOW_NORM)

ROBERTA = Naming(
    "hugging_face_roberta",
    (
        *embeddings("embeddings", "embeddings"),
        *block("encoder/block_{}", "encoder.layer.{}"),
        *torch_linear("masked_head/dense", "lm_head.dense"),
        *torch_norm("masked_head/norm", "lm_head.layer_norm"),
        *same("masked_head/bias", "lm_head.bias"),
        *torch_linear("pooler", "pooler.dense"),
    ),
    # Files hold a pooler that was never trained, for it had no question to answer.
    ignored=(
        r"lm_head\.decoder\.(weight|bias)",
        r"embeddings\.position_ids",
        r"pooler\.dense\.(weight|bias)",
    ),
    prefixes=("roberta.",),
)

NAMINGS = (BERT, BERT_TENSORFLOW, ROBERTA)
