"""Reads the text of an optimised HLO module, as `compiled.as_text()` gives it.

JAX has no public interface to a compiled program's instructions; its text has been stable
for years. Only what `training.collectives` and `training.profiling` ask for is read.
"""

import dataclasses
import functools
import re
from collections.abc import Iterator

# %name (parameters) -> type {        or ENTRY %name ...
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\) -> .* \{$")
# %name = type opcode(operands), attributes; a type may hold blanks, but no " opcode(".
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.-]+) = (.*?) ?\b([a-z][\w-]*)\((.*)$")
_CALLED = re.compile(r"\b(?:calls|to_apply|body|condition)=%?([\w.-]+)")
_BRANCHES = re.compile(r"\b(?:branch_computations|called_computations)=\{([^}]*)\}")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,<=]*)\]")
_BITS = {"pred": 8, "token": 0, "opaque": 0}


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a program.

    Args:
        name: without the percent sign.
        type: of the result, such as 'f32[8,64]{1,0}'.
        opcode: such as 'dot', 'fusion' or 'all-gather-start'.
        rest: operands and attributes, as written.
    """

    name: str
    type: str
    opcode: str
    rest: str

    @property
    def operand(self) -> str:
        """The first operand's name; '' if there is none."""
        found = re.search(r"%([\w.-]+)", self.rest)
        return found.group(1) if found else ""

    @property
    def op_name(self) -> str:
        """Where in the traced function it comes from, such as 'jit(f)/mlp/dot_general'."""
        found = re.search(r'op_name="((?:[^"\\]|\\.)*)"', self.rest)
        return found.group(1) if found else ""

    @property
    def target(self) -> str:
        """What a custom call calls, or the kind of a custom fusion; '' otherwise."""
        found = re.search(r'(?:custom_call_target=|"kind":)"([^"]*)"', self.rest)
        return found.group(1) if found else ""

    @property
    def nbytes(self) -> int:
        """Bytes of the result, an array or a tuple of arrays."""
        return nbytes(self.type)

    def callees(self) -> Iterator[str]:
        """The computations it calls."""
        # The other half of an asynchronous call names the same computation once more.
        if self.opcode in ("async-update", "async-done"):
            return
        yield from _CALLED.findall(self.rest)
        for names in _BRANCHES.findall(self.rest):
            yield from (name.strip().lstrip("%") for name in names.split(","))


@dataclasses.dataclass(frozen=True)
class Program:
    """A parsed module.

    Args:
        name: of the module, such as 'jit_train_step'.
        header: its first line.
        entry: name of the computation that runs first.
        computations: instructions by name of the computation.
    """

    name: str
    header: str
    entry: str
    computations: dict[str, list[Instruction]]

    @functools.cached_property
    def instructions(self) -> dict[str, Instruction]:
        """Every instruction by name; names are unique in a module."""
        return {i.name: i for body in self.computations.values() for i in body}

    def inside(self, instruction: Instruction) -> list[Instruction]:
        """An instruction and, if it is a fusion or a call, everything within."""
        found = [instruction]
        for callee in instruction.callees():
            for inner in self.computations.get(callee, ()):
                found += self.inside(inner)
        return found

    def origin(self, instruction: Instruction, hops: int = 2) -> str:
        """Where an instruction comes from: its `op_name`, or that of what it holds.

        One that the compiler made has none. It serves its neighbours, and the one that
        lies deepest in the model says most.
        """
        names = [i.op_name for i in self.inside(instruction) if i.op_name]
        if names or not hops:
            return instruction.op_name or (names[-1] if names else "")
        known = self.instructions
        operands = re.findall(r"%([\w.-]+)", instruction.rest.partition(")")[0])
        near = [known[name] for name in operands[:4] if name in known]
        near += filter(None, [self._users.get(instruction.name)])
        found = [self.origin(neighbour, hops - 1) for neighbour in near]
        return max(found, key=lambda name: name.count("/"), default="")

    @functools.cached_property
    def _users(self) -> dict[str, Instruction]:
        """The first instruction to use each other one."""
        users: dict[str, Instruction] = {}
        for instruction in self.instructions.values():
            for name in re.findall(r"%([\w.-]+)", instruction.rest):
                users.setdefault(name, instruction)
        return users


def parse(text: str) -> Program:
    """Parses the text of a module."""
    computations: dict[str, list[Instruction]] = {}
    entry, current = "", []
    header = text.partition("\n")[0]
    for line in text.splitlines():
        if head := _COMPUTATION.match(line):
            current = computations.setdefault(head.group(2), [])
            entry = head.group(2) if head.group(1) else entry
        elif instruction := _INSTRUCTION.match(line):
            current.append(Instruction(*instruction.groups()))
    name = re.match(r"HloModule ([^\s,]+)", header)
    return Program(name.group(1) if name else "", header, entry, computations)


def nbytes(type_: str) -> int:
    """Bytes of an HLO type: 'f32[8,64]{1,0}' -> 2048; a tuple's are its arrays'."""
    bits = 0
    for name, sizes in _ARRAY.findall(type_):
        width = _BITS.get(name)
        if width is None:
            digits = re.search(r"\d+", name)
            width = int(digits.group()) if digits else 0
        for size in sizes.split(","):
            width *= int(size.lstrip("<=")) if size else 1
        bits += width
    return -(-bits // 8)
