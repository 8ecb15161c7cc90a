"""BEiT: a Transformer that guesses the visual tokens of patches it does not see.

Paper: H. Bao, L. Dong, S. Piao, F. Wei, "BEiT: BERT Pre-Training of Image Transformers",
2021, https://arxiv.org/abs/2106.08254. `BEiT` is the network (also of BEiT v2), a ViT whose
attention knows where patches lie from a learned bias per offset instead of from positions
added to them, whose branches are scaled per channel and whose keys have no bias;
`BEiTPretraining` hides patches from it and guesses their tokens.

Deviation: the authors shrink the initial output projections of later layers, which layer
scale does already.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from layers.dense import Dense
from layers.normalization import LayerNorm
from layers.transformer import EncoderBlock, rematerialize
from vision.layers.patches import PatchEmbedding, PatchSize, sides

_INIT = nn.initializers.truncated_normal(0.02)


def relative_position_index(height: int, width: int) -> np.ndarray:
    """Which row of a bias table belongs to each pair of tokens of a grid.

    Args:
        height, width: patches per column and per row.

    Returns:
        int32 [T + 1, T + 1], T = height * width, query first, the class token at 0. Rows of
        the table below (2 height - 1) * (2 width - 1) are offsets of two patches, query
        less key, row by row; the next three are from the class token to a patch, from a
        patch to the class token, and from the class token to itself.
    """
    offsets = (2 * height - 1) * (2 * width - 1)
    y, x = np.divmod(np.arange(height * width), width)
    dy, dx = y[:, None] - y + height - 1, x[:, None] - x + width - 1
    index = np.full((height * width + 1,) * 2, offsets, np.int32)
    index[1:, 1:] = dy * (2 * width - 1) + dx
    index[1:, 0] = offsets + 1
    index[0, 0] = offsets + 2
    return index


class RelativePositionBias(nn.Module):
    """A number per head and offset of two patches, and three for the class token.

    Parameters: `table` [(2 h - 1) * (2 w - 1) + 3, N].
    """

    num_heads: int
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, grid: tuple[int, int]) -> jax.Array:
        """What to add to the attention's logits for h * w patches: [1, N, T + 1, T + 1]."""
        index = relative_position_index(*grid)
        table = self.param(
            "table",
            nn.initializers.zeros,
            (index.max() + 1, self.num_heads),
            self.param_dtype,
        )
        return table[index].transpose(2, 0, 1)[None]


class BEiT(nn.Module):
    """Patch embedding, class token, blocks with relative positions, pooling, linear head.

    Offers what `vision.models.vit.ViT` does: `embed`, `encode`, `pool`, `features`,
    `represent`. Parameters: `patch_embedding`, `class_token`, `block_<i>`,
    `position_bias_<i>` or `position_bias`, `norm`, `head`.

    Args:
        num_classes: K; 0 leaves the head out.
        patch_size: P, or (height, width); must divide the image's.
        embed_dim: D.
        num_layers: blocks.
        num_heads: N; must divide D.
        mlp_dim: F; hidden width of a block's MLP.
        pooling: 'average' (of the patches, `norm` after it: fine-tuned models) or 'token'
            (the class token, `norm` before it: pretraining). So the tokens of `encode` are
            normalised with 'token' only.
        shared_position_bias: one bias table for all blocks, as in pretraining, instead of
            one for each; to go on from the one, copy it into each of the others.
        positions: 'none', or 'learned' ones added to the tokens besides.
        dropout_rate: of every block's outputs.
        attention_dropout_rate: of attention weights.
        drop_path_rate: of the last block; the first has 0, between them it grows linearly.
        layer_scale: initial factor of every branch; None for none.
        norm_epsilon: of every LayerNorm; Hugging Face's BEiTs have 1e-12.
        attention_implementation: of `layers.attention.dot_product_attention`.
        remat: 'none', 'block' or 'dots'; what the backward pass computes again.
        dtype: of the computation; None takes the input's.
        param_dtype: of the parameters.
    """

    num_classes: int
    patch_size: PatchSize = 16
    embed_dim: int = 768
    num_layers: int = 12
    num_heads: int = 12
    mlp_dim: int = 3072
    pooling: str = "average"
    shared_position_bias: bool = False
    positions: str = "none"
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    drop_path_rate: float = 0.0
    layer_scale: float | None = 0.1
    norm_epsilon: float = 1e-6
    attention_implementation: str | None = None
    remat: str = "none"
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def setup(self):
        for name, known in (
            ("pooling", ("token", "average")),
            ("positions", ("learned", "none")),
        ):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}; known: {', '.join(known)}"
                )
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        self.patch_embedding = PatchEmbedding(self.patch_size, self.embed_dim, **dtypes)
        shape = (1, 1, self.embed_dim)
        self.class_token = self.param("class_token", _INIT, shape, self.param_dtype)
        block = partial(
            EncoderBlock,
            num_heads=self.num_heads,
            mlp_dim=self.mlp_dim,
            use_key_bias=False,
            dropout_rate=self.dropout_rate,
            attention_dropout_rate=self.attention_dropout_rate,
            layer_scale=self.layer_scale,
            norm_epsilon=self.norm_epsilon,
            implementation=self.attention_implementation,
            kernel_init=_INIT,
            **dtypes,
        )
        rates = np.linspace(0, self.drop_path_rate, self.num_layers)
        self.blocks = [
            block(drop_path_rate=float(rate), name=f"block_{i}")
            for i, rate in enumerate(rates)
        ]
        bias = partial(RelativePositionBias, self.num_heads, self.param_dtype)
        if self.shared_position_bias:
            self.biases = [bias(name="position_bias")]
        else:
            self.biases = [
                bias(name=f"position_bias_{i}") for i in range(self.num_layers)
            ]
        self.norm = LayerNorm(epsilon=self.norm_epsilon, **dtypes)
        if self.num_classes:
            self.head = Dense(
                self.num_classes, kernel_init=nn.initializers.zeros, **dtypes
            )

    def grid(self, image: jax.Array) -> tuple[int, int]:
        """Patches per column and per row of images [B, H, W, C]."""
        height, width = sides(self.patch_size)
        return image.shape[1] // height, image.shape[2] // width

    @nn.compact
    def embed(
        self,
        image: jax.Array,
        *,
        train: bool = False,
        patch_fn: Any = None,
    ) -> jax.Array:
        """The class token and the patches: [B, H, W, C] -> [B, 1 + T, D].

        Args:
            image: float [B, H, W, C].
            train: whether to drop.
            patch_fn: changes the patches' vectors, [B, T, D], before they get company; None
                leaves them.

        Raises:
            ValueError: P does not divide H and W.
        """
        x = self.patch_embedding(image)
        x = x.reshape(len(x), -1, self.embed_dim)
        if patch_fn is not None:
            x = patch_fn(x)
        token = self.class_token.astype(x.dtype)
        token = jnp.broadcast_to(token, (len(x), 1, self.embed_dim))
        x = jnp.concatenate([token, x], axis=1)
        if self.positions == "learned":
            shape = (1, *x.shape[1:])
            table = self.param("position_embedding", _INIT, shape, self.param_dtype)
            x = x + table.astype(x.dtype)
        return nn.Dropout(self.dropout_rate, name="dropout")(x, deterministic=not train)

    def encode(
        self,
        tokens: jax.Array,
        *,
        grid: tuple[int, int] | None = None,
        train: bool = False,
    ) -> jax.Array:
        """Outputs of the last block, normalised if `pooling` is 'token': [B, 1 + T, D].

        Args:
            tokens: [B, 1 + T, D], from `embed`.
            grid: patches per column and per row; None for a square.
            train: whether to drop.

        Raises:
            ValueError: the grid has another number of patches.
        """
        T = tokens.shape[1] - 1
        grid = grid or (round(T**0.5),) * 2
        if grid[0] * grid[1] != T:
            raise ValueError(
                f"{T} patches do not make a grid of {grid[0]}x{grid[1]}; give `grid`"
            )
        apply_block = rematerialize(
            lambda block, x, bias: block(x, bias=bias, train=train),
            self.remat,
            scan=False,
        )
        biases = [bias(grid) for bias in self.biases]
        if self.shared_position_bias:
            biases *= self.num_layers
        for block, bias in zip(self.blocks, biases, strict=True):
            tokens = apply_block(block, tokens, bias)
        return self.norm(tokens) if self.pooling == "token" else tokens

    def pool(self, tokens: jax.Array, *, train: bool = False) -> jax.Array:
        """Encoded tokens [B, 1 + T, D] to one vector per image: [B, D]."""
        del train
        return (
            tokens[:, 0]
            if self.pooling == "token"
            else self.norm(tokens[:, 1:].mean(1))
        )

    def features(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """Encoded tokens, the class token first: [B, H, W, C] -> [B, 1 + T, D]."""
        tokens = self.embed(image, train=train)
        return self.encode(tokens, grid=self.grid(image), train=train)

    def represent(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """One vector per image, what the head sees: [B, D]."""
        return self.pool(self.features(image, train=train), train=train)

    def __call__(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """Logits [B, K] of normalised images, float [B, H, W, C]."""
        x = self.represent(image, train=train)
        return self.head(x) if self.num_classes else x


@flax.struct.dataclass
class TokenPrediction:
    """What `BEiTPretraining` returns.

    Args:
        logits: float [B, T, V]; of every patch, visible ones too.
        mask: bool [B, T]; True where the patch was hidden.
    """

    logits: jax.Array
    mask: jax.Array


class BEiTPretraining(nn.Module):
    """A learned vector in place of hidden patches, the backbone, logits of visual tokens.

    Parameters: `backbone`, `mask_token` [1, 1, D], `head` (kernel [D, V]), perhaps `norm`.

    Args:
        backbone: a `BEiT` with `pooling` 'token' and no classes.
        vocab_size: V; the tokenizer's.
        extra_norm: one more LayerNorm before the head, as Hugging Face's models have without
            mean pooling.
    """

    backbone: BEiT
    vocab_size: int = 8192
    extra_norm: bool = False

    def setup(self):
        backbone = self.backbone
        if backbone.pooling != "token":
            raise ValueError(
                f"pooling is {backbone.pooling!r}, which leaves tokens without a norm; "
                "pretrain with backbone.pooling='token'"
            )
        dtypes = {"dtype": backbone.dtype, "param_dtype": backbone.param_dtype}
        shape = (1, 1, backbone.embed_dim)
        self.mask_token = self.param("mask_token", _INIT, shape, backbone.param_dtype)
        if self.extra_norm:
            self.norm = LayerNorm(epsilon=backbone.norm_epsilon, **dtypes)
        self.head = Dense(self.vocab_size, kernel_init=_INIT, **dtypes)

    @property
    def patch_size(self) -> PatchSize:
        """P, or (height, width), of the backbone."""
        return self.backbone.patch_size

    def __call__(
        self, image: jax.Array, mask: jax.Array, *, train: bool = False
    ) -> TokenPrediction:
        """Logits of every patch's token.

        Args:
            image: float [B, H, W, C], normalised.
            mask: bool [B, T]; True hides the patch, of which nothing is seen then.
            train: whether the backbone drops.

        Raises:
            ValueError: a mask of another shape or dtype.
        """
        grid = self.backbone.grid(image)
        expected = (len(image), grid[0] * grid[1])
        if mask.shape != expected or mask.dtype != jnp.bool_:
            raise ValueError(
                f"mask is {mask.dtype} of shape {mask.shape}; it must be bool {expected}, "
                "one value per patch, True where it is hidden"
            )

        def hide(patches: jax.Array) -> jax.Array:
            token = self.mask_token.astype(patches.dtype)
            return jnp.where(mask[..., None], token, patches)

        tokens = self.backbone.embed(image, train=train, patch_fn=hide)
        encoded = self.backbone.encode(tokens, grid=grid, train=train)[:, 1:]
        if self.extra_norm:
            encoded = self.norm(encoded)
        return TokenPrediction(self.head(encoded), mask)

    def represent(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """The backbone's vector per image, nothing hidden: [B, D]."""
        return self.backbone.represent(image, train=train)


BEiT_B16 = partial(
    BEiT, patch_size=16, embed_dim=768, num_layers=12, num_heads=12, mlp_dim=3072
)
BEiT_L16 = partial(
    BEiT,
    patch_size=16,
    embed_dim=1024,
    num_layers=24,
    num_heads=16,
    mlp_dim=4096,
    layer_scale=1e-5,
)
