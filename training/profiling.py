"""`--profile=FIRST:COUNT`: traces some steps and says where their time went.

The trace lies in `WORKDIR/profile` and opens in TensorBoard's profiler, and its
`.trace.json.gz` in https://ui.perfetto.dev. On CPUs single operations are in it only if the
program was compiled with `training.compilation.compiler_options(traced=True)`.
"""

import dataclasses
import logging
import os
import pathlib
import re
from collections.abc import Callable, Iterable
from typing import Any

import jax
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from training import hlo, trace
from training.collectives import KINDS as COLLECTIVES
from training.progress import make_console

_log = logging.getLogger("tessera")

CATEGORIES = (
    "matrix products",
    "convolutions",
    "attention",
    "normalisation and reductions",
    "elementwise",
    "data movement",
    "collectives",
    "other",
    "idle",
)
_LONGEST = 10
# Within a module of attention, these children are plain matrix products.
_PROJECTIONS = re.compile(r"^(query|key|value|out|qkv|kv|projection)$")
_REDUCTIONS = {
    "reduce",
    "reduce-window",
    "select-and-scatter",
    "sort",
    "topk",
    "batch-norm-training",
    "batch-norm-inference",
    "batch-norm-grad",
}
_MOVEMENTS = {
    "copy",
    "transpose",
    "reshape",
    "broadcast",
    "slice",
    "dynamic-slice",
    "dynamic-update-slice",
    "concatenate",
    "pad",
    "reverse",
    "gather",
    "scatter",
    "convert",
    "infeed",
    "outfeed",
    "send",
    "recv",
}
_NO_WORK = {
    "parameter",
    "constant",
    "bitcast",
    "tuple",
    "get-tuple-element",
    "iota",
    "fusion",
    "call",
    "optimization-barrier",
}
_CONTROL = {"while", "conditional", "async-start", "async-done"}
# 'transpose(jvp(ViT))' is the scope ViT in the backward pass.
_WRAPPED = re.compile(r"^(?:(?:jvp|transpose|vmap)\()+")
# Parts of an operation's name that are no modules: transformations, calls, methods.
_NOT_MODULE = re.compile(
    r"\(|->|^\w+\.\w+$|^(while|body|cond|closed_call|core_call|checkpoint|rematted_computation|remat"
    r"|pjit|shard_map|custom_jvp_call|custom_vjp_call|branch_\d+_fun)$"
)


@dataclasses.dataclass(frozen=True)
class Report:
    """Where the time of a step went.

    Args:
        usage: what the trace says.
        shares: category -> share of the step, 0 to 1; they add up to 1.
        longest: (operation, seconds a step, category, module path) of the longest ten.
    """

    usage: trace.Usage
    shares: dict[str, float]
    longest: list[tuple[str, float, str, str]]


class Profiler:
    """Traces some steps of a run; the loop calls `step` before it dispatches each.

    Args:
        first: the step to begin with. The first step of a process compiles, so that the
            one after it is the earliest.
        count: how many steps.
        workdir: the run's folder.
        program: gives the text of the update's compiled program, from which operations
            get the names of their modules.
        show: prints the tables, such as `Progress.message`.
        active: False on hosts other than 0.
    """

    def __init__(
        self,
        first: int,
        count: int,
        workdir: str | os.PathLike,
        *,
        program: Callable[[], str] | None = None,
        show: Callable[[Any], None] | None = None,
        active: bool = True,
    ):
        self._first, self._count = first, count
        self._folder = pathlib.Path(workdir) / "profile"
        self._program = program
        self._show = show or make_console().print
        self._calls = 0
        self._traced: int | None = None  # Steps so far; None before the first.
        self._mark: Any = None
        self._done = not active

    def step(self, step: int) -> None:
        """Called before `step` (steps count from 1) is dispatched."""
        self._calls += 1
        if self._done:
            return
        if self._traced == self._count:
            self.close()
            return
        self._end_mark()
        if self._traced is None and step >= self._first and self._calls > 1:
            self._start()
        if self._traced is not None:
            self._mark = jax.profiler.StepTraceAnnotation("train", step_num=step)
            self._mark.__enter__()
            self._traced += 1

    def close(self) -> None:
        """Ends the trace, if one runs, and prints the tables. A second call does nothing.

        Called by itself after the last traced step; by the loop if the run ends earlier.
        """
        if self._done:
            return
        self._done = True
        if self._traced is None:
            _log.warning("nothing was traced: step %s did not come", self._first)
            return
        _wait()  # The last step ends when the device has done it.
        self._end_mark()
        jax.profiler.stop_trace()
        usage = trace.read(self._folder)
        if usage is None:
            _log.warning("the trace in %s holds no step", self._folder)
            return
        self._show(tables(report(usage, self._program and self._program())))
        self._show(
            f"trace: {self._folder} (TensorBoard's profiler, or ui.perfetto.dev)"
        )

    def _start(self) -> None:
        _wait()
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # Tracing every Python call slows the steps.
        jax.profiler.start_trace(self._folder, profiler_options=options)
        self._traced = 0

    def _end_mark(self) -> None:
        if self._mark is not None:
            self._mark.__exit__(None, None, None)
            self._mark = None


def report(usage: trace.Usage, program: str | None = None) -> Report:
    """Sorts the operations of a trace by what they do and where they come from.

    Args:
        usage: see `trace.read`.
        program: text of the compiled program; without it, names must do.
    """
    parsed = hlo.parse(program) if program else None
    shares = dict.fromkeys(CATEGORIES, 0.0)
    whole = max(usage.total, sum(usage.busy.values()))
    longest = []
    for (module, name), seconds in usage.busy.items():
        kind, path = "other", f"({module})"
        if parsed is not None and name in parsed.instructions:
            if not module or module == parsed.name:
                instruction = parsed.instructions[name]
                kind = category(parsed.inside(instruction))
                path = module_path(parsed.origin(instruction))
        elif parsed is None:
            opcode = re.sub(r"[._]\d+$", "", name)
            kind, path = category([hlo.Instruction(name, "", opcode, "")]), ""
        shares[kind] += seconds / whole
        longest.append((name, seconds, kind, path))
    shares["idle"] = 1 - sum(shares.values())
    longest.sort(key=lambda row: -row[1])
    return Report(usage, shares, longest[:_LONGEST])


def category(instructions: Iterable[hlo.Instruction]) -> str:
    """What an operation does: one of `CATEGORIES`.

    Args:
        instructions: itself and, for a fusion, all inside it.
    """
    itself, *_ = instructions = list(instructions)
    opcodes = {re.sub("-(start|done)$", "", i.opcode) for i in instructions}
    if opcodes & set(COLLECTIVES):
        return "collectives"
    targets = " ".join(i.target for i in instructions if i.target).lower()
    if "fmha" in targets or _in_attention(itself.op_name):
        return "attention"
    product = _product(instructions, targets)
    if product:
        return product
    opcodes -= _NO_WORK
    if opcodes & _REDUCTIONS or "norm" in module_path(itself.op_name):
        return "normalisation and reductions"
    if opcodes & _CONTROL:
        return "other"
    # A fusion that ends in a transposition exists for its sake.
    if opcodes <= _MOVEMENTS or instructions[-1].opcode in ("transpose", "copy"):
        return "data movement"
    return "other" if opcodes == {"custom-call"} else "elementwise"


def module_path(op_name: str) -> str:
    """Where in the model an operation was traced, and in which pass.

    'jit(step)/transpose(jvp(ViT))/encoder/mlp/dot_general' ->
    'ViT/encoder/mlp/dot_general, backward'.
    """
    names = [_unwrapped(name) for name in op_name.split("/")]
    text = "/".join(name for name in names if name and not _NOT_MODULE.search(name))
    return f"{text}, backward" if "transpose(" in op_name else text


def tables(found: Report) -> Group:
    """The report, for a terminal."""
    usage = found.usage
    shares = _table(
        f"a step of {usage.total * 1e3:.2f} ms (mean of {usage.steps})",
        ("where the time goes", "ms", "share"),
    )
    for name in CATEGORIES:
        share = found.shares[name]
        shares.add_row(name, f"{share * usage.total * 1e3:.2f}", f"{share:.1%}")
    shares.add_section()
    total = sum(found.shares.values())
    shares.add_row("total", f"{total * usage.total * 1e3:.2f}", f"{total:.1%}")
    longest = _table(
        f"the {len(found.longest)} longest operations",
        ("operation", "ms", "share", "kind", "module"),
    )
    for name, seconds, kind, path in found.longest:
        share = seconds / usage.total if usage.total else 0.0
        cells = name, f"{seconds * 1e3:.2f}", f"{share:.1%}", kind, path
        longest.add_row(*(Text(cell) for cell in cells))
    return Group(shares, longest)


def _unwrapped(name: str) -> str:
    """A scope without its transformations: 'transpose(jvp(ViT))' -> 'ViT'."""
    inner, wraps = _WRAPPED.subn("", name)
    return inner.rstrip(")") if wraps else name


def _in_attention(op_name: str) -> bool:
    """Scores, softmax and weighted sum; projections and norms are not meant."""
    inside = False
    for name in op_name.split("/"):
        if "attention" in name and "norm" not in name:
            inside = True
        elif inside and _PROJECTIONS.match(name):
            return False
    return inside


def _product(instructions: list[hlo.Instruction], targets: str) -> str | None:
    """Whether something is multiplied, and how it was written in the model.

    Compilers turn products into convolutions (TPUs) and both into calls (GPUs): the name
    of the traced operation decides where there is one.
    """
    for i in instructions:
        if i.opcode in ("dot", "convolution"):
            last = i.op_name.rpartition("/")[2]
            if "dot_general" in last or (i.opcode == "dot" and "conv" not in last):
                return "matrix products"
            return "convolutions"
    if "conv" in targets:
        return "convolutions"
    if re.search("gemm|matmul|cublas", targets):
        return "matrix products"
    return None


def _table(title: str, columns: tuple[str, ...]) -> Table:
    table = Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD
    )
    for name in columns:
        right = name in ("ms", "share")
        table.add_column(
            name, justify="right" if right else "left", overflow="fold", no_wrap=right
        )
    return table


def _wait() -> None:
    """Returns when the devices have done all that was dispatched."""
    jax.block_until_ready(jax.live_arrays())
