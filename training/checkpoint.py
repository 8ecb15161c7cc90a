"""Checkpoints with orbax: asynchronous, atomic, and checked when they are read.

A checkpoint holds the state, its fingerprint (orbax does not notice a flipped byte) and
the metrics of the log window it interrupts. A checkpoint that cannot be trusted is moved
aside, never deleted, and the one before it is used.
"""

import dataclasses
import logging
import pathlib
import shutil
import sys
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from training import errors
from training.parameters import path_string

FOLDER = "checkpoints"
ASIDE = "unreadable_checkpoints"


@dataclasses.dataclass(frozen=True)
class Restored:
    """A checkpoint read back: its step, the state, and what was saved beside it."""

    step: int
    state: Any
    extra: dict[str, Any]
    metrics: dict[str, float]


class Checkpointer:
    """Saves and restores the states of one run.

    Args:
        workdir: the run's folder.
        keep: how many of the newest stay.
        best_metric: also keep the best by this metric.
        best_mode: 'max' or 'min'.
        read_only: never writes, moves or deletes anything.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        *,
        keep: int = 2,
        best_metric: str | None = None,
        best_mode: str = "max",
        read_only: bool = False,
    ):
        self._workdir = workdir.absolute()
        self._folder = self._workdir / FOLDER
        self._best = (best_metric, best_mode) if best_metric else None
        self._keep = keep
        self._read_only = read_only
        self._fingerprint = None
        _ignore_closed_loops()
        self._manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
        # orbax logs every save, and every error with its trace before it raises it.
        for name in ("absl", "orbax"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        kinds = ocp.checkpoint_managers
        policies = [kinds.LatestN(self._keep)]
        options = {}
        if self._best:
            metric, mode = self._best
            missing = -np.inf if mode == "max" else np.inf
            rank = lambda metrics: metrics.get(metric, missing)
            options = {"best_fn": rank, "best_mode": mode}
            policies.append(
                kinds.BestN(
                    get_metric_fn=rank,
                    reverse=mode == "min",
                    n=1,
                    keep_checkpoints_without_metrics=False,
                )
            )
        return ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=kinds.AnyPreservationPolicy(policies),
                cleanup_tmp_directories=not self._read_only,
                enable_background_delete=True,
                read_only=self._read_only,
                **options,
            ),
            item_handlers={
                "state": ocp.StandardCheckpointHandler(),
                "extra": ocp.JsonCheckpointHandler(),
            },
        )

    def steps(self) -> list[int]:
        """The steps there are checkpoints of, oldest first."""
        return sorted(self._manager.all_steps())

    def latest(self) -> int | None:
        """The newest step, or None."""
        return max(self.steps(), default=None)

    def best(self) -> int | None:
        """The best step by `best_metric`; the newest if no metric was named."""
        return self._manager.best_step() if self._best else self.latest()

    def save(
        self,
        step: int,
        state: Any,
        *,
        extra: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Starts saving; the state may be donated to the next step at once.

        Raises:
            RunError: the state is not finite, or the disk is full (also from an earlier
                save, which runs in the background).
        """
        fingerprint, finite = self._look(state)
        if not finite:
            raise errors.RunError(
                f"the state of step {step} holds NaN or infinity and is not saved; "
                f"{self.describe_latest()}"
            )
        items = {
            "state": ocp.args.StandardSave(state),
            "extra": ocp.args.JsonSave(
                {
                    "extra": dict(extra or {}),
                    "metrics": dict(metrics or {}),
                    "fingerprint": fingerprint,
                }
            ),
        }
        try:
            saved = self._manager.save(
                step, args=ocp.args.Composite(**items), metrics=dict(metrics or {})
            )
        except Exception as error:
            raise self._failure(error, step) from error
        if not saved:
            raise errors.RunError(
                f"checkpoint {step} was not written: {self._folder} already holds step "
                f"{self.latest()}"
            )

    def wait(self) -> None:
        """Returns when the last save is complete. Raises RunError if it failed."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._failure(error, None) from error

    def close(self) -> None:
        """Waits, and lets go of the folder."""
        try:
            self.wait()
        finally:
            self._manager.close()

    def restore(self, target: Any, step: int | None = None) -> Restored | None:
        """Reads a checkpoint.

        Args:
            target: tree of `jax.ShapeDtypeStruct` with shardings.
            step: which; None takes the newest that can be trusted, and moves newer ones
                that cannot aside (unless read-only).

        Returns:
            None if there is no checkpoint at all.

        Raises:
            RunError: the checkpoint is of another model, or `step` does not exist or
                cannot be trusted, or none of several can.
        """
        if step is not None:
            if step not in self.steps():
                raise errors.RunError(
                    f"no checkpoint of step {step} in {self._folder}; there are "
                    f"{self.steps()}"
                )
            return self._read(step, target)
        steps = self.steps()
        for candidate in reversed(steps):
            try:
                restored = self._read(candidate, target)
            except UntrustedError as error:
                logging.getLogger("tessera").warning(
                    "%s%s", error, self._set_aside(candidate)
                )
                continue
            return restored
        if steps:
            raise errors.RunError(
                f"none of the checkpoints {steps} in {self._folder} can be read; choose "
                "another --workdir to start afresh"
            )
        return None

    def _read(self, step: int, target: Any) -> Restored:
        self._check_tree(step, target)
        try:
            found = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(target),
                    extra=ocp.args.JsonRestore(),
                ),
            )
            state, extra = found["state"], dict(found["extra"])
            fingerprint, _ = self._look(state)
            expected = extra["fingerprint"]
        except Exception as error:
            raise UntrustedError(
                f"checkpoint {step} is damaged ({errors.first_line(error)[:120]})"
            ) from error
        if fingerprint != expected:
            wrong = [k for k in fingerprint if fingerprint[k] != expected.get(k)]
            raise UntrustedError(
                f"checkpoint {step} is damaged (contents of {', '.join(wrong[:3])} differ "
                "from what was saved)"
            )
        return Restored(step, state, extra["extra"], extra["metrics"])

    def _check_tree(self, step: int, target: Any) -> None:
        """Compares names, shapes and dtypes; orbax would cast and pad silently."""
        try:
            saved = self._manager.item_metadata(step)["state"]
            there = _signature(saved.tree if hasattr(saved, "tree") else saved)
            if not there:
                raise ValueError("no arrays in it")
        except Exception as error:
            raise UntrustedError(
                f"checkpoint {step} is damaged ({errors.first_line(error)[:120]})"
            ) from error
        wanted = _signature(target)
        for kind, names in (
            ("lacks", sorted(wanted.keys() - there.keys())),
            ("has an unexpected", sorted(there.keys() - wanted.keys())),
        ):
            if names:
                raise errors.RunError(
                    f"checkpoint {step} in {self._folder} is of another model: it {kind} "
                    f"{names[0]!r} ({len(names)} such); choose another --workdir"
                )
        for name in wanted:
            if wanted[name] != there[name]:
                raise errors.RunError(
                    f"checkpoint {step} in {self._folder} is of another model: {name!r} "
                    f"is {there[name]}, this run needs {wanted[name]}; choose another "
                    "--workdir"
                )

    def _look(self, state: Any) -> tuple[dict[str, int], bool]:
        """(fingerprint of every leaf, is everything finite); waits for the device."""
        if self._fingerprint is None:
            self._fingerprint = jax.jit(fingerprint)
        sums, finite = jax.device_get(self._fingerprint(state))
        return {name: int(value) for name, value in sums.items()}, bool(finite)

    def _set_aside(self, step: int) -> str:
        if self._read_only:
            return "; trying the one before"
        aside = self._workdir / ASIDE / str(step)
        if jax.process_index() == 0:
            aside.parent.mkdir(exist_ok=True)
            if aside.exists():
                shutil.rmtree(aside)
            (self._folder / str(step)).rename(aside)
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            multihost_utils.sync_global_devices(f"set_aside_{step}")
        self._manager.reload()
        return f"; moved to {aside}, trying the one before"

    def describe_latest(self) -> str:
        """One clause that names the last good checkpoint."""
        step = self.latest()
        if step is None:
            return "there is no earlier checkpoint"
        return f"the last good checkpoint is step {step} in {self._folder}"

    def _failure(self, error: Exception, step: int | None) -> errors.RunError:
        text = f"{error} {error.__cause__ or ''} {error.__context__ or ''}"
        full = any(
            mark in text for mark in ("No space left", "RESOURCE_EXHAUSTED", "Errno 28")
        )
        what = "the disk is full" if full else errors.first_line(error)
        name = "a checkpoint" if step is None else f"checkpoint {step}"
        return errors.RunError(
            f"{name} could not be written to {self._folder}: {what}; "
            f"{self.describe_latest()}; free space and run the same command again"
        )


def _ignore_closed_loops() -> None:
    """Keeps orbax's echoes off the terminal.

    When one array of a checkpoint cannot be read, the reads of all others still report to
    an event loop that is gone by then, each with a trace of its own. The error itself has
    been raised.
    """
    previous = sys.unraisablehook
    if getattr(previous, "ignores_closed_loops", False):
        return

    def hook(unraisable):
        error = unraisable.exc_value
        if isinstance(error, RuntimeError) and "Event loop is closed" in str(error):
            return
        previous(unraisable)

    hook.ignores_closed_loops = True
    sys.unraisablehook = hook


class UntrustedError(errors.RunError):
    """A checkpoint whose contents cannot be what was saved."""


def _signature(tree: Any) -> dict[str, tuple[tuple[int, ...], str]]:
    return {
        path_string(path): (tuple(x.shape), str(x.dtype))
        for path, x in jax.tree_util.tree_leaves_with_path(
            tree, is_leaf=lambda x: hasattr(x, "shape") and hasattr(x, "dtype")
        )
    }


def _words(x: jax.Array) -> jax.Array:
    """The array's bits as uint32, one word per element (two for 64-bit types)."""
    if x.dtype == jnp.bool_:
        return x.astype(jnp.uint32)
    bits = x.dtype.itemsize * 8
    if bits >= 32:
        return jax.lax.bitcast_convert_type(x, jnp.uint32)
    unsigned = {8: jnp.uint8, 16: jnp.uint16}[bits]
    return jax.lax.bitcast_convert_type(x, unsigned).astype(jnp.uint32)


def fingerprint(state: Any) -> tuple[dict[str, jax.Array], jax.Array]:
    """A checksum of every leaf, and whether all floating-point values are finite.

    The sum of words times odd weights, modulo 2^32: any change within one word changes
    it, and integer addition gives the same sum on any number of devices.

    Returns:
        {path: uint32 []}, bool [].
    """
    sums, finite = {}, jnp.bool_(True)
    for path, x in jax.tree_util.tree_leaves_with_path(state):
        words = _words(x)
        weights = jnp.uint32(1)
        for axis in range(words.ndim):  # no reshape: it would gather sharded arrays
            place = jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
            weights = weights * jnp.uint32(2654435761) + 2 * place
        sums[path_string(path)] = (words * weights).sum(dtype=jnp.uint32)
        if jnp.issubdtype(x.dtype, jnp.floating):
            finite &= jnp.isfinite(x).all()
    return sums, finite


def abstract(shapes: Any, shardings: Any) -> Any:
    """The restore target of a state given as shapes and shardings."""
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        shapes,
        shardings,
    )
