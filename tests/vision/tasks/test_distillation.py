"""Distillation: both losses by hand, a teacher that stays as it is, padding, errors."""

import functools
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from layers.normalization import BatchNorm
from training import optimizer, state, step
from vision.models.deit import DeiT, Lesson, StudentAndTeacher
from vision.tasks.distillation import Distillation

STUDENT = DeiT(
    num_classes=4, patch_size=4, embed_dim=8, num_layers=1, num_heads=2, mlp_dim=8
)


class Teacher(nn.Module):
    """Has statistics that training would change, were it not frozen."""

    num_classes: int

    @nn.compact
    def __call__(self, image, *, train=False):
        x = image.reshape(len(image), -1)
        x = BatchNorm(use_running_average=not train, name="norm")(x)
        init = nn.initializers.normal(1.0)
        return nn.Dense(self.num_classes, kernel_init=init, name="head")(x)


PAIR = StudentAndTeacher(student=STUDENT, teacher=Teacher(4))


def make_batch(size=6):
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (size, 8, 8, 1), np.uint8),
        "label": np.arange(size) % 4,
    }


def log_softmax(logits, temperature=1.0):
    logits = logits / temperature
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def random_lesson(size=6):
    rng = np.random.default_rng(2)
    return [rng.normal(size=(size, 4)).astype(np.float32) for _ in range(3)]


def test_hard_loss_by_hand():
    batch, (logits, distilled, teacher) = make_batch(), random_lesson()
    task = Distillation(model=PAIR, share=0.25)
    scalar, metrics = task.loss(Lesson(*map(jnp.asarray, random_lesson())), batch)
    rows = np.arange(6)
    by_label = -log_softmax(logits)[rows, batch["label"]].mean()
    by_teacher = -log_softmax(distilled)[rows, teacher.argmax(-1)].mean()
    np.testing.assert_allclose(scalar, 0.75 * by_label + 0.25 * by_teacher, rtol=1e-6)
    np.testing.assert_allclose(metrics["label_loss"].compute(), by_label, rtol=1e-6)
    np.testing.assert_allclose(
        metrics["distillation_loss"].compute(), by_teacher, rtol=1e-6
    )
    agreement = (distilled.argmax(-1) == teacher.argmax(-1)).mean()
    np.testing.assert_allclose(metrics["agreement"].compute(), agreement)
    hits = (logits.argmax(-1) == batch["label"]).mean()
    np.testing.assert_allclose(metrics["accuracy"].compute(), hits)


def test_soft_loss_by_hand():
    batch, (logits, distilled, teacher) = make_batch(), random_lesson()
    task = Distillation(model=PAIR, kind="soft", share=0.1, temperature=3.0)
    scalar, _ = task.loss(Lesson(*map(jnp.asarray, random_lesson())), batch)
    by_label = -log_softmax(logits)[np.arange(6), batch["label"]].mean()
    p, q = log_softmax(teacher, 3.0), log_softmax(distilled, 3.0)
    by_teacher = 9 * (np.exp(p) * (p - q)).sum(-1).mean()
    np.testing.assert_allclose(scalar, 0.9 * by_label + 0.1 * by_teacher, rtol=1e-5)


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_padding_and_the_teacher_get_no_gradient(kind):
    task = Distillation(model=PAIR, kind=kind)
    batch = {**make_batch(), "mask": np.arange(6) < 4}
    lesson = random_lesson()
    for logits in lesson:
        logits[4:] = np.inf
    outputs = Lesson(*map(jnp.asarray, lesson))
    gradient = jax.grad(lambda outputs: task.loss(outputs, batch)[0])(outputs)
    np.testing.assert_array_equal(gradient.teacher_logits, 0)
    for part in (gradient.logits, gradient.distillation_logits):
        assert (np.abs(part[:4]).sum(-1) > 0).all()
        np.testing.assert_array_equal(part[4:], 0)
    few = {name: x[:4] for name, x in batch.items() if name != "mask"}
    alone = task.loss(jax.tree.map(lambda x: x[:4], outputs), few)
    masked = task.loss(outputs, batch)
    np.testing.assert_allclose(masked[0], alone[0], rtol=1e-6)
    for name, metric in alone[1].items():
        np.testing.assert_allclose(metric.total, masked[1][name].total, rtol=1e-6)
        assert metric.count == masked[1][name].count == 4


def test_the_teacher_stays_as_it_is_and_has_no_optimizer_state():
    task = Distillation(model=PAIR)
    rule = optimizer.with_rules(optax.adamw(1e-2), frozen=("^teacher/",))
    batch = make_batch()

    @jax.jit
    def run():
        before = state.create(task, rule, batch, seed=0, ema=False)
        update = functools.partial(step.train_step, task=task, optimizer=rule)
        return before, update(before, batch)

    before, (after, metrics) = run()
    assert {"loss", "label_loss", "distillation_loss", "agreement"} <= set(metrics)
    same = functools.partial(jax.tree.map, np.testing.assert_array_equal)
    same(before.params["teacher"], after.params["teacher"])
    same(before.collections, after.collections)
    assert "teacher" in before.collections["batch_stats"]
    for old, new in zip(
        jax.tree.leaves(before.params["student"]),
        jax.tree.leaves(after.params["student"]),
        strict=True,
    ):
        assert not np.array_equal(old, new)
    moments = [
        "/".join(str(getattr(key, "key", key)) for key in path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(before.opt_state)
        if leaf.ndim
    ]
    assert any("student" in path for path in moments)
    assert not any("teacher" in path for path in moments)


def test_in_evaluation_the_student_answers_alone():
    task, batch = Distillation(model=PAIR), make_batch()

    @jax.jit
    def run():
        params, collections = task.init(jax.random.key(0), batch)
        outputs, prepared, _ = task.apply(
            params, collections, batch, rng=jax.random.key(1), train=False
        )
        image = task.normalize(jnp.asarray(batch["image"]))
        alone = STUDENT.apply({"params": params["student"]}, image)
        features = task.represent(params, collections, batch)
        return outputs, alone, features, task.loss(outputs, prepared)[1]

    outputs, alone, features, metrics = run()
    np.testing.assert_array_equal(outputs, alone)
    assert features.shape == (6, 8)
    assert set(metrics) == {"loss", "accuracy"}


class OneHead(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, image, *, train=False):
        return nn.Dense(self.num_classes)(image.reshape(len(image), -1))


def test_a_student_with_one_head_learns_both_with_it():
    pair = StudentAndTeacher(student=OneHead(4), teacher=Teacher(4))
    image = jnp.asarray(make_batch()["image"] / 255, jnp.float32)
    variables = pair.init(jax.random.key(0), image)
    lesson = pair.apply(variables, image, train=True)
    np.testing.assert_array_equal(lesson.logits, lesson.distillation_logits)
    assert not np.array_equal(lesson.logits, lesson.teacher_logits)


def test_a_student_follows_its_teacher_where_labels_say_nothing():
    """With the teacher's share at 1 and random labels, it comes to agree with it."""
    pair = StudentAndTeacher(student=OneHead(4), teacher=Teacher(4))
    task, rule = Distillation(model=pair, share=1.0), optax.adam(1e-2)
    rule = optimizer.with_rules(rule, frozen=("^teacher/",))
    batch = make_batch(32)

    @jax.jit
    def run():
        before = state.create(task, rule, batch, seed=0, ema=False)

        def body(carry, _):
            carry, metrics = step.train_step(carry, batch, task=task, optimizer=rule)
            return carry, metrics["agreement"].compute()

        return jax.lax.scan(body, before, None, length=60)[1]

    agreement = run()
    assert agreement[0] < 0.7 and agreement[-1] > 0.95


def test_classes_must_agree():
    pair = StudentAndTeacher(student=STUDENT, teacher=Teacher(7))
    with pytest.raises(ValueError, match="num_classes=4 and the teacher 7"):
        pair.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "warm"}, "kind is 'warm'; known: hard, soft"),
        ({"share": 1.5}, r"share is 1.5; .*\[0, 1\]"),
        ({"temperature": 0.0}, "temperature is 0.0; it must be positive"),
    ],
)
def test_bad_fields(fields, message):
    with pytest.raises(ValueError, match=message):
        Distillation(model=types.SimpleNamespace(num_classes=4), **fields)
