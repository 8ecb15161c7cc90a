"""RNNSeq2Seq in the files of OpenNMT-py."""

from training.weight_naming import Flat, Linear, Naming, Rule, torch_linear


def torch_recurrent(ours: str, theirs: str) -> list[Rule]:
    """A layer of torch's RNN, LSTM or GRU, or one of its cells.

    Args:
        ours: path of a `layers.recurrent.RecurrentLayer`.
        theirs: its tensors' names, with %s for the kind: 'rnn.%s_l{}'.
    """
    return [
        Rule(f"params/{ours}/{part}/{leaf}", theirs % f"{kind}_{suffix}", layout)
        for part, suffix in (("input", "ih"), ("recurrent", "hh"))
        for leaf, kind, layout in (
            ("kernel", "weight", Linear()),
            ("bias", "bias", Flat()),
        )
    ]


def _table(ours: str, theirs: str) -> list[Rule]:
    return [Rule(f"params/{ours}/embedding", f"{theirs}.embeddings.emb.weight")]


def _open_nmt(name: str, layer: str, query: str) -> Naming:
    """A file's table; OpenNMT names by `attention` and `input_feeding` what does the same."""
    return Naming(
        name,
        (
            *_table("source_embedding", "encoder"),
            *_table("target_embedding", "decoder"),
            *torch_recurrent("encoder/layer_{}", "encoder.rnn.%s_l{}"),
            *torch_recurrent("encoder/layer_{}_reverse", "encoder.rnn.%s_l{}_reverse"),
            *torch_recurrent("decoder/layer_{}", layer),
            *torch_linear("cross_attention/query", f"decoder.attn.{query}"),
            *torch_linear("cross_attention/key", "decoder.attn.linear_context"),
            *torch_linear("cross_attention/score", "decoder.attn.v"),
            *torch_linear("readout", "decoder.attn.linear_out"),
            *torch_linear("head", "generator"),
        ),
    )


_LAYERS = {"": "decoder.rnn.%s_l{}", "_input_feeding": "decoder.rnn.layers.{}.%s"}
# Additive ('mlp' there), and general; dot has no query and fits either.
_QUERIES = {"additive": "linear_query", "general": "linear_in"}

NAMINGS = tuple(
    _open_nmt(f"opennmt_{attention}{feeding}", layer, query)
    for attention, query in _QUERIES.items()
    for feeding, layer in _LAYERS.items()
)
