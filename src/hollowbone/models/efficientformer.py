"""EfficientFormer: vision transformers at MobileNet speed (Li et al. 2022, arXiv 2206.01191).

A dimension-consistent hybrid: a convolutional stem, four stages of pooling blocks on maps (`Meta4D`), and, once and for
all, a flattening before the last `vit_num` blocks, which attend over tokens (`Meta3D`). Widths, depths and `vit_num` are
what the paper's latency-driven slimming found (`hollowbone.search` has it). Maps are (B, C, H, W), tokens (B, N, C).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from hollowbone.errors import UserError
from hollowbone.models.base import Backbone, FeatureInfo, ModelCard, check_sizes, register
from hollowbone.models.blocks.biased_attention import BiasedAttention, resize_table
from hollowbone.models.blocks.drop import linear_rates
from hollowbone.models.blocks.folded import FoldedMeta3D
from hollowbone.models.blocks.metaformer import Meta3D, Meta4D
from hollowbone.models.blocks.tokens import Flatten, to_map, to_tokens


class Stem(nn.Sequential):
    """Two 3x3 convolutions to `dim` channels, the first to half of them, each with BN and ReLU."""

    def __init__(self, in_chans: int, dim: int, *, strides: Sequence[int] = (2, 2)) -> None:
        super().__init__()
        self.add_module("conv1", nn.Conv2d(in_chans, dim // 2, 3, strides[0], 1))
        self.add_module("norm1", nn.BatchNorm2d(dim // 2))
        self.add_module("act1", nn.ReLU())
        self.add_module("conv2", nn.Conv2d(dim // 2, dim, 3, strides[1], 1))
        self.add_module("norm2", nn.BatchNorm2d(dim))
        self.add_module("act2", nn.ReLU())


class Embedding(nn.Module):
    """A 3x3 convolution of stride 2 and BN, between stages."""

    def __init__(self, dim: int, dim_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim_out, 3, 2, 1)
        self.norm = nn.BatchNorm2d(dim_out)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        """(B, dim, H, W) -> (B, dim_out, ceil(H / 2), ceil(W / 2))."""
        return self.norm(self.conv(x))


class Stage(nn.Module):
    """An embedding (none in the first stage), pooling blocks, and, after a `Flatten`, attention blocks."""

    def __init__(self, downsample: nn.Module, pooling: Sequence[Meta4D], attending: Sequence[Meta3D]) -> None:
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.Sequential(*pooling, *((Flatten(), *attending) if attending else ()))

    def run(self, x: Float[Tensor, "b c h w"]) -> tuple[Tensor, tuple[int, int]]:
        """What the last block returns (tokens if it attends, else a map), and the grid."""
        x = self.downsample(x)
        grid = (x.shape[2], x.shape[3])
        for block in self.blocks:
            x = block(x, grid) if isinstance(block, (Meta3D, FoldedMeta3D)) else block(x)
        return x, grid

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        """Map to map."""
        x, grid = self.run(x)
        return to_map(x, grid) if x.ndim == 3 else x


class EfficientFormer(Backbone):
    """(B, in_chans, H, W) -> logits (B, num_classes).

    With `distilled`, training returns the pair (class head, distillation head) and eval their mean. The last `vit_num` blocks
    attend; they may reach back into the third stage, no further (the paper's search space). `resolution` (pixels, one number
    or H and W) is the input size to which the tables of attention biases belong; at other sizes they are interpolated.
    `stem_strides` is our addition for small pictures: (2, 1) or (1, 1) keep more of them.
    """

    heads = ("head", "head_dist")

    def __init__(
        self,
        *,
        num_classes: int = 1000,
        in_chans: int = 3,
        widths: Sequence[int] = (48, 96, 224, 448),
        depths: Sequence[int] = (3, 2, 6, 4),
        vit_num: int = 1,
        resolution: int | tuple[int, int] = 224,
        mlp_ratio: float = 4.0,
        num_heads: int = 8,
        key_dim: int = 32,
        attn_ratio: float = 4.0,
        pool_size: int = 3,
        stem_strides: Sequence[int] = (2, 2),
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        layer_scale: float = 1e-5,
        distilled: bool = True,
    ) -> None:
        super().__init__()
        check_sizes(num_classes=num_classes, in_chans=in_chans)
        widths, depths, strides = tuple(widths), tuple(depths), tuple(stem_strides)
        _check_shape(widths, depths, vit_num, strides)
        grids = stage_grids(resolution, strides, len(depths))
        attention: dict[str, Any] = {"num_heads": num_heads, "key_dim": key_dim, "attn_ratio": attn_ratio}
        mlp: dict[str, Any] = {"mlp_ratio": mlp_ratio, "drop": drop_rate, "layer_scale": layer_scale}
        rates = linear_rates(drop_path_rate, depths)
        self.num_classes, self.in_chans, self.distilled = num_classes, in_chans, distilled
        self.stem = Stem(in_chans, widths[0], strides=strides)
        stages = []
        for i, (dim, depth) in enumerate(zip(widths, depths, strict=True)):
            pooled = depth - min(depth, max(0, vit_num - sum(depths[i + 1 :])))
            stages.append(
                Stage(
                    nn.Identity() if i == 0 else Embedding(widths[i - 1], dim),
                    [Meta4D(dim, pool_size=pool_size, drop_path=rate, **mlp) for rate in rates[i][:pooled]],
                    [Meta3D(dim, grid=grids[i], drop_path=rate, **attention, **mlp) for rate in rates[i][pooled:]],
                )
            )
        self.stages = nn.Sequential(*stages)
        self.norm = nn.LayerNorm(widths[-1])
        self.head_drop = nn.Dropout(drop_rate)
        self.num_features = widths[-1]
        first = strides[0] * strides[1]
        self.feature_info = tuple(FeatureInfo(dim, first * 2**i, f"stages.{i}") for i, dim in enumerate(widths))
        self.reset_classifier(num_classes)

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the heads by fresh ones; 0 classes leave the pooled features (B, num_features), never a pair."""
        check_sizes(num_classes=num_classes, in_chans=self.in_chans)
        self.num_classes = num_classes
        self.head = self._fresh_head(num_classes)
        self.head_dist = self._fresh_head(num_classes) if self.distilled and num_classes else None

    def _fresh_head(self, num_classes: int) -> nn.Module:
        if not num_classes:
            return nn.Identity()
        head = nn.Linear(self.num_features, num_classes, device=self.norm.weight.device, dtype=self.norm.weight.dtype)
        nn.init.trunc_normal_(head.weight, std=0.02)
        nn.init.zeros_(head.bias)
        return head

    def adapt_state_dict(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A checkpoint of another resolution or with another number of heads in this network's form.

        Tables of square grids are interpolated to ours; two heads become one by their mean and one head two equal ones:
        the eval output stays the same.
        """
        state = dict(state)
        for name, module in self.named_modules():
            key = f"{name}.attention_biases"
            if isinstance(module, BiasedAttention) and key in state:
                side = math.isqrt(state[key].shape[-1])
                if state[key].shape != module.attention_biases.shape and side**2 == state[key].shape[-1]:
                    state[key] = resize_table(state[key], (side, side), module.grid)
        for part in ("weight", "bias"):
            one, two = f"head.{part}", f"head_dist.{part}"
            if not self.distilled and one in state and two in state:
                state[one] = (state[one] + state.pop(two)) / 2
            elif self.distilled and one in state and two not in state:
                state[two] = state[one].clone()
        return state

    def feature_maps(self, x: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """The four stages' maps, finest first, before the last norm."""
        x, maps = self.stem(x), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

    def forward_features(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n d"]:
        """Normed tokens of the last stage."""
        x = self.stem(x)
        *first, last = self.stages
        for stage in first:
            x = stage(x)
        x, _ = last.run(x)  # type: ignore[operator]
        return self.norm(to_tokens(x) if x.ndim == 4 else x)

    def folded(self) -> EfficientFormer:
        """Two heads whose mean is the output become one."""
        if isinstance(self.head, nn.Linear) and isinstance(self.head_dist, nn.Linear):
            self.head.weight.data = (self.head.weight.data + self.head_dist.weight.data) / 2
            self.head.bias.data = (self.head.bias.data + self.head_dist.bias.data) / 2
            self.head_dist, self.distilled = None, False
        return self

    def forward_head(self, x: Float[Tensor, "b n d"]) -> Any:
        """Mean over tokens, after the norm, then the heads."""
        x = self.head_drop(x.mean(dim=1))
        if self.head_dist is None:
            return self.head(x)
        logits, distilled = self.head(x), self.head_dist(x)
        return (logits, distilled) if self.training else (logits + distilled) / 2


def stage_grids(resolution: int | tuple[int, int], stem_strides: Sequence[int], stages: int = 4) -> list[tuple[int, int]]:
    """(H, W) of every stage's maps for an input of `resolution` pixels."""
    height, width = (resolution, resolution) if isinstance(resolution, int) else resolution
    if min(height, width) < 1:
        raise UserError(f"resolution must be 1 pixel or more, not {resolution}")
    for stride in stem_strides:
        height, width = -(-height // stride), -(-width // stride)
    grids = [(height, width)]
    while len(grids) < stages:
        height, width = -(-height // 2), -(-width // 2)
        grids.append((height, width))
    return grids


def _check_shape(widths: tuple[int, ...], depths: tuple[int, ...], vit_num: int, stem_strides: tuple[int, ...]) -> None:
    if len(widths) != len(depths) or len(depths) < 2:
        raise UserError(f"widths and depths need one number a stage, two stages or more, not {widths} and {depths}")
    if min(depths) < 1 or min(widths) < 2:
        raise UserError(f"every stage needs a block and a width of 2 or more, not depths {depths} and widths {widths}")
    if not 0 <= vit_num <= depths[-1] + depths[-2]:
        raise UserError(f"vit_num must be 0 to {depths[-1] + depths[-2]} (the blocks of the last two stages), not {vit_num}")
    if len(stem_strides) != 2 or any(s not in (1, 2) for s in stem_strides):
        raise UserError(f"stem_strides must be two numbers, each 1 or 2, not {stem_strides}")


class Variant(NamedTuple):
    """A row of the paper's table of networks; counts are of the whole network with both heads at 224 pixels."""

    widths: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    vit_num: int
    params: int
    macs: int
    top1: float


VARIANTS: dict[str, Variant] = {
    "efficientformer_l1": Variant((48, 96, 224, 448), (3, 2, 6, 4), 1, 12_289_928, 1_291_284_736, 79.2),
    "efficientformer_l3": Variant((64, 128, 320, 512), (4, 4, 12, 6), 4, 31_406_000, 3_906_573_312, 82.4),
    "efficientformer_l7": Variant((96, 192, 384, 768), (6, 6, 18, 8), 8, 82_229_328, 10_119_325_696, 83.3),
}


def _from_timm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our names are timm's; the index of offsets, which follows from the grid, is not stored here."""
    return {key: value for key, value in state.items() if not key.endswith(".attention_bias_idxs")}


def _from_official(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """`network.{0,2,4,6}` are stages, `network.{1,3,5}` embeddings; a Flatten counts as a block, as it does here."""
    stem = {"0": "conv1", "1": "norm1", "3": "conv2", "4": "norm2"}
    renamed = {}
    for key, value in _from_timm(state).items():
        key = re.sub(r"^patch_embed\.(\d)\.", lambda m: f"stem.{stem.get(m[1], m[1])}.", key)
        key = re.sub(r"^network\.(\d+)\.proj\.", lambda m: f"stages.{(int(m[1]) + 1) // 2}.downsample.conv.", key)
        key = re.sub(r"^network\.(\d+)\.norm\.", lambda m: f"stages.{(int(m[1]) + 1) // 2}.downsample.norm.", key)
        key = re.sub(r"^network\.(\d+)\.(\d+)\.", lambda m: f"stages.{int(m[1]) // 2}.blocks.{m[2]}.", key)
        key = re.sub(r"\.layer_scale_(\d)$", r".ls\1.gamma", key)
        key = re.sub(r"^dist_head\.", "head_dist.", key)
        # The official layer scales of maps are (C, 1, 1).
        renamed[key] = value.flatten() if key.endswith(".gamma") else value
    return renamed


register(
    *(
        ModelCard(
            name=name,
            system="efficientformer",
            build=partial(EfficientFormer, widths=variant.widths, depths=variant.depths, vit_num=variant.vit_num),
            tiny_overrides={
                "widths": (8, 16, 24, 32),
                "depths": (1, 1, 2, 2),
                "vit_num": 1,
                "num_heads": 2,
                "key_dim": 4,
                "attn_ratio": 2.0,
                "resolution": 64,
                "num_classes": 10,
            },
            params=variant.params,
            macs=variant.macs,
            published={"top1": variant.top1},
            keys={"timm": _from_timm, "official": _from_official},
            hub=f"timm/{name}.snap_dist_in1k",
        )
        for name, variant in VARIANTS.items()
    )
)
