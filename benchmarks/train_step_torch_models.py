"""Models of `benchmarks/train_step` in torch that timm does not have.

Each is what its authors' code does, in plain torch: attention by torch's own fused
function, dropout left out, parameters as many as ours.
"""

import functools
import itertools
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.train_step_rows import Row

PATCH = 16


class CifarResNet20(nn.Module):
    """He's 20-layer network for 32x32 images, shortcuts without parameters."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        widths = (16, 16, 16, 16, 32, 32, 32, 64, 64, 64)
        self.blocks = nn.Sequential(
            *(_CifarBlock(*pair) for pair in itertools.pairwise(widths))
        )
        self.head = nn.Linear(64, num_classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """[B, 3, H, W] -> [B, num_classes]."""
        x = F.relu(self.norm(self.stem(image)))
        return self.head(self.blocks(x).mean((2, 3)))


class _CifarBlock(nn.Module):
    def __init__(self, before: int, width: int):
        super().__init__()
        self.stride, self.new = (1, 0) if before == width else (2, width - before)
        self.conv_0 = nn.Conv2d(
            before, width, 3, stride=self.stride, padding=1, bias=False
        )
        self.norm_0 = nn.BatchNorm2d(width)
        self.conv_1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm_1 = nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.norm_0(self.conv_0(x)))
        y = self.norm_1(self.conv_1(y))
        if self.new:
            x = x[:, :, :: self.stride, :: self.stride]
            x = F.pad(x, (0, 0, 0, 0, 0, self.new))
        return F.relu(y + x)


class GPT(nn.Module):
    """GPT-2's layout: learned positions, pre-norm blocks, the head tied to the table."""

    def __init__(
        self, vocab_size: int, length: int, width: int, num_layers: int, num_heads: int
    ):
        super().__init__()
        self.token = nn.Embedding(vocab_size, width)
        self.position = nn.Parameter(torch.zeros(length, width))
        self.blocks = nn.Sequential(
            *(_Block(width, num_heads) for _ in range(num_layers))
        )
        self.norm = nn.LayerNorm(width)
        for table in (self.token.weight, self.position):
            nn.init.normal_(table, std=0.02)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """int64 [B, T] -> [B, T, V]."""
        x = self.token(tokens) + self.position[: tokens.shape[1]]
        return F.linear(self.norm(self.blocks(x)), self.token.weight)


class _Block(nn.Module):
    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.norm_0, self.norm_1 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.projections = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        B, T, D = x.shape
        heads = self.projections(self.norm_0(x)).view(B, T, 3, self.num_heads, -1)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(B, T, D))
        y = F.gelu(self.up(self.norm_1(x)), approximate="tanh")
        return x + self.down(y)


class MaskedAutoencoder(nn.Module):
    """MAE around a ViT-B/16 of timm's blocks, masked as its authors do: shuffled by sorted
    noise, gathered, encoded; filled with mask tokens, gathered back, decoded.

    He et al., 2021, https://arxiv.org/abs/2111.06377.
    """

    def __init__(
        self,
        width: int = 768,
        num_layers: int = 12,
        num_heads: int = 12,
        decoder_width: int = 512,
        decoder_num_layers: int = 8,
        decoder_num_heads: int = 16,
        size: int = 224,
        mask_ratio: float = 0.75,
    ):
        from timm.models.vision_transformer import Block

        super().__init__()
        norm = functools.partial(nn.LayerNorm, eps=1e-6)
        T = (size // PATCH) ** 2
        self.kept = int(T * (1 - mask_ratio))
        self.patches = nn.Conv2d(3, width, PATCH, stride=PATCH)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.register_buffer("position", torch.randn(1, T + 1, width) * 0.02)
        self.encoder = nn.Sequential(
            *(
                Block(width, num_heads, qkv_bias=True, norm_layer=norm)
                for _ in range(num_layers)
            ),
            norm(width),
        )
        self.embedding = nn.Linear(width, decoder_width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_width))
        self.register_buffer(
            "decoder_position", torch.randn(1, T + 1, decoder_width) * 0.02
        )
        self.decoder = nn.Sequential(
            *(
                Block(decoder_width, decoder_num_heads, qkv_bias=True, norm_layer=norm)
                for _ in range(decoder_num_layers)
            ),
            norm(decoder_width),
            nn.Linear(decoder_width, PATCH**2 * 3),
        )

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[B, 3, H, W] -> pixels [B, T, P * P * 3], and 1 where hidden, [B, T]."""
        x = self.patches(image).flatten(2).transpose(1, 2) + self.position[:, 1:]
        B, T, D = x.shape
        order = torch.rand(B, T, device=x.device).argsort(1)
        restore = order.argsort(1)
        kept = order[:, : self.kept, None]
        x = x.gather(1, kept.expand(-1, -1, D))
        first = (self.class_token + self.position[:, :1]).expand(B, -1, -1)
        x = self.embedding(self.encoder(torch.cat([first.to(x.dtype), x], 1)))
        masks = self.mask_token.to(x.dtype).expand(B, T - self.kept, -1)
        y = torch.cat([x[:, 1:], masks], 1)
        y = y.gather(1, restore[..., None].expand(-1, -1, y.shape[-1]))
        y = torch.cat([x[:, :1], y], 1) + self.decoder_position
        hidden = (restore >= self.kept).float()
        return self.decoder(y)[:, 1:], hidden


def patch_sequence(image: torch.Tensor) -> torch.Tensor:
    """[B, 3, H, W] -> [B, T, P * P * 3], channels last within a patch."""
    B, C, H, W = image.shape
    grid = image.reshape(B, C, H // PATCH, PATCH, W // PATCH, PATCH)
    return grid.permute(0, 2, 4, 3, 5, 1).reshape(B, -1, PATCH**2 * C)


def _gpt(row: Row) -> GPT:
    """Of the sizes that the row gives ours, GPT-2's smallest by default."""
    model = row.task["model"]
    return GPT(
        model["vocab_size"],
        model["max_length"],
        model.get("embed_dim", 768),
        model.get("num_layers", 12),
        model.get("num_heads", 12),
    )


MODELS: dict[str, Callable[[Row], nn.Module]] = {
    "CifarResNet20": lambda row: CifarResNet20(row.task["model"]["num_classes"]),
    "GPT": _gpt,
    "MaskedAutoencoder": lambda row: MaskedAutoencoder(),
}
