"""Attention with a learned bias for every distance (LeViT, Graham et al. 2021, arXiv 2104.01136; used by EfficientFormer).

Two positions of a grid attend to each other with a bias that depends on their offset (|dy|, |dx|) alone, so a head learns
H*W numbers and not (H*W)^2. The table belongs to a grid; on another grid it is interpolated, so any input size works.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from hollowbone.errors import UserError


def offset_index(height: int, width: int, device: torch.device | None = None) -> Int[Tensor, "n n"]:
    """For each pair of positions (row-major), |dy| * width + |dx|: the row-major place of their offset in a table.

    The same order as that of first appearance when scanning the pairs row by row, which is the official one.
    """
    y = torch.arange(height, device=device).repeat_interleave(width)
    x = torch.arange(width, device=device).repeat(height)
    return (y[:, None] - y[None, :]).abs() * width + (x[:, None] - x[None, :]).abs()


def resize_table(table: Float[Tensor, "h n"], old: tuple[int, int], new: tuple[int, int]) -> Float[Tensor, "h m"]:
    """A table of biases for another grid, by bilinear interpolation over the offset.

    Offset 0 stays offset 0 and the largest stays the largest: distances are taken relative to the picture.
    """
    if old == new:
        return table
    maps = table.unflatten(1, old).unsqueeze(1)
    return F.interpolate(maps, size=new, mode="bilinear", align_corners=True).flatten(1)


def gather_bias(table: Float[Tensor, "h n"], old: tuple[int, int], new: tuple[int, int]) -> Float[Tensor, "h m m"]:
    """The bias of every pair of positions on the grid `new`, from a table that belongs to the grid `old`."""
    index = offset_index(*new, device=table.device)
    return resize_table(table, old, new).index_select(1, index.flatten()).unflatten(1, tuple(index.shape))


class BiasedAttention(nn.Module):
    """Multi-head attention over the tokens of a grid, (B, N, dim) -> (B, N, dim); no norm and no residual inside.

    Keys and queries have `key_dim` channels a head, values `attn_ratio * key_dim`. The official code caches the gathered
    bias in eval mode and so goes stale when weights are loaded; here nothing is cached: it is gathered in every call, and
    becomes a constant in the `folded` form.
    """

    attention_bias_idxs: Tensor

    def __init__(
        self,
        dim: int,
        *,
        grid: tuple[int, int] = (7, 7),
        num_heads: int = 8,
        key_dim: int = 32,
        attn_ratio: float = 4.0,
    ) -> None:
        super().__init__()
        if min(dim, num_heads, key_dim, *grid) < 1 or attn_ratio * key_dim < 1:
            raise UserError(
                f"attention needs dim, num_heads, key_dim, grid and attn_ratio * key_dim of at least 1, "
                f"not {dim}, {num_heads}, {key_dim}, {grid} and {attn_ratio} * {key_dim}"
            )
        self.grid, self.num_heads, self.key_dim = grid, num_heads, key_dim
        self.value_dim = int(attn_ratio * key_dim)
        self.qkv = nn.Linear(dim, num_heads * (2 * key_dim + self.value_dim))
        self.proj = nn.Linear(num_heads * self.value_dim, dim)
        self.attention_biases = nn.Parameter(torch.zeros(num_heads, grid[0] * grid[1]))
        self.register_buffer("attention_bias_idxs", offset_index(*grid), persistent=False)

    def bias(self, grid: tuple[int, int] | None = None) -> Float[Tensor, "h n n"]:
        """The bias of every pair of positions, on the grid of construction or on another."""
        if grid is not None and grid != self.grid:
            return gather_bias(self.attention_biases, self.grid, grid)
        index = self.attention_bias_idxs
        return self.attention_biases.index_select(1, index.flatten()).unflatten(1, tuple(index.shape))

    def forward(self, x: Float[Tensor, "b n c"], grid: tuple[int, int] | None = None) -> Float[Tensor, "b n c"]:
        """`grid` = (H, W) with H * W = N; the grid of construction if not given."""
        # Heads first, then the split in q, k, v: the official order of the 1536 channels.
        qkv = self.qkv(x).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
        q, k, v = qkv.split([self.key_dim, self.key_dim, self.value_dim], dim=3)
        scores = (q @ k.transpose(2, 3)) * self.key_dim**-0.5 + self.bias(grid)
        return self.proj((scores.softmax(dim=3) @ v).transpose(1, 2).flatten(2))
