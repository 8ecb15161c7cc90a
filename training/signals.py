"""How a run is asked to stop: SIGTERM from a scheduler, Ctrl-C from a person."""

import signal
from typing import Self

import jax

from training.errors import EXIT_INTERRUPTED, EXIT_PREEMPTED


class StopSignal:
    """Turns SIGTERM and the first Ctrl-C into a wish to stop after the current step.

    With several processes JAX's own preemption service takes the SIGTERM, and makes all
    of them stop after the same step; Ctrl-C then stops at once.
    """

    def __init__(self):
        self.exit_code = None
        self._previous = {}

    def __enter__(self) -> Self:
        codes = {signal.SIGTERM: EXIT_PREEMPTED, signal.SIGINT: EXIT_INTERRUPTED}
        if jax.process_count() > 1:
            codes = {}
        try:
            for number, code in codes.items():
                self._previous[number] = signal.signal(
                    number,
                    lambda *_, number=number, code=code: self._stop(number, code),
                )
        except ValueError:  # not the main thread: no handlers there
            pass
        return self

    def _stop(self, number: int, code: int) -> None:
        self.exit_code = code
        signal.signal(number, signal.SIG_DFL)  # a second one stops at once

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def after(self, step: int) -> bool:
        """Whether to stop after `step`; every process calls it at every step."""
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            if multihost_utils.reached_preemption_sync_point(step):
                self.exit_code = EXIT_PREEMPTED
        return self.exit_code is not None
