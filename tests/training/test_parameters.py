import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from rich.console import Console

from training import parameters


def shape(*sizes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(sizes, dtype)


def encoder(blocks=3):
    block = {"mlp": {"kernel": shape(4, 8), "bias": shape(8)}, "norm": shape(4)}
    return {
        "encoder": {f"block_{i}": block for i in range(blocks)},
        "head_0": {"kernel": shape(4, 10)},
    }


def render(table, width=120) -> str:
    console = Console(width=width)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def row(text: str, name: str) -> str:
    """The cells after the name, one blank between words."""
    (line,) = [line for line in text.splitlines() if line.split()[:1] == [name]]
    return " ".join(line.split()[1:])


def test_paths_are_names_joined_by_slashes():
    paths = [path for path, _ in parameters.leaves_with_paths(encoder(1))]
    assert paths == [
        "encoder/block_0/mlp/bias",
        "encoder/block_0/mlp/kernel",
        "encoder/block_0/norm",
        "head_0/kernel",
    ]


def test_the_optimizer_s_paths_end_in_the_parameter_s():
    params = {"a": {"kernel": jnp.zeros(2)}}
    state = optax.adam(0.1).init(params)
    paths = [path for path, _ in parameters.leaves_with_paths(state)]
    assert paths == ["0/count", "0/mu/a/kernel", "0/nu/a/kernel"]


def test_map_with_paths_keeps_the_tree():
    tree = {"a": [1, 2], "b": 3}
    mapped = parameters.map_with_paths(lambda path, x, y: (path, x + y), tree, tree)
    assert mapped == {"a": [("a/0", 2), ("a/1", 4)], "b": ("b", 6)}


@pytest.mark.parametrize(
    ("patterns", "path", "expected"),
    [
        ("kernel", "head/kernel", True),
        ("^kernel", "head/kernel", False),
        (("bias$", "kernel$"), "head/kernel", True),
        ((r"block_\d+/mlp",), "encoder/block_11/mlp/kernel", True),
        ((), "head/kernel", False),
    ],
)
def test_a_pattern_is_searched_for_anywhere(patterns, path, expected):
    assert parameters.match(patterns, path) is expected


def test_names_a_pattern_that_is_no_regular_expression():
    with pytest.raises(ValueError, match=r"'\(kernel' is no regular expression"):
        parameters.match(["(kernel"], "head/kernel")


def test_finds_patterns_that_match_nothing():
    patterns = ("kernel$", "decoder", "^block_0")
    assert parameters.unmatched(patterns, encoder()) == ["decoder", "^block_0"]


def test_counts():
    params = {"a": shape(3, 4), "b": shape(5, dtype=jnp.bfloat16), "c": np.float32(1)}
    assert parameters.count(params) == 18
    assert parameters.nbytes(params) == 3 * 4 * 4 + 5 * 2 + 4


def test_numbered_siblings_of_equal_shape_share_a_row():
    text = render(parameters.parameter_table(encoder()))
    assert row(text, "encoder/block_*/mlp/kernel") == "[4, 8] x 3 96 384 B"
    assert row(text, "head_0/kernel") == "[4, 10] 40 160 B"
    assert row(text, "total") == "10 arrays 172 688 B"


def test_siblings_of_other_shape_or_dtype_do_not():
    params = encoder()
    params["encoder"]["block_2"] = {
        "mlp": {"kernel": shape(4, 16), "bias": shape(8, dtype=jnp.bfloat16)}
    }
    text = render(parameters.parameter_table(params))
    assert row(text, "encoder/block_*/mlp/kernel").startswith("float32 [4, 8] x 2")
    assert row(text, "encoder/block_2/mlp/kernel").startswith("float32 [4, 16] ")
    assert "bfloat16 [8]" in text


def test_rows_are_bounded_by_summing_modules():
    params = {f"stage_{'abcdefgh'[i]}": encoder() for i in range(8)}
    text = render(parameters.parameter_table(params, max_rows=10))
    assert row(text, "stage_c") == "10 arrays 172 688 B"
    assert len([line for line in text.splitlines() if "arrays" in line]) == 8 + 2
    single = {"a": {"b": {"kernel": shape(3)}}, "c": encoder()}
    text_of_one = render(parameters.parameter_table(single, depth=1))
    assert row(text_of_one, "a/b/kernel") == "[3] 3 12 B"
    by_hand = render(parameters.parameter_table(params, depth=1))
    assert by_hand == text


def test_shows_how_each_array_is_split():
    mesh = jax.make_mesh((4, 2), ("fsdp", "model"), (AxisType.Auto,) * 2)
    params = {"kernel": shape(8, 6), "bias": shape(6), "scale": shape(3)}
    specs = {
        "kernel": PartitionSpec("fsdp", "model"),
        "bias": PartitionSpec(("fsdp",), None),
        "scale": PartitionSpec(),
    }
    params["bias"] = shape(8, 6)
    shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
    text = render(parameters.parameter_table(params, shardings=shardings))
    assert row(text, "kernel").endswith("fsdp, model")
    assert row(text, "bias").endswith("B fsdp")
    assert row(text, "scale").endswith("replicated")
    per_device = 8 * 6 * 4 / 8 + 8 * 6 * 4 / 4 + 3 * 4
    assert parameters.nbytes_per_device(params, shardings) == per_device
    assert f"{per_device:.0f} B a device" in text


def test_a_real_sharding_of_real_arrays_agrees():
    mesh = jax.make_mesh((8,), ("fsdp",), (AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("fsdp"))
    array = jax.device_put(jnp.zeros((16, 3)), sharding)
    expected = array.addressable_shards[0].data.nbytes
    assert parameters.nbytes_per_device([array], [sharding]) == expected
    assert parameters.nbytes([array]) == 8 * expected


def test_sizes_for_people():
    texts = [parameters.bytes_text(n) for n in (0, 1023, 1536, 5 * 2**30, 2**41)]
    assert texts == ["0 B", "1023 B", "1.5 KiB", "5.0 GiB", "2.0 TiB"]
