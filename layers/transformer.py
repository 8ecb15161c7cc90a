"""Transformer encoder: blocks that normalise before attention and before the MLP.

A. Vaswani et al., "Attention Is All You Need", 2017, https://arxiv.org/abs/1706.03762, in
the pre-norm form of R. Xiong et al., "On Layer Normalization in the Transformer
Architecture", 2020, https://arxiv.org/abs/2002.04745; layer scale from H. Touvron et al.,
"Going deeper with Image Transformers", 2021, https://arxiv.org/abs/2103.17239.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from layers.activations import Activation
from layers.attention import MultiHeadAttention
from layers.drop_path import DropPath
from layers.mlp import Mlp
from layers.normalization import LayerNorm

Initializer = nn.initializers.Initializer
REMAT = ("none", "block", "dots")


class EncoderBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)).

    Submodules: `attention_norm`, `attention`, `mlp_norm`, `mlp`; with layer scale the
    parameters `attention_scale`, `mlp_scale` [D].

    Args:
        num_heads: N.
        mlp_dim: F.
        head_dim: H; None for D / N.
        activation: of the MLP; a function, or a name of `layers.activations`.
        causal: each position sees itself and those before it.
        use_key_bias: False leaves the attention's keys without one.
        dropout_rate: of both branches' outputs and inside the MLP.
        attention_dropout_rate: of the attention weights.
        drop_path_rate: probability that an example skips a branch.
        layer_scale: initial factor of both branches, learned per channel; None for none.
        norm_epsilon: of both norms.
        implementation: of `layers.attention.dot_product_attention`.
        dtype: of the computation; None for that of input and parameters together.
    """

    num_heads: int
    mlp_dim: int
    head_dim: int | None = None
    activation: Activation | str = "gelu"
    causal: bool = False
    use_bias: bool = True
    use_key_bias: bool = True
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    drop_path_rate: float = 0.0
    layer_scale: float | None = None
    norm_epsilon: float = 1e-6
    implementation: str | None = None
    kernel_init: Initializer = nn.initializers.xavier_uniform()
    bias_init: Initializer = nn.initializers.zeros
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        *,
        mask: jax.Array | None = None,
        bias: jax.Array | None = None,
        train: bool = False,
        drop_path_rate: jax.Array | None = None,
    ) -> jax.Array:
        """x: [B, T, D] -> [B, T, D].

        Args:
            x: [B, T, D].
            mask, bias: as in `layers.attention.dot_product_attention`.
            train: whether to drop.
            drop_path_rate: float [], instead of the field.
        """
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        projections = {
            "use_bias": self.use_bias,
            "kernel_init": self.kernel_init,
            "bias_init": self.bias_init,
            **dtypes,
        }

        def add(x: jax.Array, branch: jax.Array, name: str) -> jax.Array:
            branch = nn.Dropout(self.dropout_rate, name=f"{name}_dropout")(
                branch, deterministic=not train
            )
            if self.layer_scale is not None:
                init = nn.initializers.constant(self.layer_scale)
                shape = branch.shape[-1:]
                scale = self.param(f"{name}_scale", init, shape, self.param_dtype)
                branch = branch * scale.astype(branch.dtype)
            drop_path = DropPath(self.drop_path_rate, name=f"{name}_drop_path")
            return x + drop_path(branch, train=train, rate=drop_path_rate)

        y = LayerNorm(epsilon=self.norm_epsilon, name="attention_norm", **dtypes)(x)
        y = MultiHeadAttention(
            self.num_heads,
            head_dim=self.head_dim,
            causal=self.causal,
            use_key_bias=self.use_key_bias,
            dropout_rate=self.attention_dropout_rate,
            implementation=self.implementation,
            name="attention",
            **projections,
        )(y, mask=mask, bias=bias, train=train)
        x = add(x, y, "attention")
        y = LayerNorm(epsilon=self.norm_epsilon, name="mlp_norm", **dtypes)(x)
        y = Mlp(
            self.mlp_dim,
            activation=self.activation,
            dropout_rate=self.dropout_rate,
            name="mlp",
            **projections,
        )(y, train=train)
        return add(x, y, "mlp")


class Encoder(nn.Module):
    """`num_layers` equal blocks and a final norm.

    Submodules: `block_0`, `block_1`, ... or, with `scan`, `blocks`, whose parameters have a
    leading dimension of `num_layers`; `norm`.

    Args:
        num_layers: number of blocks.
        drop_path_rate: of the last block; the first has 0, between them it grows linearly.
        final_norm: whether to normalise the result.
        scan: compile one block and loop over it: short compilation, the same numbers, but
            different random draws.
        remat: what the backward pass computes again to save memory: 'none'; 'block', all
            of a block; 'dots', all but the products with parameters. Worth it with `scan`
            on CPU, with or without it on accelerators.
        The others: as in `EncoderBlock`.
    """

    num_layers: int
    num_heads: int
    mlp_dim: int
    head_dim: int | None = None
    activation: Activation | str = "gelu"
    causal: bool = False
    use_bias: bool = True
    use_key_bias: bool = True
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    drop_path_rate: float = 0.0
    layer_scale: float | None = None
    norm_epsilon: float = 1e-6
    final_norm: bool = True
    implementation: str | None = None
    kernel_init: Initializer = nn.initializers.xavier_uniform()
    bias_init: Initializer = nn.initializers.zeros
    scan: bool = False
    remat: str = "none"
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        *,
        mask: jax.Array | None = None,
        bias: jax.Array | None = None,
        train: bool = False,
        return_intermediates: bool = False,
    ) -> Any:
        """x: [B, T, D] -> [B, T, D].

        Args:
            x: [B, T, D].
            mask, bias: as in `layers.attention.dot_product_attention`, for every block.
            train: whether to drop.
            return_intermediates: also return every block's output, without the final norm.

        Returns:
            [B, T, D], or that and a tuple of `num_layers` such arrays.
        """

        def apply_block(block, x, rate):
            return block(x, mask=mask, bias=bias, train=train, drop_path_rate=rate)

        apply_block = rematerialize(apply_block, self.remat, scan=self.scan)
        run = self._scan if self.scan else self._loop
        x, intermediates = run(apply_block, x, return_intermediates)
        if self.final_norm:
            x = LayerNorm(
                epsilon=self.norm_epsilon,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
                name="norm",
            )(x)
        return (x, intermediates) if return_intermediates else x

    def _block(self, name: str, drop_path_rate: float) -> EncoderBlock:
        shared = set(EncoderBlock.__dataclass_fields__) - {"parent", "name"}
        fields = {field: getattr(self, field) for field in shared}
        fields["drop_path_rate"] = drop_path_rate
        return EncoderBlock(name=name, **fields)

    def _drop_path_rate(self, layer: Any) -> Any:
        return self.drop_path_rate * layer / max(self.num_layers - 1, 1)

    def _loop(self, apply_block, x, return_intermediates):
        outputs = []
        for i in range(self.num_layers):
            x = apply_block(self._block(f"block_{i}", self._drop_path_rate(i)), x, None)
            outputs.append(x)
        return x, tuple(outputs)

    def _scan(self, apply_block, x, return_intermediates):
        def body(block, x, layer):
            rate = self._drop_path_rate(layer) if self.drop_path_rate else None
            x = apply_block(block, x, rate)
            return x, x if return_intermediates else None

        scanned = nn.scan(
            body,
            variable_axes={"params": 0, "attention_weights": 0},
            split_rngs={"params": True, "dropout": True},
            length=self.num_layers,
        )
        layers = jnp.arange(self.num_layers, dtype=jnp.float32)
        x, stacked = scanned(self._block("blocks", 0.0), x, layers)
        return x, tuple(stacked) if return_intermediates else ()


def rematerialize(
    apply_block: Callable[..., Any], remat: str, *, scan: bool
) -> Callable[..., Any]:
    """`apply_block(module, *arrays)` with a memory policy for its backward pass.

    Args:
        remat: 'none', 'block' (keep only the block's input) or 'dots' (also keep the
            results of products with parameters).
        scan: whether a scan's body calls it.

    Raises:
        ValueError: unknown policy.
    """
    if remat not in REMAT:
        raise ValueError(f"unknown remat {remat!r}; known: {', '.join(REMAT)}")
    if remat == "none":
        return apply_block
    policy = None
    if remat == "dots":
        policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    # A scan's body cannot be merged with its recomputation; outside it must be prevented.
    return nn.remat(apply_block, policy=policy, prevent_cse=not scan)
