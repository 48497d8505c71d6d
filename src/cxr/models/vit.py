"""A Vision Transformer: patches as tokens, pre-norm blocks, mean pooling of the tokens.

Dosovitskiy et al., "An image is worth 16x16 words", ICLR 2021, in the form of Beyer et al.,
"Better plain ViT baselines for ImageNet-1k", 2022: the mean of all tokens replaces the class token.
With mean pooling every token of the last block has a gradient, which Grad-CAM needs.
"""

from collections.abc import Iterable
from typing import Annotated, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from cxr.data.splits import Statistics
from cxr.errors import CxrError
from cxr.models import Network
from cxr.models.inputs import InputSpec
from cxr.params import Count, WithInit


class Hyper(WithInit):
    patch: Count  # pixels, height and width
    width: Count
    depth: Annotated[int, Field(ge=1, le=256)]  # the deepest in the paper has 32
    heads: Count
    mlp: Count

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> "Hyper":
        if self.width % self.heads:
            raise ValueError(f"heads ({self.heads}) must divide width ({self.width})")
        return self


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al., "Attention is all you need", 2017)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:  # (N, T, D) -> (N, T, D)
        query, key, value = self._heads(x)
        mixed = F.scaled_dot_product_attention(query, key, value)
        projected: Tensor = self.projection(mixed.transpose(1, 2).reshape(x.shape))
        return projected

    def weights(self, x: Tensor) -> Tensor:  # (N, T, D) -> (N, heads, T, T)
        """Attention weights between all pairs of tokens, which `forward` does not keep."""
        query, key, _ = self._heads(x)
        return F.softmax(query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5, dim=-1)

    def _heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # each (N, heads, T, D / heads)
        n, t, d = x.shape
        qkv = self.qkv(x).view(n, t, 3, self.heads, d // self.heads)
        query, key, value = qkv.unbind(2)  # before transposing: the gradient then needs one copy
        return query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, heads: int, mlp: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, mlp), nn.GELU(), nn.Linear(mlp, width))

    def forward(self, x: Tensor) -> Tensor:  # (N, T, D) -> (N, T, D)
        x = x + self.attention(self.attention_norm(x))
        x = x + self.mlp(self.mlp_norm(x))
        return x


class VisionTransformer(Network):
    """`feature_map` is the grid of tokens after the last norm; `classify` pools it for the head.

    Maps from before that norm would be meaningless: the norm is invariant to a token's scale, so
    the product of a token and its gradient is always zero.
    """

    def __init__(
        self,
        image_size: int,
        channels: int,
        patch: int,
        width: int,
        depth: int,
        heads: int,
        mlp: int,
        n_labels: int,
    ) -> None:
        super().__init__()
        self.grid = image_size // patch
        self.patches = nn.Conv2d(channels, width, kernel_size=patch, stride=patch)
        self.positions = nn.Parameter(self.patches.weight.new_empty(1, self.grid**2, width))
        self.reset_parameters()
        self.blocks = nn.Sequential(*(Block(width, heads, mlp) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, n_labels)

    def reset_parameters(self) -> None:
        """Reinitialise the position embeddings, which belong to no layer."""
        nn.init.trunc_normal_(self.positions, std=0.02)

    def feature_map(self, x: Tensor) -> Tensor:  # (N, C, H, W) -> (N, D, grid, grid)
        tokens = self.norm(self.blocks(self._tokens(x)))
        grid: Tensor = tokens.transpose(1, 2).unflatten(2, (self.grid, self.grid))
        return grid

    def no_weight_decay(self) -> set[str]:
        return {"positions"}

    def attentions(self, x: Tensor) -> Tensor:  # (N, C, H, W) -> (N, depth, T, T)
        """The attention of each block, averaged over its heads."""
        tokens, attentions = self._tokens(x), []
        for block in cast(Iterable[Block], self.blocks):
            attentions.append(block.attention.weights(block.attention_norm(tokens)).mean(dim=1))
            tokens = block(tokens)
        return torch.stack(attentions, dim=1)

    def classify(self, feature_map: Tensor) -> Tensor:  # (N, D, grid, grid) -> (N, L)
        tokens = feature_map.flatten(2).transpose(1, 2)
        logits: Tensor = self.classifier(tokens.mean(dim=1))
        return logits

    def head(self) -> nn.Linear:
        return self.classifier

    def _tokens(self, x: Tensor) -> Tensor:  # (N, C, H, W) -> (N, T, D)
        patches = self.patches(x).flatten(2).transpose(1, 2)
        # Made contiguous once; otherwise every norm of every block would copy its tokens.
        tokens: Tensor = patches.contiguous() + self.positions
        return tokens


def build(hyper: Hyper, image_size: int, channels: int, n_labels: int) -> VisionTransformer:
    if image_size % hyper.patch:
        raise CxrError(
            f"train.vit.patch ({hyper.patch}) must divide the image size ({image_size} px)"
        )
    return VisionTransformer(
        image_size,
        channels,
        hyper.patch,
        hyper.width,
        hyper.depth,
        hyper.heads,
        hyper.mlp,
        n_labels,
    )


def input_spec(hyper: Hyper, data_size: int, statistics: Statistics) -> InputSpec:
    return InputSpec(data_size, "bicubic", data_size, 1, (statistics.mean,), (statistics.std,))
