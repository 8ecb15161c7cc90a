"""Everything a config becomes before the first step: built objects, a layout on the
devices, the shapes of the state, and compiled functions. Training, evaluation, planning
and weight import all start here."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from training import artifacts, checkpoint, compilation, sharding
from training import config as configs
from training import state as states
from training.errors import ConfigError, RunError, first_line


@dataclasses.dataclass(frozen=True)
class Run:
    """A built experiment on a mesh.

    Args:
        experiment: the built config.
        layout: where arrays live.
        batch: tree of `jax.ShapeDtypeStruct`; one global batch.
        shapes: tree of `jax.ShapeDtypeStruct`; the state.
        traced: the update is compiled so that the profiler sees its operations.
        config: what it was built from: plain data, artifacts read from their files.
    """

    experiment: configs.Experiment
    layout: sharding.Layout
    batch: Any
    shapes: states.TrainState
    traced: bool = False
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False)
    _compiled: dict = dataclasses.field(default_factory=dict, repr=False)

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any],
        devices: list[jax.Device] | None = None,
        *,
        traced: bool = False,
        workdir: pathlib.Path | None = None,
    ) -> "Run":
        """Builds a config.

        Args:
            config: plain data.
            devices: of the mesh; None takes all.
            traced: see the class.
            workdir: where artifacts are, or are put; see `training.artifacts`.

        Raises:
            RunError: in one line, whatever is wrong with the config, the data it names or
                the devices it asks for.
        """
        config = artifacts.materialize(config, workdir)
        experiment = configs.experiment(config)
        try:
            compilation.set_matmul_precision(experiment.matmul_precision)
            mesh = sharding.make_mesh(experiment.mesh, devices)
            layout = sharding.Layout(mesh, _rules(experiment.partition_rules))
            layout.check_batch(experiment.batch_size, experiment.accumulation_steps)
            batch = batch_spec(experiment.data.element(), experiment.batch_size)
        except (ValueError, OSError) as error:
            raise ConfigError(first_line(error)) from error
        shapes = cls._shapes(experiment, batch)
        run = cls(experiment, layout, batch, shapes, traced, config)
        run._check_rules()
        return run

    @staticmethod
    def _shapes(experiment: configs.Experiment, batch: Any) -> states.TrainState:
        try:
            return jax.eval_shape(_initializer(experiment, batch))
        except (ValueError, TypeError, KeyError) as error:
            if isinstance(error, KeyError):
                raise ConfigError(
                    f"the batch has no {error}; it has {sorted(batch)}"
                ) from error
            raise ConfigError(
                f"the model cannot be initialised on this data: {first_line(error)}"
            ) from error

    def _check_rules(self) -> None:
        if self.layout.mesh.shape.get("model", 1) > 1:
            specs = [s.spec for s in jax.tree.leaves(self.shardings)]
            if not any("model" in spec for spec in specs):
                raise ConfigError(
                    "the mesh has a 'model' axis but partition_rules match no parameter"
                )

    @functools.cached_property
    def shardings(self) -> Any:
        """A sharding for every leaf of the state."""
        return self.layout.state(self.shapes)

    @property
    def target(self) -> Any:
        """What a checkpoint is restored into."""
        return checkpoint.abstract(self.shapes, self.shardings)

    @functools.cached_property
    def compiler_options(self) -> dict[str, Any]:
        """The XLA options of the update on this backend."""
        return compilation.compiler_options(
            self.experiment.compiler_options,
            devices=self.layout.mesh.size,
            traced=self.traced,
        )

    def init(self) -> states.TrainState:
        """The state at step 0, born in its sharding."""
        create = _initializer(self.experiment, self.batch)
        return jax.jit(create, out_shardings=self.shardings)()

    @functools.cached_property
    def update(self) -> Any:
        """The jitted update: (state, batch) -> (state, metrics). Donates the state."""
        experiment = self.experiment
        function = functools.partial(
            configs.resolve(experiment.update, "update"),
            task=_Gathering(experiment.task, self.gather),
            optimizer=experiment.optimizer,
            accumulation_steps=experiment.accumulation_steps,
            ema_decay=experiment.ema_decay,
        )
        return jax.jit(
            function,
            in_shardings=(self.shardings, self.layout.batch),
            out_shardings=(self.shardings, self.layout.replicated),
            donate_argnums=0,
            compiler_options=self.compiler_options or None,
        )

    def gather(self, params: Any) -> Any:
        """Parameters, or their averages, whole on every device; inside a jit only."""
        return self.layout.gather(params, self.shardings.params)

    def compile(self, function: Callable, key: Any = None) -> Any:
        """jit of `function(state, batch, *, task)`, compiled once; replicated results."""
        key = key or function
        if key not in self._compiled:

            def gathered(state, batch):
                ema = None if state.ema is None else self.gather(state.ema)
                state = dataclasses.replace(
                    state, params=self.gather(state.params), ema=ema
                )
                return function(state, batch, task=self.experiment.task)

            self._compiled[key] = jax.jit(
                gathered,
                in_shardings=(self.shardings, self.layout.batch),
                out_shardings=self.layout.replicated,
                compiler_options=self.compiler_options or None,
            )
        return self._compiled[key]

    def check(self, batch: Mapping[str, np.ndarray]) -> None:
        """`Task.check` on a host batch. Raises RunError in one line."""
        try:
            self.experiment.task.check(batch)
        except ValueError as error:
            raise RunError(f"data: {first_line(error)}") from error


@dataclasses.dataclass(frozen=True)
class _Gathering:
    """A task that sees parameters whole, however they are split between steps."""

    task: Any
    gather: Callable[[Any], Any]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)

    def apply(self, params: Any, *arguments: Any, **options: Any) -> Any:
        """`Task.apply`, after gathering."""
        return self.task.apply(self.gather(params), *arguments, **options)


def _initializer(experiment: configs.Experiment, batch: Any) -> Callable:
    # Parameters do not depend on the batch size; a small one compiles faster.
    one = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((2, *x.shape[1:]), x.dtype), batch
    )

    def create():
        zeros = jax.tree.map(lambda x: jax.numpy.zeros(x.shape, x.dtype), one)
        return states.create(
            experiment.task,
            experiment.optimizer,
            zeros,
            seed=experiment.seed,
            ema=experiment.ema_decay is not None,
        )

    return create


def batch_spec(element: Mapping[str, Any], batch_size: int) -> dict[str, Any]:
    """The shapes of a global batch of examples like `element`."""
    spec = {}
    for name, value in element.items():
        dtype = jax.dtypes.canonicalize_dtype(np.asarray(value).dtype)
        spec[name] = jax.ShapeDtypeStruct((batch_size, *np.shape(value)), dtype)
    return spec


def _rules(rules: Any) -> tuple:
    return tuple((pattern, tuple(axes)) for pattern, axes in rules)
