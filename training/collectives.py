"""What a compiled program moves between devices and holds on each, read from the program.

The text of an optimised HLO module lists its collectives with shapes and groups. Those in
the body of a loop are counted as often as the compiler knows the loop to run.
"""

import dataclasses
import math
import re
from typing import Any

from training import hlo

KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective of a program.

    Args:
        name: of the instruction.
        kind: one of `KINDS`.
        payload: bytes of the whole message of one device, that is, of the gathered or
            not yet scattered array.
        group: devices that take part together.
        times: how often it runs in one call of the program.
        bounded: False if it stands in a loop of unknown length, counted once.
        op_name: where in the model it comes from.
    """

    name: str
    kind: str
    payload: int
    group: int
    times: int
    bounded: bool
    op_name: str

    @property
    def wire(self) -> float:
        """Bytes a device sends in one call, by a ring; as good as any algorithm does."""
        share = (self.group - 1) / self.group
        if self.kind == "all-reduce":
            return 2 * share * self.payload * self.times
        if self.kind in ("collective-permute", "collective-broadcast"):
            return float(self.payload * self.times)
        return share * self.payload * self.times


def bytes_moved(text: str) -> dict[str, int]:
    """Bytes of the messages of one device in one call, summed by kind.

    A message is the whole array, gathered or not yet scattered, whatever the algorithm
    sends of it; see `Collective.wire`. Kinds that do not occur are absent.

    Args:
        text: `compiled.as_text()`.
    """
    total: dict[str, int] = {}
    for found in collectives(text):
        moved = found.payload * found.times
        total[found.kind] = total.get(found.kind, 0) + moved
    return total


def collectives(text: str) -> list[Collective]:
    """Every collective of an optimised HLO module, in the order of its text."""
    program = hlo.parse(text)
    times = _times(program)
    everywhere = _devices(program.header)
    found = []
    for computation, instructions in program.computations.items():
        runs, bounded = times.get(computation, (0, True))
        types = {i.operand: i.type for i in instructions if i.opcode.endswith("-done")}
        for i in instructions:
            kind = i.opcode.removesuffix("-start")
            if kind not in KINDS or not runs:
                continue
            group = _group(i.rest) or everywhere
            # A start's own type also lists operands and scratch; its done has the result.
            payload = hlo.nbytes(types.get(i.name, i.type))
            if kind == "reduce-scatter":
                payload *= group
            found.append(
                Collective(i.name, kind, payload, group, runs, bounded, i.op_name)
            )
    return found


def memory(compiled: Any) -> dict[str, int]:
    """Bytes on each device while a compiled program runs.

    Returns:
        `argument`, `output`, `alias` (outputs in the place of donated arguments), `temp`
        and `peak`: argument + output - alias + temp, or what the compiler reports if
        that is more.
    """
    stats = compiled.memory_analysis()
    names = ("argument", "output", "alias", "temp")
    sizes = {name: int(getattr(stats, f"{name}_size_in_bytes")) for name in names}
    total = sizes["argument"] + sizes["output"] - sizes["alias"] + sizes["temp"]
    reported = int(getattr(stats, "peak_memory_in_bytes", 0) or 0)
    return {**sizes, "peak": max(total, reported)}


def _times(program: hlo.Program) -> dict[str, tuple[int, bool]]:
    """How often each computation runs, and whether that is known."""
    result: dict[str, tuple[int, bool]] = {}

    def visit(computation: str, runs: int, bounded: bool) -> None:
        before, known = result.get(computation, (0, True))
        result[computation] = (before + runs, known and bounded)
        for instruction in program.computations.get(computation, ()):
            trips = 1
            if instruction.opcode == "while":
                found = _TRIPS.search(instruction.rest)
                trips = int(found.group(1)) if found else 0
            for callee in instruction.callees():
                visit(callee, runs * (trips or 1), bounded and trips > 0)

    visit(program.entry, 1, True)
    return result


def _devices(header: str) -> int:
    counts = re.findall(r"\b(?:num_partitions|replica_count)=(\d+)", header)
    return math.prod(int(count) for count in counts)


def _group(rest: str) -> int | None:
    """Devices a group, from any of the ways in which HLO writes groups; None: all."""
    if found := re.search(r"replica_groups=\{\{([\d,]*)\}", rest):
        return len(found.group(1).split(","))
    if found := re.search(r"replica_groups=\[([\d,]+)\]<=", rest):
        return int(found.group(1).split(",")[-1])
    if found := re.search(r"replica_groups=@?\w*\[([^\]]*)\] \{([^}]*)\}", rest):
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", found.group(1)))
        # An axis may be split: 'data':(4)2 are 2 of its devices, in steps.
        axes = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", found.group(2))
        return math.prod(int(part or sizes[name]) for name, part in axes)
    if found := re.search(r"source_target_pairs=\{(.*?)\}\}", rest):
        return found.group(1).count("{")
    return None
