"""Which example stands at which position, and the random numbers drawn for it.

Position p of a run is row p % batch_size of global step p // batch_size. Both functions
here are pure: nothing has to be saved to resume, and it does not matter who asks.
"""

import dataclasses
import functools
import threading

import numpy as np

# One stream of random numbers for each purpose, so that none repeats another's.
DRAWS, SHUFFLING = 0, 1

_thread = threading.local()


@dataclasses.dataclass(frozen=True)
class Order:
    """Maps positions to the indices of a source.

    Args:
        length: of the source.
        seed: shuffles every epoch anew; None keeps the source's order.
        repeat: go round for ever; otherwise positions from `length` on are empty.
    """

    length: int
    seed: int | None = None
    repeat: bool = True

    def __call__(self, start: int, count: int) -> list[int | None]:
        """The indices at positions start, start + 1, ...; None where there is none."""
        positions = range(start, start + count)
        if not self.repeat:
            return [p if p < self.length else None for p in positions]
        places = [divmod(p, self.length) for p in positions]
        if self.seed is None:
            return [place for _, place in places]
        shuffled = {
            epoch: _permutation(self.length, self.seed, epoch)
            for epoch in {epoch for epoch, _ in places}
        }
        return [int(shuffled[epoch][place]) for epoch, place in places]


# Grain's MapDataset.shuffle holds no list, but takes 20 us an example for 1 500 examples
# and 5 ms for four: it draws from 2**16 places until one is in range. A list costs 4
# bytes an example and, for ImageNet, 15 ms an epoch.
@functools.lru_cache(maxsize=4)
def _permutation(length: int, seed: int, epoch: int) -> np.ndarray:
    key = np.array([seed, SHUFFLING], np.uint64)
    counter = np.array([0, 0, 0, epoch], np.uint64)
    rng = np.random.Generator(np.random.Philox(key=key, counter=counter))
    order = rng.permutation(length)
    return order.astype(np.uint32) if length < 2**32 else order


def position_rng(seed: int, position: int) -> np.random.Generator:
    """The random numbers of one position: a function of (seed, position) alone.

    Philox counts: the position is the upper part of its counter, so that the numbers of
    two positions never overlap. The generator is this thread's only one and starts anew
    at the next call: making one takes 8 us, turning it 1.5 us.
    """
    if not hasattr(_thread, "rng"):
        _thread.rng = np.random.Generator(np.random.Philox(key=0))
        _thread.state = _thread.rng.bit_generator.state
    _thread.state["state"] = {
        "key": np.array([seed, DRAWS], np.uint64),
        "counter": np.array([0, 0, 0, position], np.uint64),
    }
    _thread.rng.bit_generator.state = _thread.state
    return _thread.rng
