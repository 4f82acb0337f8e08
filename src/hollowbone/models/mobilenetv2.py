"""MobileNetV2: inverted residuals and linear bottlenecks (Sandler et al. 2018, arXiv 1801.04381).

A stem, seven groups of inverted residuals (table 2 of the paper), a 1x1 convolution to 1280 channels, a mean and a linear
layer. The width multiplier scales every channel count, rounded to 8, but never narrows the last 1280; timm's `d` variants
(`mobilenetv2_110d`, `_120d`) also scale the repeats and leave the first and last layers as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from hollowbone.errors import UserError
from hollowbone.models.base import Backbone, FeatureInfo, ModelCard, check_sizes, register
from hollowbone.models.blocks.channels import make_divisible
from hollowbone.models.blocks.conv import conv2d
from hollowbone.models.blocks.inverted_residual import InvertedResidual


class Group(NamedTuple):
    """`n` inverted residuals of `c` channels, expansion `t`, the first of stride `s`: a row of the paper's table 2."""

    t: float
    c: int
    n: int
    s: int


SETTINGS: tuple[Group, ...] = (
    Group(1, 16, 1, 1),
    Group(6, 24, 2, 2),
    Group(6, 32, 3, 2),
    Group(6, 64, 4, 2),
    Group(6, 96, 3, 1),
    Group(6, 160, 3, 2),
    Group(6, 320, 1, 1),
)
STEM, HEAD = 32, 1280


class MobileNetV2(Backbone):
    """(B, in_chans, H, W) -> logits (B, num_classes).

    `width` and `depth` multiply channels and repeats (`fix_stem_head`: not those of the stem, of the last convolution and
    of the first and last group). `expansion` replaces every t but the first group's 1; `strides` the groups' strides, and
    `stem_stride` the stem's, for small pictures; `bottleneck` and `residual` are the paper's ablations and `chunks` its
    memory-efficient inference (`InvertedResidual`). Weights converted from TensorFlow need `padding="same", bn_eps=1e-3`.
    """

    heads = ("classifier",)

    def __init__(
        self,
        *,
        num_classes: int = 1000,
        in_chans: int = 3,
        width: float = 1.0,
        depth: float = 1.0,
        fix_stem_head: bool = False,
        drop_rate: float = 0.2,
        settings: Sequence[Sequence[float]] = SETTINGS,
        expansion: float | None = None,
        strides: Sequence[int] | None = None,
        stem_stride: int = 2,
        stem_channels: int = STEM,
        head_channels: int = HEAD,
        bottleneck: str = "linear",
        residual: str = "bottleneck",
        padding: str = "symmetric",
        bn_eps: float = 1e-5,
        chunks: int = 1,
    ) -> None:
        super().__init__()
        check_sizes(num_classes=num_classes, in_chans=in_chans)
        groups = _scaled(settings, width=width, depth=depth, fix_ends=fix_stem_head, expansion=expansion, strides=strides)
        self.num_classes, self.in_chans = num_classes, in_chans
        channels = stem_channels if fix_stem_head else make_divisible(stem_channels * width)
        self.conv_stem = conv2d(in_chans, channels, 3, stride=stem_stride, padding=padding)
        self.bn1 = nn.BatchNorm2d(channels, eps=bn_eps)
        self.act = nn.ReLU6()
        options: dict[str, Any] = {"bottleneck": bottleneck, "residual": residual}
        options |= {"padding": padding, "bn_eps": bn_eps, "chunks": chunks}
        stages = []
        for group in groups:
            blocks = []
            for i in range(group.n):
                stride = group.s if i == 0 else 1
                options = {
                    "bottleneck": bottleneck,
                    "residual": residual,
                    "padding": padding,
                    "bn_eps": bn_eps,
                    "chunks": chunks,
                }
                blocks.append(InvertedResidual(channels, group.c, stride=stride, expansion=group.t, **options))
                channels = group.c
            stages.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*stages)
        self.num_features = head_channels if fix_stem_head else make_divisible(head_channels * max(1.0, width))
        self.conv_head = conv2d(channels, self.num_features, 1)
        self.bn2 = nn.BatchNorm2d(self.num_features, eps=bn_eps)
        self.head_drop = nn.Dropout(drop_rate)
        self.feature_info = _feature_info(groups, stem_stride)
        self.apply(_init)
        self.reset_classifier(num_classes)

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the head by a fresh one; 0 classes leave the pooled features (B, num_features)."""
        check_sizes(num_classes=num_classes, in_chans=self.in_chans)
        self.num_classes = num_classes
        like = self.conv_head.weight
        head = nn.Linear(self.num_features, num_classes, device=like.device, dtype=like.dtype) if num_classes else nn.Identity()
        _init(head)
        self.classifier = head

    def feature_maps(self, x: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """The last map of every resolution, finest first; the 1280 channels before pooling are not among them."""
        taps = {info.module for info in self.feature_info}
        x, maps = self._stem(x), []
        for i, stage in enumerate(self.blocks):
            x = stage(x)
            if f"blocks.{i}" in taps:
                maps.append(x)
        return maps

    def forward_features(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        """(B, num_features, H / 32, W / 32), as in timm after the last 1x1 convolution."""
        return self.act(self.bn2(self.conv_head(self.blocks(self._stem(x)))))

    def forward_head(self, x: Float[Tensor, "b d i j"]) -> Float[Tensor, "b k"]:
        """Mean over positions, dropout, linear."""
        return self.classifier(self.head_drop(F.adaptive_avg_pool2d(x, 1).flatten(1)))

    def _stem(self, x: Tensor) -> Tensor:
        return self.act(self.bn1(self.conv_stem(x)))


def _scaled(
    settings: Sequence[Sequence[float]],
    *,
    width: float,
    depth: float,
    fix_ends: bool,
    expansion: float | None,
    strides: Sequence[int] | None,
) -> list[Group]:
    """The table with all multipliers carried out; raises `UserError` for values that make no network."""
    if not (math.isfinite(width) and width > 0):
        raise UserError(f"width must be a positive number, not {width}")
    if not (math.isfinite(depth) and depth > 0):
        raise UserError(f"depth must be a positive number, not {depth}")
    if strides is not None and (len(strides) != len(settings) or any(s not in (1, 2) for s in strides)):
        raise UserError(f"strides must be {len(settings)} numbers, each 1 or 2, one a group, not {tuple(strides)}")
    if not settings or any(len(row) != 4 for row in settings):
        raise UserError("settings must be rows of four numbers: expansion, channels, repeats, stride")
    groups = []
    for i, (t, c, n, s) in enumerate(settings):
        fixed = fix_ends and i in (0, len(settings) - 1)
        groups.append(
            Group(
                t=t if expansion is None or t == 1 else expansion,
                c=make_divisible(c * width),
                n=int(n) if fixed else math.ceil(n * depth),
                s=int(s) if strides is None else strides[i],
            )
        )
    return groups


def _feature_info(groups: Sequence[Group], stem_stride: int) -> tuple[FeatureInfo, ...]:
    """One entry for the last group before each change of resolution."""
    infos, reduction = [], stem_stride
    for i, group in enumerate(groups):
        reduction *= group.s
        if i + 1 == len(groups) or groups[i + 1].s > 1:
            infos.append(FeatureInfo(num_chs=group.c, reduction=reduction, module=f"blocks.{i}"))
    return tuple(infos)


def _init(module: nn.Module) -> None:
    """The paper's initialisation, as PyTorch networks have it."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, 0.0, 0.01)
        nn.init.zeros_(module.bias)


def _from_torchvision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """`features.i.conv.j` -> timm's names; the repeats of each group are read off the shapes, so every width and depth fits."""
    inner = {"0.0": "conv_pw", "0.1": "bn1", "1.0": "conv_dw", "1.1": "bn2", "2": "conv_pwl", "3": "bn3"}
    first = {"0.0": "conv_dw", "0.1": "bn1", "1": "conv_pw", "2": "bn2"}
    indices = sorted({int(k.split(".")[1]) for k in state if k.startswith("features.")})
    places = dict(zip(indices[1:-1], ((s, b) for s, group in enumerate(SETTINGS) for b in range(group.n)), strict=False))
    renamed = {}
    for key, value in state.items():
        parts = key.split(".")
        if parts[0] == "classifier":
            renamed[key.replace("classifier.1.", "classifier.")] = value
            continue
        if parts[0] != "features":
            renamed[key] = value
            continue
        index = int(parts[1])
        if index == indices[0]:
            new = ("conv_stem", "bn1")[int(parts[2])]
        elif index == indices[-1]:
            new = ("conv_head", "bn2")[int(parts[2])]
        else:
            names = inner if f"features.{index}.conv.3.weight" in state else first
            position = ".".join(parts[3:-1])
            stage, block = places.get(index, (-1, -1))
            new = f"blocks.{stage}.{block}.{names.get(position, position)}"
        renamed[f"{new}.{parts[-1]}"] = value
    return renamed


def _same(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return dict(state)


_KEYS: dict[str, Callable[[dict[str, Tensor]], dict[str, Tensor]]] = {"timm": _same, "torchvision": _from_torchvision}

# name: (constructor arguments, parameters, multiply-adds at 224, published top-1, hub id of timm's weights)
_VARIANTS: dict[str, tuple[dict, int, int, dict, str]] = {
    "mobilenetv2_035": ({"width": 0.35}, 1_677_128, 59_285_808, {"top1": 60.3}, ""),
    "mobilenetv2_050": ({"width": 0.5}, 1_968_680, 97_131_840, {"top1": 65.4}, "timm/mobilenetv2_050.lamb_in1k"),
    "mobilenetv2_075": ({"width": 0.75}, 2_636_424, 209_069_792, {"top1": 69.8}, ""),
    "mobilenetv2_100": ({"width": 1.0}, 3_504_872, 300_774_272, {"top1": 72.0}, "timm/mobilenetv2_100.ra_in1k"),
    "mobilenetv2_140": ({"width": 1.4}, 6_108_776, 582_195_824, {"top1": 74.7}, "timm/mobilenetv2_140.ra_in1k"),
    "mobilenetv2_110d": (
        {"width": 1.1, "depth": 1.2, "fix_stem_head": True},
        4_516_520,
        430_516_080,
        {},
        "timm/mobilenetv2_110d.ra_in1k",
    ),
    "mobilenetv2_120d": (
        {"width": 1.2, "depth": 1.4, "fix_stem_head": True},
        5_831_144,
        668_857_568,
        {},
        "timm/mobilenetv2_120d.ra_in1k",
    ),
}

_TINY = {
    "settings": (Group(1, 8, 1, 1), Group(4, 16, 2, 2), Group(4, 24, 2, 2), Group(4, 32, 1, 2)),
    "stem_channels": 8,
    "head_channels": 64,
    "num_classes": 10,
}

register(
    *(
        ModelCard(
            name=name,
            system="mobilenetv2",
            build=partial(MobileNetV2, **arguments),
            tiny_overrides=_TINY,
            params=params,
            macs=macs,
            published=published,
            keys=_KEYS,
            hub=hub,
        )
        for name, (arguments, params, macs, published, hub) in _VARIANTS.items()
    )
)
