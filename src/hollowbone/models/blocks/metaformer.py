"""MetaFormer blocks: a token mixer and an MLP, each in a residual branch with a learned scale.

`Meta4D` works on maps and mixes by average pooling (PoolFormer, Yu et al. 2022, arXiv 2111.11418), as EfficientFormer
(Li et al. 2022, arXiv 2206.01191, section 4.1) has it: no norm before the pooling, batch norms inside the MLP. `Meta3D`
works on tokens and mixes by attention. Both keep their shape.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hollowbone.models.blocks.biased_attention import BiasedAttention
from hollowbone.models.blocks.drop import DropPath
from hollowbone.models.blocks.folded import FoldedAttention, FoldedMeta3D, FoldedMeta4D, FoldedPoolMixer, absorb_scale


class LayerScale(nn.Module):
    """Multiply each channel by a learned number; `channel_dims` dimensions follow the channel (0 for tokens, 2 for maps)."""

    def __init__(self, dim: int, init: float = 1e-5, *, channel_dims: int = 0) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), init))
        self.channel_dims = channel_dims

    def forward(self, x: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        """The scaled branch."""
        return x * self.gamma.view(-1, *(1,) * self.channel_dims)


class PoolMixer(nn.Module):
    """Average of the 3x3 neighbours minus the pixel; borders average over the pixels that exist, so a constant gives 0."""

    def __init__(self, kernel_size: int = 3) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(kernel_size, stride=1, padding=kernel_size // 2, count_include_pad=False)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Keeps the shape."""
        return self.pool(x) - x


class ConvMlp(nn.Module):
    """conv1x1 - BN - GELU - conv1x1 - BN. The convolutions carry a bias although a norm follows, as the official ones do."""

    def __init__(self, dim: int, hidden: int, *, drop: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(dim, hidden, 1)
        self.norm1 = nn.BatchNorm2d(hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Conv2d(hidden, dim, 1)
        self.norm2 = nn.BatchNorm2d(dim)
        self.drop = nn.Dropout(drop)
        for conv in (self.fc1, self.fc2):
            nn.init.trunc_normal_(conv.weight, std=0.02)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Keeps the shape."""
        x = self.drop(self.act(self.norm1(self.fc1(x))))
        return self.drop(self.norm2(self.fc2(x)))


class Mlp(nn.Module):
    """Linear - GELU - Linear over the last dimension."""

    def __init__(self, dim: int, hidden: int, *, drop: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Float[Tensor, "... c"]) -> Float[Tensor, "... c"]:
        """Keeps the shape."""
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))


class Meta4D(nn.Module):
    """x + ls1 * pool_mixer(x), then x + ls2 * conv_mlp(x): (B, dim, H, W) -> the same."""

    def __init__(
        self,
        dim: int,
        *,
        mlp_ratio: float = 4.0,
        pool_size: int = 3,
        drop: float = 0.0,
        drop_path: float = 0.0,
        layer_scale: float = 1e-5,
    ) -> None:
        super().__init__()
        self.token_mixer = PoolMixer(pool_size)
        self.ls1 = LayerScale(dim, layer_scale, channel_dims=2)
        self.drop_path1 = DropPath(drop_path)
        self.mlp = ConvMlp(dim, int(dim * mlp_ratio), drop=drop)
        self.ls2 = LayerScale(dim, layer_scale, channel_dims=2)
        self.drop_path2 = DropPath(drop_path)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Keeps the shape."""
        x = x + self.drop_path1(self.ls1(self.token_mixer(x)))
        return x + self.drop_path2(self.ls2(self.mlp(x)))

    def folded(self) -> FoldedMeta4D:
        """The form that ships, made of this block's layers."""
        absorb_scale(self.mlp.fc2 if isinstance(self.mlp.norm2, nn.Identity) else self.mlp.norm2, self.ls2.gamma)
        return FoldedMeta4D(FoldedPoolMixer(self.token_mixer.pool, self.ls1.gamma), self.mlp)


class Meta3D(nn.Module):
    """x + ls1 * attention(LN(x)), then x + ls2 * mlp(LN(x)): tokens (B, N, dim) -> the same."""

    def __init__(
        self,
        dim: int,
        *,
        grid: tuple[int, int] = (7, 7),
        mlp_ratio: float = 4.0,
        num_heads: int = 8,
        key_dim: int = 32,
        attn_ratio: float = 4.0,
        drop: float = 0.0,
        drop_path: float = 0.0,
        layer_scale: float = 1e-5,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.token_mixer = BiasedAttention(dim, grid=grid, num_heads=num_heads, key_dim=key_dim, attn_ratio=attn_ratio)
        self.ls1 = LayerScale(dim, layer_scale)
        self.drop_path1 = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop=drop)
        self.ls2 = LayerScale(dim, layer_scale)
        self.drop_path2 = DropPath(drop_path)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: Float[Tensor, "b n c"], grid: tuple[int, int] | None = None) -> Float[Tensor, "b n c"]:
        """`grid` = (H, W) of the tokens; the grid of construction if not given."""
        x = x + self.drop_path1(self.ls1(self.token_mixer(self.norm1(x), grid)))
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))

    def folded(self) -> FoldedMeta3D:
        """The form that ships, made of this block's layers."""
        absorb_scale(self.mlp.fc2, self.ls2.gamma)
        return FoldedMeta3D(self.norm1, FoldedAttention(self.token_mixer, self.ls1.gamma), self.norm2, self.mlp)
