import jax
import jax.numpy as jnp

from training import hlo

TEXT = r"""HloModule jit_step, is_scheduled=true, num_partitions=2

%fused (p: f32[4,8]) -> f32[8,4] {
  %p = f32[4,8]{1,0} parameter(0)
  ROOT %turned = f32[8,4]{1,0} transpose(%p), dimensions={1,0}
}

%yes (x: f32[]) -> f32[] {
  ROOT %x = f32[] parameter(0)
}

ENTRY %main (a: f32[4,8], n: (s32[], /*index=1*/bf16[2]{0})) -> f32[8,4] {
  %a = f32[4,8]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  %pick = f32[] conditional(%n, %a), branch_computations={%yes, %fused}
  %gemm = (f32[8,4]{1,0}, s8[33]{0}) custom-call(%a), custom_call_target="__cublas$gemm"
  ROOT %f.1 = f32[8,4]{1,0} fusion(%a), kind=kLoop, calls=%fused, metadata={op_name="jit(step)/p[\'a\"b\']/transpose" stack_frame_id=3}, backend_config={"fusion_config":{"kind":"__ynn_fusion"}}
}
"""


def test_reads_a_module():
    program = hlo.parse(TEXT)
    assert (program.name, program.entry) == ("jit_step", "main")
    assert set(program.computations) == {"fused", "yes", "main"}
    fusion = program.instructions["f.1"]
    assert (fusion.opcode, fusion.type) == ("fusion", "f32[8,4]{1,0}")
    assert fusion.operand == "a" and fusion.nbytes == 8 * 4 * 4
    assert fusion.op_name == r"jit(step)/p[\'a\"b\']/transpose"
    assert fusion.target == "__ynn_fusion"
    assert program.instructions["a"].opcode == "parameter"
    assert program.instructions["a"].operand == ""
    gemm = program.instructions["gemm"]
    assert gemm.target == "__cublas$gemm" and gemm.nbytes == 8 * 4 * 4 + 33
    assert list(program.instructions["pick"].callees()) == ["yes", "fused"]
    inside = [i.name for i in program.inside(fusion)]
    assert inside == ["f.1", "p", "turned"]


def test_what_the_compiler_made_comes_from_its_neighbours():
    text = r"""HloModule jit_f

%inner (p: f32[8]) -> f32[8] {
  ROOT %tanh = f32[8]{0} tanh(%p), metadata={op_name="jit(f)/mlp/tanh"}
}

ENTRY %main (a: f32[8]) -> f32[8] {
  %a = f32[8]{0} parameter(0)
  %made = f32[8]{0} copy(%a)
  %also = f32[8]{0} bitcast(%made)
  %fused = f32[8]{0} fusion(%also), kind=kLoop, calls=%inner
  ROOT %out = f32[8]{0} add(%fused, %also), metadata={op_name="jit(f)/add"}
}
"""
    program = hlo.parse(text)
    origins = {n: program.origin(i) for n, i in program.instructions.items()}
    assert origins["out"] == "jit(f)/add"
    assert origins["fused"] == "jit(f)/mlp/tanh"
    assert origins["also"] == origins["made"] == "jit(f)/mlp/tanh"


def test_sizes_of_types():
    sizes = {
        "f32[8,64]{1,0}": 2048,
        "bf16[]": 2,
        "pred[3]": 3,
        "(s32[], /*index=1*/(u8[5]{0}, c64[2]{0}), token[])": 4 + 5 + 16,
        "s4[3]{0}": 2,
        "f8e4m3fn[16]": 16,
        "f32[<=8]{0}": 32,
    }
    assert {text: hlo.nbytes(text) for text in sizes} == sizes


def test_reads_what_the_compiler_writes():
    def step(x, w):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0].sum()

    args = jnp.ones((4, 8)), jnp.ones((3, 8, 8))
    program = hlo.parse(jax.jit(jax.grad(step, 1)).lower(*args).compile().as_text())
    assert program.name == "jit_step"
    inside = [i for x in program.computations[program.entry] for i in program.inside(x)]
    products = [i for i in inside if i.op_name.endswith("/dot_general")]
    assert 4 * 8 * 4 in {i.nbytes for i in products}
    assert "while" in {i.opcode for i in program.computations[program.entry]}
