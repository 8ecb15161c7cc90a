"""The benchmark of MAE's saving: what it counts is what theory says."""

import jax.numpy as jnp
import pytest

from benchmarks import mae


def theory(patches: int, prefix: int, dim: int, layers: int, mlp: int) -> float:
    """FLOPs of a Transformer's forward pass on one sequence."""
    tokens = patches + prefix
    return layers * tokens * (8 * dim**2 + 4 * dim * mlp + 4 * tokens * dim)


def step(visible: int, depth: int) -> float:
    """FLOPs of an update of ViT-B/16, three times the forward pass, an image."""
    encoder = theory(visible, 1, 768, 12, 3072) + 2 * 196 * 768**2
    decoder = theory(196, 1, 512, depth, 2048)
    decoder += 2 * (visible + 1) * 768 * 512 + 2 * 196 * 512 * 768
    # The image needs no gradient, so the patch embedding's product is done twice.
    return 3 * (encoder + decoder) - 2 * 196 * 768**2


@pytest.mark.parametrize("depth", [4, pytest.param(8, marks=pytest.mark.slow)])
def test_flops_and_their_ratio(depth):
    batch = {"image": jnp.zeros((2, 224, 224, 3), jnp.uint8)}
    masked, every = (
        mae.step_flops(mae.build(kind, "B/16", depth, 0.75, None), batch)
        for kind in (mae.MAE, mae.EveryPatch)
    )
    assert masked == pytest.approx(2 * step(49, depth), rel=0.01)
    assert every == pytest.approx(2 * step(196, depth), rel=0.01)
    # With the paper's 8 blocks the decoder weighs too much for 2.5.
    assert every / masked == pytest.approx({4: 2.87, 8: 2.36}[depth], abs=0.03)
