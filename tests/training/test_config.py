import pytest
import toy_experiment
from ml_collections import ConfigDict

from training import config as configs
from training.errors import ConfigError


def test_build_calls_children_first_and_makes_lists_tuples():
    node = {
        "type": "collections.Counter",
        "a": [1, [2, 3]],
        "b": {"type": "fractions.Fraction", "numerator": 3, "denominator": 4},
    }
    built = configs.build(node)
    assert built["a"] == (1, (2, 3))
    assert built["b"] == 0.75


def test_plain_dicts_stay_dicts():
    assert configs.build({"mesh": {"data": -1}}) == {"mesh": {"data": -1}}


@pytest.mark.parametrize(
    ("node", "words"),
    [
        ({"type": "optax.adamww"}, ["optax.adamww", "did you mean 'adamw'"]),
        ({"type": "nosuch.thing"}, ["nosuch"]),
        ({"type": "lion"}, ["'lion'", "dotted path"]),
        (
            {"type": "optax.adamw", "learning_rat": 1},
            ["learning_rat", "did you mean 'learning_rate'"],
        ),
        ({"type": "optax.adamw"}, ["needs 'learning_rate'"]),
        (
            {"type": "training.optimizer.warmup_cosine", "peak": 1, "total_steps": 5}
            | {"warmup_steps": 9},
            ["warm-up", "9", "5"],
        ),
        ({"type": "toy_experiment.Net", "widht": 3}, ["widht", "'width'"]),
    ],
)
def test_wrong_nodes_are_one_line_with_the_place_and_the_remedy(node, words):
    with pytest.raises(ConfigError) as caught:
        configs.build({"model": node})
    message = str(caught.value)
    assert "config.model" in message and "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batchsize": 3}, ["batchsize", "did you mean 'batch_size'"]),
        ({"batch_size": 0}, ["batch_size is 0"]),
        ({"total_steps": 2.5}, ["total_steps is 2.5"]),
        ({"batch_size": 9, "accumulation_steps": 2}, ["9", "accumulation_steps 2"]),
        ({"ema_decay": 1.0}, ["ema_decay"]),
        ({"best_mode": "most"}, ["'most'"]),
    ],
)
def test_wrong_experiments_are_one_line(change, words):
    with pytest.raises(ConfigError) as caught:
        configs.experiment(toy_experiment.config(**change))
    for word in words:
        assert word in str(caught.value)


def test_a_missing_key_is_named():
    config = toy_experiment.config()
    del config["optimizer"]
    with pytest.raises(ConfigError, match="needs 'optimizer'"):
        configs.experiment(config)


def test_plain_resolves_references_and_survives_json():
    config = ConfigDict({"total_steps": 10, "shape": (1, 2)})
    config.warmup_steps = config.get_oneway_ref("total_steps") // 5
    config.total_steps = 100
    assert configs.plain(config) == {
        "total_steps": 100,
        "shape": [1, 2],
        "warmup_steps": 20,
    }


def test_plain_refuses_objects():
    with pytest.raises(ConfigError, match="plain data"):
        configs.plain({"model": object()})


def test_written_config_builds_the_same_experiment(tmp_path):
    config = configs.plain(toy_experiment.config(ema_decay=0.99))
    configs.write(config, tmp_path)
    assert configs.read(tmp_path) == config
    assert configs.experiment(configs.read(tmp_path)).ema_decay == 0.99


def test_differences_name_the_path():
    old = {"a": {"b": 1, "c": 2}, "d": [1]}
    assert configs.differences(old, {"a": {"b": 1, "c": 3}, "d": [1], "e": 0}) == [
        "a.c: 2 -> 3",
        "e: '(none)' -> 0",
    ]


FOLLOWING = """
from ml_collections import ConfigDict

def get_config(steps="10"):
    config = ConfigDict()
    config.total_steps = int(steps)
    config.data = dict(transforms=(dict(type="a"),), size=3)
    config.optimizer = dict(warmup=config.get_oneway_ref("total_steps") // 5)
    config.init_from = dict(path="x")
    return config
"""


def test_changes_are_made_before_references_are_resolved(tmp_path):
    path = tmp_path / "following.py"
    path.write_text(FOLLOWING)
    assert configs.load(f"{path}:20")["optimizer"]["warmup"] == 4
    found = configs.load(
        str(path),
        [
            ("total_steps", 100),
            ("data.transforms", ({"type": "b"}, {"type": "c"})),
            ("data.new", 1.5),
            ("init_from", None),
        ],
    )
    assert found == {
        "total_steps": 100,
        "data": {"transforms": [{"type": "b"}, {"type": "c"}], "size": 3, "new": 1.5},
        "optimizer": {"warmup": 20},
        "init_from": None,
    }
    with pytest.raises(ConfigError, match=r"no 'date.size'; it ends at 'date'"):
        configs.load(str(path), [("date.size", 1)])
    with pytest.raises(ConfigError, match=r"no 'data.size.x.y'; it ends at 'x'"):
        configs.load(str(path), [("data.size.x.y", 1)])
    with pytest.raises(ConfigError, match="following.py:ten: invalid literal"):
        configs.load(f"{path}:ten")
    with pytest.raises(ConfigError, match="no config 'nowhere.py'"):
        configs.load("nowhere.py")
