"""DeiT with distillation: a ViT with a second token, which a teacher teaches.

Paper: H. Touvron, M. Cord, M. Douze, F. Massa, A. Sablayrolles, H. Jegou, "Training
data-efficient image transformers & distillation through attention", 2020,
https://arxiv.org/abs/2012.12877. DeiT without distillation is `vision.models.vit.ViT`.

The class token's head learns labels, the distillation token's head a teacher's answers (by
`vision.tasks.distillation`, from `StudentAndTeacher`); together they answer in evaluation.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from layers.dense import Dense
from layers.transformer import Encoder
from vision.layers.patches import PatchEmbedding, PatchSize

_INIT = nn.initializers.truncated_normal(0.02)


class DeiT(nn.Module):
    """Patch embedding, two tokens, positions, Transformer encoder, two linear heads.

    Submodules: `patch_embedding`, `encoder`, `head`, `distillation_head`; parameters
    `class_token`, `distillation_token`, `position_embedding`.

    Args:
        num_classes: K; 0 leaves the heads out.
        patch_size: P, or (height, width); must divide the image's.
        embed_dim: D.
        num_layers: blocks of the encoder.
        num_heads: N; must divide D.
        mlp_dim: F; hidden width of a block's MLP.
        dropout_rate: of embeddings and of every block's outputs.
        drop_path_rate: of the last block; the first has 0, between them it grows linearly.
        activation: in the MLPs, a name of `layers.activations`.
        norm_epsilon: of every LayerNorm; Hugging Face's DeiTs have 1e-12.
        attention_implementation: of `layers.attention.dot_product_attention`.
        scan: one compiled block for all layers; parameters are stacked under `blocks`.
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
    dropout_rate: float = 0.0
    drop_path_rate: float = 0.0
    activation: str = "gelu"
    norm_epsilon: float = 1e-6
    attention_implementation: str | None = None
    scan: bool = False
    remat: str = "none"
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def setup(self):
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        self.encoder = Encoder(
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            mlp_dim=self.mlp_dim,
            activation=self.activation,
            dropout_rate=self.dropout_rate,
            drop_path_rate=self.drop_path_rate,
            norm_epsilon=self.norm_epsilon,
            implementation=self.attention_implementation,
            scan=self.scan,
            remat=self.remat,
            **dtypes,
        )
        if self.num_classes:
            self.head = Dense(self.num_classes, kernel_init=_INIT, **dtypes)
            self.distillation_head = Dense(
                self.num_classes, kernel_init=_INIT, **dtypes
            )

    @nn.compact
    def embed(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """Tokens with positions: [B, H, W, C] -> [B, T + 2, D]: the class token, the
        distillation token, then T = (H / P) * (W / P) patches row by row."""
        B, D = len(image), self.embed_dim
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = PatchEmbedding(self.patch_size, D, name="patch_embedding", **dtypes)(image)
        x = x.reshape(B, -1, D)
        tokens = [
            jnp.broadcast_to(
                self.param(name, _INIT, (1, 1, D), self.param_dtype).astype(x.dtype),
                (B, 1, D),
            )
            for name in ("class_token", "distillation_token")
        ]
        x = jnp.concatenate([*tokens, x], axis=1)
        positions = self.param(
            "position_embedding", _INIT, (1, x.shape[1], D), self.param_dtype
        )
        x = x + positions.astype(x.dtype)
        return nn.Dropout(self.dropout_rate, name="dropout")(x, deterministic=not train)

    def features(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """Encoded tokens, in the order of `embed`: [B, H, W, C] -> [B, T + 2, D]."""
        return self.encoder(self.embed(image, train=train), train=train)

    def represent(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """One vector per image: [B, D], the mean of what the two heads see."""
        return self.features(image, train=train)[:, :2].mean(1)

    def __call__(self, image: jax.Array, *, train: bool = False) -> Any:
        """Logits [B, K] of normalised images, float [B, H, W, C].

        In evaluation they are the mean of both heads'. In training a tuple: those of the
        class token, those of the distillation token.
        """
        if not self.num_classes:
            return self.represent(image, train=train)
        x = self.features(image, train=train)
        logits = self.head(x[:, 0]), self.distillation_head(x[:, 1])
        return logits if train else (logits[0] + logits[1]) / 2


@flax.struct.dataclass
class Lesson:
    """What a student says in training, and what its teacher says of the same images.

    Args:
        logits: float [B, K], to be judged by labels.
        distillation_logits: float [B, K], to be judged by the teacher; `logits` again
            where the student has one head.
        teacher_logits: float [B, K], without gradient.
    """

    logits: jax.Array
    distillation_logits: jax.Array
    teacher_logits: jax.Array


class StudentAndTeacher(nn.Module):
    """A student, and a frozen teacher that answers in training only.

    The teacher runs as in evaluation and passes no gradient on, so that neither its
    parameters nor its statistics change; freeze `^teacher/` in the optimizer as well
    (`training.optimizer.with_rules`), which else would decay it. Parameters: `student`,
    `teacher`.

    Args:
        student: a module from images to logits [B, K], or in training to two of them, as
            `DeiT`: the first for labels, the second for the teacher.
        teacher: a module from images to logits [B, K].
    """

    student: nn.Module
    teacher: nn.Module

    @property
    def num_classes(self) -> int:
        """K."""
        return self.student.num_classes

    def features(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """Those of the student."""
        return self.student.features(image, train=train)

    def represent(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """One vector per image, the student's: [B, D]."""
        return self.student.represent(image, train=train)

    def __call__(self, image: jax.Array, *, train: bool = False) -> Any:
        """Normalised images, float [B, H, W, C], to the student's logits [B, K]; in
        training to a `Lesson`.

        Raises:
            ValueError: student and teacher know different numbers of classes.
        """
        if self.student.num_classes != self.teacher.num_classes:
            raise ValueError(
                f"the student has num_classes={self.student.num_classes} and the teacher "
                f"{self.teacher.num_classes}; they must agree"
            )
        outputs = self.student(image, train=train)
        if not train and not self.is_initializing():
            return outputs
        teacher_logits = jax.lax.stop_gradient(self.teacher(image, train=False))
        if not train:
            return outputs
        heads = outputs if isinstance(outputs, tuple) else (outputs, outputs)
        return Lesson(heads[0], heads[1], teacher_logits)


DeiT_Ti16 = partial(DeiT, embed_dim=192, num_heads=3, mlp_dim=768)
DeiT_S16 = partial(DeiT, embed_dim=384, num_heads=6, mlp_dim=1536)
DeiT_B16 = partial(DeiT, embed_dim=768, num_heads=12, mlp_dim=3072)
