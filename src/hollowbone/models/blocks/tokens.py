"""Between maps (B, C, H, W) and tokens (B, H*W, C), row-major."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn


def to_tokens(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n c"]:
    """Map to tokens."""
    return x.flatten(2).transpose(1, 2)


def to_map(x: Float[Tensor, "b n c"], grid: tuple[int, int]) -> Float[Tensor, "b c h w"]:
    """Tokens to map; the inverse of `to_tokens` on a grid of `grid` = (H, W)."""
    return x.transpose(1, 2).unflatten(2, grid)


class Flatten(nn.Module):
    """`to_tokens` as a layer."""

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n c"]:
        """Map to tokens."""
        return to_tokens(x)
