import logging

import jax
import jax.numpy as jnp
import pytest
from rich.console import Console

from training import compilation, hlo, profiling, trace


def ops(*instructions):
    """HLO instructions from (opcode, op_name or target)."""
    return [
        hlo.Instruction(
            f"{opcode}.{i}",
            "f32[8]",
            opcode,
            f'%x), custom_call_target="{name[1:]}"'
            if name.startswith("!")
            else f'%x), metadata={{op_name="{name}"}}',
        )
        for i, (opcode, name) in enumerate(instructions)
    ]


@pytest.mark.parametrize(
    ("instructions", "expected"),
    [
        ([("dot", "jit(f)/mlp/up/dot_general")], "matrix products"),
        (
            [("fusion", "jit(f)/mlp/add"), ("dot", "jit(f)/mlp/dot_general")],
            "matrix products",
        ),
        ([("custom-call", "!__cublas$lt$matmul")], "matrix products"),
        ([("convolution", "jit(f)/stem/conv_general_dilated")], "convolutions"),
        ([("convolution", "jit(f)/head/dot_general")], "matrix products"),
        ([("custom-call", "!__cudnn$convForward")], "convolutions"),
        ([("dot", "jit(f)/block_0/attention/query/dot_general")], "matrix products"),
        ([("dot", "jit(f)/block_0/attention/BTNH->BNTS/dot_general")], "attention"),
        ([("fusion", "transpose(jvp(M))/attention/reduce_max")], "attention"),
        ([("custom-call", "!__cudnn$fmhaSoftmax")], "attention"),
        (
            [("fusion", "jit(f)/attention_norm/mul"), ("multiply", "")],
            "normalisation and reductions",
        ),
        (
            [("fusion", "jit(f)/mul"), ("multiply", ""), ("reduce", "")],
            "normalisation and reductions",
        ),
        ([("fusion", "jit(f)/mlp/tanh"), ("copy", ""), ("tanh", "")], "elementwise"),
        ([("fusion", "jit(f)/x"), ("parameter", ""), ("copy", "")], "data movement"),
        ([("transpose", "jit(f)/transpose")], "data movement"),
        ([("fusion", "x"), ("maximum", ""), ("transpose", "")], "data movement"),
        ([("all-reduce-start", "jit(f)/dot_general")], "collectives"),
        ([("fusion", ""), ("reduce-scatter", "")], "collectives"),
        ([("while", "jit(f)/while")], "other"),
        ([("custom-call", "!TopK_unknown")], "other"),
    ],
)
def test_sorts_operations_by_what_they_do(instructions, expected):
    assert profiling.category(ops(*instructions)) == expected


@pytest.mark.parametrize(
    ("op_name", "path"),
    [
        (
            "jit(train_step)/transpose(jvp(ViT))/ViT.encode/encoder/block_0/mlp/up/dot_general",
            "ViT/encoder/block_0/mlp/up/dot_general, backward",
        ),
        (
            "jit(f)/jvp(M)/while/body/closed_call/attention/BTNH,BSNH->BNTS/dot_general",
            "M/attention/dot_general",
        ),
        ("jit(f)/transpose(jvp())/dot_general", "dot_general, backward"),
        ("jit(f)/jit(_where)/select_n", "select_n"),
        ("", ""),
    ],
)
def test_names_the_module(op_name, path):
    assert profiling.module_path(op_name) == path


def test_shares_add_up():
    busy = {("jit_f", "dot.1"): 0.3, ("jit_f", "copy.2"): 0.2, ("jit_g", "dot.1"): 0.1}
    text = (
        "HloModule jit_f, x=1\n\nENTRY %main (x: f32[8]) -> f32[8] {\n"
        '  %dot.1 = f32[8]{0} dot(%x), metadata={op_name="jit(f)/mlp/dot_general"}\n'
        "  ROOT %copy.2 = f32[8]{0} copy(%dot.1)\n}\n"
    )
    found = profiling.report(trace.Usage(2, 1.0, busy), text)
    assert found.shares["matrix products"] == pytest.approx(0.3)
    assert found.shares["data movement"] == pytest.approx(0.2)
    assert found.shares["other"] == pytest.approx(0.1), "another program's"
    assert found.shares["idle"] == pytest.approx(0.4)
    assert sum(found.shares.values()) == pytest.approx(1)
    first, _, third = found.longest
    assert first == ("dot.1", 0.3, "matrix products", "mlp/dot_general")
    assert third == ("dot.1", 0.1, "other", "(jit_g)")
    without = profiling.report(trace.Usage(2, 1.0, busy))
    assert without.shares["matrix products"] == pytest.approx(0.4)


class Run:
    """A small model whose steps may be traced."""

    def __init__(self, folder):
        def loss(params, image):
            with jax.named_scope("stem"):
                x = jax.lax.conv(image, params["stem"], (1, 1), "SAME")
            with jax.named_scope("up"):
                x = jnp.tanh(x.reshape(x.shape[0], -1) @ params["up"])
            return (x**2).mean()

        def train(params, image):
            grads = jax.grad(loss)(params, image)
            return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)

        options = compilation.compiler_options(traced=True)
        self.train = jax.jit(train, compiler_options=options)
        self.params = {"stem": jnp.ones((4, 3, 3, 3)), "up": jnp.ones((4 * 256, 64))}
        self.image = jnp.ones((8, 3, 16, 16))
        self.shown = []
        self.folder = folder

    def profiler(self, first, count, **options):
        def program():
            return self.train.lower(self.params, self.image).compile().as_text()

        return profiling.Profiler(
            first,
            count,
            self.folder,
            program=program,
            show=self.shown.append,
            **options,
        )

    def steps(self, profiler, last):
        for step in range(1, last + 1):
            profiler.step(step)
            self.params = self.train(self.params, self.image)
        profiler.close()


def render(renderable) -> str:
    console = Console(width=120)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


def test_profiles_some_steps(tmp_path):
    run = Run(tmp_path)
    run.steps(run.profiler(3, 2), last=6)
    usage = trace.read(tmp_path / "profile")
    assert usage.steps == 2
    program = run.profiler(1, 1)._program()
    found = profiling.report(usage, program)
    assert sum(found.shares.values()) == pytest.approx(1)
    assert found.shares["matrix products"] > 0 and found.shares["convolutions"] > 0
    assert found.shares["idle"] < 1
    names = {name for module, name in usage.busy if module == "jit_train"}
    assert names and names <= set(hlo.parse(program).instructions)
    assert any("up/" in path for *_, path in found.longest)

    table, where = run.shown
    text = render(table)
    assert "(mean of 2)" in text and "matrix products" in text
    (total,) = [row for row in text.splitlines() if row.split()[:1] == ["total"]]
    assert total.split()[-1] == "100.0%"
    assert str(tmp_path / "profile") in where
    assert list((tmp_path / "profile").rglob("*.trace.json.gz"))


def test_a_run_that_ends_early_is_profiled_as_far_as_it_went(tmp_path):
    run = Run(tmp_path)
    run.steps(run.profiler(1, 100), last=3)
    # Step 1 compiles and is left out.
    assert trace.read(tmp_path / "profile").steps == 2
    assert len(run.shown) == 2


def test_steps_that_never_come_are_said(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("tessera"), "propagate", True)
    run = Run(tmp_path)
    run.steps(run.profiler(50, 2), last=2)
    assert "step 50 did not come" in caplog.text
    assert run.shown == [] and not (tmp_path / "profile").exists()


def test_other_hosts_trace_nothing(tmp_path):
    run = Run(tmp_path)
    run.steps(run.profiler(1, 1, active=False), last=3)
    assert run.shown == [] and not (tmp_path / "profile").exists()
