"""The Transformer's blocks and stacks of them: encoder, decoder, and both in one.

A. Vaswani et al., "Attention Is All You Need", 2017, https://arxiv.org/abs/1706.03762,
whose blocks normalise after each sum; `pre_norm` before each branch: R. Xiong et al., "On
Layer Normalization in the Transformer Architecture", 2020,
https://arxiv.org/abs/2002.04745; layer scale from H. Touvron et al., "Going deeper with
Image Transformers", 2021, https://arxiv.org/abs/2103.17239.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from layers.activations import Activation
from layers.attention import MultiHeadAttention
from layers.drop_path import DropPath
from layers.mlp import Mlp
from layers.normalization import LayerNorm, RMSNorm

Initializer = nn.initializers.Initializer
REMAT = ("none", "block", "dots")


def norm(kind: str, epsilon: float, **options: Any) -> nn.Module:
    """LayerNorm for 'layer', RMSNorm for 'rms'.

    Raises:
        ValueError: unknown kind.
    """
    norms = {"layer": LayerNorm, "rms": RMSNorm}
    if kind not in norms:
        raise ValueError(f"unknown norm {kind!r}; known: {', '.join(norms)}")
    return norms[kind](epsilon=epsilon, **options)


class EncoderBlock(nn.Module):
    """x + attention(norm(x)), perhaps the same to a memory, then x + mlp(norm(x)).

    With `pre_norm=False`, norm(x + attention(x)) and so on. Submodules: `attention_norm`,
    `attention`, with cross-attention `cross_attention_norm`, `cross_attention`, `mlp_norm`,
    `mlp`; with layer scale the parameters `attention_scale`, `mlp_scale` [D].

    Args:
        num_heads: N.
        mlp_dim: F.
        head_dim: H; None for D / N.
        num_kv_heads: heads of keys and values; None for N.
        activation: of the MLP; a function, or a name of `layers.activations`.
        gated: whether the MLP is (`layers.mlp.Mlp`).
        pre_norm: normalise what enters a branch, not the sum.
        norm: 'layer' or 'rms'.
        causal: each position sees itself and those before it.
        cross_attention: whether the block reads a memory.
        attention_scale: of the logits; None for 1 / sqrt(H).
        rotary_base: of rotary positions in self-attention; None for none.
        use_key_bias: False leaves the attention's keys without one.
        dropout_rate: of all branches' outputs.
        mlp_dropout_rate: inside the MLP; None for `dropout_rate`.
        attention_dropout_rate: of the attention weights.
        drop_path_rate: probability that an example skips a branch.
        layer_scale: initial factor of the branches, learned per channel; None for none.
        norm_epsilon: of the norms.
        implementation: of `layers.attention.dot_product_attention`.
        query_init: of the kernel of every `query`; None for `kernel_init`.
        out_init: of the last kernel of each branch; None for `kernel_init`.
        dtype: of the computation; None for that of input and parameters together.
    """

    num_heads: int
    mlp_dim: int
    head_dim: int | None = None
    num_kv_heads: int | None = None
    activation: Activation | str = "gelu"
    gated: bool = False
    pre_norm: bool = True
    norm: str = "layer"
    causal: bool = False
    cross_attention: bool = False
    attention_scale: float | None = None
    rotary_base: float | None = None
    use_bias: bool = True
    use_key_bias: bool = True
    dropout_rate: float = 0.0
    mlp_dropout_rate: float | None = None
    attention_dropout_rate: float = 0.0
    drop_path_rate: float = 0.0
    layer_scale: float | None = None
    norm_epsilon: float = 1e-6
    implementation: str | None = None
    kernel_init: Initializer = nn.initializers.xavier_uniform()
    query_init: Initializer | None = None
    out_init: Initializer | None = None
    bias_init: Initializer = nn.initializers.zeros
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        memory: jax.Array | None = None,
        *,
        mask: jax.Array | None = None,
        bias: jax.Array | None = None,
        memory_mask: jax.Array | None = None,
        positions: jax.Array | None = None,
        cache_length: int | None = None,
        attend: Callable[..., jax.Array] | None = None,
        train: bool = False,
        drop_path_rate: jax.Array | None = None,
    ) -> jax.Array:
        """x: [B, T, D] -> [B, T, D].

        Args:
            x: [B, T, D].
            memory: [B, S, any dimension], for cross-attention; None if it is in the cache.
            mask, bias: of self-attention (`layers.attention.dot_product_attention`).
            memory_mask: bool [B or 1, N or 1, T or 1, S], of cross-attention.
            positions, cache_length, attend: of self-attention, as in
                `layers.attention.MultiHeadAttention`.
            train: whether to drop.
            drop_path_rate: float [], instead of the field.
        """
        drop = {"train": train, "drop_path_rate": drop_path_rate}
        caching = {"cache_length": cache_length, "train": train}
        attention = partial(
            self._attention("attention", causal=self.causal, rotary=self.rotary_base),
            mask=mask,
            bias=bias,
            positions=positions,
            attend=attend,
            **caching,
        )
        x = self._add(x, "attention", attention, **drop)
        if self.cross_attention:
            cross = self._attention("cross_attention", cross=True)
            reads = partial(cross, memory=memory, mask=memory_mask, **caching)
            x = self._add(x, "cross_attention", reads, **drop)
        inner = self.mlp_dropout_rate
        mlp = Mlp(
            self.mlp_dim,
            activation=self.activation,
            gated=self.gated,
            dropout_rate=self.dropout_rate if inner is None else inner,
            name="mlp",
            **self._projections(),
        )
        return self._add(x, "mlp", partial(mlp, train=train), **drop)

    def _attention(
        self, name: str, *, rotary: float | None = None, **options: Any
    ) -> MultiHeadAttention:
        return MultiHeadAttention(
            self.num_heads,
            head_dim=self.head_dim,
            num_kv_heads=self.num_kv_heads,
            scale=self.attention_scale,
            rotary_base=rotary,
            use_key_bias=self.use_key_bias,
            dropout_rate=self.attention_dropout_rate,
            implementation=self.implementation,
            query_init=self.query_init,
            name=name,
            **options,
            **self._projections(),
        )

    def _projections(self) -> dict[str, Any]:
        names = ("use_bias", "kernel_init", "out_init", "bias_init")
        return {name: getattr(self, name) for name in (*names, "dtype", "param_dtype")}

    def _add(
        self,
        x: jax.Array,
        name: str,
        branch: Callable[[jax.Array], jax.Array],
        *,
        train: bool,
        drop_path_rate: jax.Array | None,
    ) -> jax.Array:
        """The sum of x and its branch, with the norm before or after."""
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        normalize = norm(self.norm, self.norm_epsilon, name=f"{name}_norm", **dtypes)
        y = branch(normalize(x) if self.pre_norm else x)
        y = nn.Dropout(self.dropout_rate, name=f"{name}_dropout")(
            y, deterministic=not train
        )
        if self.layer_scale is not None:
            init = nn.initializers.constant(self.layer_scale)
            scale = self.param(f"{name}_scale", init, y.shape[-1:], self.param_dtype)
            y = y * scale.astype(y.dtype)
        drop_path = DropPath(self.drop_path_rate, name=f"{name}_drop_path")
        x = x + drop_path(y, train=train, rate=drop_path_rate)
        return x if self.pre_norm else normalize(x)


class Encoder(nn.Module):
    """`num_layers` equal blocks and a final norm; `Decoder` reads a memory and is causal.

    Submodules: `block_0`, `block_1`, ... or, with `scan`, `blocks`, whose parameters (and
    cache) have a leading dimension of `num_layers`; `norm`.

    Args:
        num_layers: number of blocks.
        drop_path_rate: of the last block; the first has 0, between them it grows linearly.
        final_norm: whether to normalise the result.
        shared: all layers are one block, `block_0`, and its parameters.
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
    num_kv_heads: int | None = None
    activation: Activation | str = "gelu"
    gated: bool = False
    pre_norm: bool = True
    norm: str = "layer"
    causal: bool = False
    cross_attention: bool = False
    attention_scale: float | None = None
    rotary_base: float | None = None
    use_bias: bool = True
    use_key_bias: bool = True
    dropout_rate: float = 0.0
    mlp_dropout_rate: float | None = None
    attention_dropout_rate: float = 0.0
    drop_path_rate: float = 0.0
    layer_scale: float | None = None
    norm_epsilon: float = 1e-6
    final_norm: bool = True
    shared: bool = False
    implementation: str | None = None
    kernel_init: Initializer = nn.initializers.xavier_uniform()
    query_init: Initializer | None = None
    out_init: Initializer | None = None
    bias_init: Initializer = nn.initializers.zeros
    scan: bool = False
    remat: str = "none"
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        memory: jax.Array | None = None,
        *,
        mask: jax.Array | None = None,
        bias: jax.Array | None = None,
        memory_mask: jax.Array | None = None,
        positions: jax.Array | None = None,
        cache_length: int | None = None,
        train: bool = False,
        return_intermediates: bool = False,
    ) -> Any:
        """x: [B, T, D] -> [B, T, D].

        Args:
            x: [B, T, D].
            memory, mask, bias, memory_mask, positions, cache_length: as in
                `EncoderBlock`, for every block.
            train: whether to drop.
            return_intermediates: also return every block's output, without the final norm.

        Returns:
            [B, T, D], or that and a tuple of `num_layers` such arrays.

        Raises:
            ValueError: unknown remat or norm; shared layers with a scan or a cache.
        """
        if self.shared and (self.scan or cache_length is not None):
            raise ValueError(
                "shared layers have neither a scan nor a cache of their own"
            )

        def apply_block(block, x, rate):
            return block(
                x,
                memory,
                mask=mask,
                bias=bias,
                memory_mask=memory_mask,
                positions=positions,
                cache_length=cache_length,
                train=train,
                drop_path_rate=rate,
            )

        apply_block = rematerialize(apply_block, self.remat, scan=self.scan)
        run = self._scan if self.scan else self._loop
        x, intermediates = run(apply_block, x, return_intermediates)
        if self.final_norm:
            dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
            x = norm(self.norm, self.norm_epsilon, name="norm", **dtypes)(x)
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
        block = self._block("block_0", 0.0) if self.shared else None
        for i in range(self.num_layers):
            rate = self._drop_path_rate(i)
            if self.shared:
                x = apply_block(block, x, rate if self.drop_path_rate else None)
            else:
                x = apply_block(self._block(f"block_{i}", rate), x, None)
            outputs.append(x)
        return x, tuple(outputs)

    def _scan(self, apply_block, x, return_intermediates):
        def body(block, x, layer):
            rate = self._drop_path_rate(layer) if self.drop_path_rate else None
            x = apply_block(block, x, rate)
            return x, x if return_intermediates else None

        scanned = nn.scan(
            body,
            variable_axes={"params": 0, "attention_weights": 0, "cache": 0},
            split_rngs={"params": True, "dropout": True},
            length=self.num_layers,
        )
        layers = jnp.arange(self.num_layers, dtype=jnp.float32)
        x, stacked = scanned(self._block("blocks", 0.0), x, layers)
        return x, tuple(stacked) if return_intermediates else ()


Decoder = partial(Encoder, causal=True, cross_attention=True)


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
