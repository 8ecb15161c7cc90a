"""GoogLeNet: parity, published counts, both forms, auxiliary classifiers, learning."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.models import googlenet
from vision.models.googlenet import GoogLeNet, GoogLeNetPaper

# Enough for both auxiliary classifiers, and compiled in half the time.
FEW_BLOCKS = {
    stage: {letter: googlenet.STAGES[stage][letter] for letter in letters}
    for stage, letters in {"3": "a", "4": "ad", "5": "b"}.items()
}


@pytest.fixture
def few_blocks(monkeypatch):
    monkeypatch.setattr(googlenet, "STAGES", FEW_BLOCKS)


def test_parity(parity, imported, assert_parity):
    name = "googlenet_aux"
    model = GoogLeNet(num_classes=10)
    variables = imported(model, name)

    @jax.jit
    def run(variables, image):
        logits = model.apply(variables, image)
        return logits, *model.apply(variables, image, method="auxiliary_logits")

    outputs = run(variables, parity(name)[1]["in_x_nhwc"])
    for output, ours in zip(("logits", "aux1", "aux2"), outputs, strict=True):
        assert_parity(name, output, ours)


@pytest.mark.parametrize(
    ("make", "auxiliary", "expected"),
    [
        (GoogLeNet, True, 13_004_888),
        (GoogLeNet, False, 6_624_904),
        (GoogLeNetPaper, True, 13_378_280),
        (GoogLeNetPaper, False, 6_998_552),
    ],
)
def test_published_parameter_counts(make, auxiliary, expected, count_parameters):
    model = make(num_classes=1000, auxiliary=auxiliary)
    assert count_parameters(model, (1, 224, 224, 3)) == expected


@pytest.mark.parametrize(("auxiliary", "statistics"), [(True, 15_072), (False, 14_560)])
def test_statistics_are_as_many_as_published(auxiliary, statistics):
    model = GoogLeNet(num_classes=1000, auxiliary=auxiliary)
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    sizes = [x.size for x in jax.tree.leaves(variables["batch_stats"])]
    assert sum(sizes) == statistics


@pytest.mark.parametrize("make", [GoogLeNet, GoogLeNetPaper])
def test_maps_have_the_papers_sizes(make, stage_shapes):
    shapes = stage_shapes(make(num_classes=0), (1, 224, 224, 3))
    # Table 1 of the paper: the outputs of inception 3b, 4e and 5b.
    expected = [(28, 28, 480), (14, 14, 832), (7, 7, 1024)]
    assert [shape[1:] for shape in shapes] == expected


def small(form="torchvision", **fields):
    fields = {"dropout_rate": 0.0, "auxiliary_dropout_rate": 0.0, **fields}
    return GoogLeNet(num_classes=3, form=form, width_factor=1 / 16, **fields)


IMAGE = jnp.asarray(np.random.default_rng(7).normal(size=(4, 32, 33, 3)), jnp.float32)


@pytest.fixture(scope="module")
def trained(random_variables):
    """(variables, logits, updates, outputs in training, updates)."""
    model = small()

    @jax.jit
    def run(variables):
        return (
            *model.apply(variables, IMAGE, mutable=list(variables)),
            *model.apply(variables, IMAGE, train=True, mutable=list(variables)),
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(googlenet, "STAGES", FEW_BLOCKS)
        variables = random_variables(model, IMAGE)
        return variables, *run(variables)


def test_auxiliary_classifiers_speak_in_training_only(trained):
    variables, evaluated, _, outputs, _ = trained
    assert evaluated.shape == (4, 3)
    assert isinstance(outputs, tuple) and [x.shape for x in outputs] == [(4, 3)] * 3
    assert {"auxiliary_0", "auxiliary_1"} <= set(variables["params"])


def test_training_updates_statistics_and_evaluation_does_not(trained):
    variables, _, unchanged, _, updated = trained
    before = jax.tree.leaves(variables["batch_stats"])
    after = jax.tree.leaves(updated["batch_stats"])
    same = jax.tree.leaves(unchanged["batch_stats"])
    assert len(before) == 2 * (3 + 6 * 4 + 2)
    for old, new, kept in zip(before, after, same, strict=True):
        np.testing.assert_array_equal(old, kept)
        assert not np.array_equal(old, new)


@pytest.mark.slow
def test_an_auxiliary_loss_reaches_the_blocks_below_it_only(
    random_variables, few_blocks
):
    model = small("paper")
    params = random_variables(model, IMAGE)["params"]

    @jax.jit
    def gradients(params):
        def losses(params):
            outputs = model.apply({"params": params}, IMAGE[:1], train=True)
            return jnp.stack([jnp.square(x).sum() for x in outputs])

        return jax.jacrev(losses)(params)

    jacobian = gradients(params)

    def reached(i):
        return {
            name.removeprefix("inception_")
            for name, tree in jacobian.items()
            if name.startswith("inception")
            and any(x[i].any() for x in map(np.asarray, jax.tree.leaves(tree)))
        }

    whole, first, second = map(reached, (0, 1, 2))
    assert whole == {"3a", "4a", "4d", "5b"}
    assert first == {"3a", "4a"} and second == {"3a", "4a", "4d"}


def test_the_paper_has_large_windows_and_biases_in_place_of_norms():
    shapes = {
        form: jax.eval_shape(small(form).init, jax.random.key(0), IMAGE)["params"]
        for form in ("paper", "torchvision")
    }
    block = shapes["paper"]["inception_3a"]
    assert block["large"]["conv"]["kernel"].shape[:2] == (5, 5)
    assert "bias" in block["one"]["conv"] and "norm" not in block["one"]
    block = shapes["torchvision"]["inception_3a"]
    assert block["large"]["conv"]["kernel"].shape[:2] == (3, 3)
    assert "bias" not in block["one"]["conv"] and "norm" in block["one"]


@pytest.mark.parametrize(
    ("form", "rate", "share"),
    [("torchvision", None, 0.2), ("paper", None, 0.4), ("paper", 0.1, 0.1)],
)
def test_dropout_rates_are_the_forms_unless_told(form, rate, share):
    model = GoogLeNet(num_classes=0, form=form, dropout_rate=rate)
    ones = jnp.ones((200, 1, 1, 100))  # so that every zero is a unit dropped
    rngs = {"dropout": jax.random.key(1)}
    vectors = model.apply({}, ones, train=True, rngs=rngs, method=GoogLeNet._pool)
    assert abs((vectors == 0).mean() - share) < 0.02


def test_without_a_head_it_gives_the_representation(random_variables, few_blocks):
    model = GoogLeNet(num_classes=0, form="paper", width_factor=1 / 32)
    variables = random_variables(model, IMAGE)
    assert not {"head", "auxiliary_0"} & set(variables["params"])

    @jax.jit
    def run(variables):
        methods = ("__call__", "represent", "features", "stages", "auxiliary_logits")
        return [model.apply(variables, IMAGE, method=name) for name in methods]

    output, vectors, features, stages, auxiliary = run(variables)
    np.testing.assert_array_equal(output, vectors)
    np.testing.assert_array_equal(stages[-1], features)
    np.testing.assert_allclose(features.mean((1, 2)), vectors, rtol=1e-5)
    assert len(stages) == 3 and auxiliary == ()


@pytest.mark.slow
def test_it_learns_a_handful_of_images(overfit, monkeypatch):
    monkeypatch.setattr(googlenet, "STAGES", {"3": FEW_BLOCKS["3"]})
    model = small(auxiliary=False)
    losses = overfit(model, IMAGE[:3], steps=25, learning_rate=1e-2)
    assert losses[0] > 0.8 and losses[-1] < 0.1


def test_half_precision_keeps_float32_parameters_and_statistics(assert_half_precision):
    assert_half_precision(small(dtype="bfloat16"), IMAGE, train=True, statistics=True)


def test_errors_name_the_value():
    with pytest.raises(ValueError, match="form is 'caffe'; known: torchvision, paper"):
        jax.eval_shape(small("caffe").init, jax.random.key(0), IMAGE)
    with pytest.raises(ValueError, match="map of 1x1 is too small to pool by windows"):
        jax.eval_shape(small().init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
