"""MobileNetV2 (Sandler et al. 2018, arXiv 1801.04381): the two ablations of its block at equal cost, and its exact figures.

The arms differ in one switch of one small network: an activation after the projection or none (section 6.4, figure 6a), and
the residual between the thin ends, between the wide tensors, or left out (figure 6b). Switches cost no parameter and no
multiply-add. The bottlenecks are as narrow as the code allows (8 and 16 channels), since the paper's argument for the linear
one (section 3.2) is that an activation destroys information where channels are few.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from hollowbone.measure import count, peak_bytes
from hollowbone.models.create import create_model
from hollowbone.models.fold import fold
from hollowbone.models.mobilenetv2 import Group
from hollowbone.reproduce.base import FAILS, HOLDS, PARTLY, Arm, Contrast, Finding, Once, Reproduction, SubClaim
from hollowbone.reproduce.statistics import judge_exact
from hollowbone.reproduce.trial import read_data, shipped, trained_figures
from hollowbone.runtime.base import Device, Example
from hollowbone.runtime.export import difference
from hollowbone.tasks.base import Data
from hollowbone.train import Recipe

NETWORK: dict[str, Any] = {
    "settings": (Group(1, 8, 1, 2), Group(6, 8, 3, 1), Group(6, 16, 3, 2)),
    "stem_channels": 16,
    "head_channels": 128,
}
"""Five of its seven blocks keep their shape, so a residual has somewhere to go."""
SWITCHES: dict[str, dict[str, str]] = {
    "linear": {"bottleneck": "linear", "residual": "bottleneck"},
    "relu6": {"bottleneck": "relu6", "residual": "bottleneck"},
    "expansion": {"bottleneck": "linear", "residual": "expansion"},
    "none": {"bottleneck": "linear", "residual": "none"},
}
RECIPE = Recipe(epochs=15)
DATA = "photo_patches"
SEEDS = tuple(range(8))

COUNTS: tuple[tuple[str, int, int], ...] = (
    ("035", 1_677_128, 59_285_808),
    ("050", 1_968_680, 97_131_840),
    ("075", 2_636_424, 209_069_792),
    ("100", 3_504_872, 300_774_272),
    ("140", 6_108_776, 582_195_824),
)
"""Width in hundredths, parameters and multiply-adds at 224 pixels of the reference implementations."""
PAPER: tuple[tuple[str, float, float], ...] = (("100", 3.4e6, 300e6), ("140", 6.9e6, 585e6))
"""The same as the paper prints them (table 4), millions."""
PRINTED = 0.01
"""A printed figure is met within this share: it is rounded, and papers differ in what they count."""
CHUNKS = (2, 3, 4, 5)


def build(arm: str, data: Data) -> nn.Module:
    """The small network of an arm."""
    channels = data.preprocessing.in_chans
    return create_model("mobilenetv2_100", num_classes=len(data.classes), in_chans=channels, **NETWORK, **SWITCHES[arm])


def run(arm: str, seed: int, kept: Once, device: Device) -> dict[str, Any]:
    """Train one arm with one seed, which decides splits, initialisation and order; equal seeds start from equal weights."""
    data = read_data(DATA, seed)
    torch.manual_seed(seed)
    return trained_figures(build(arm, data), data, RECIPE.with_(seed=seed), device)


def exact(device: Device) -> list[Finding]:
    """What needs no training."""
    return [*_counts(), *_chunks(), _equal_cost(device)]


def _counts() -> list[Finding]:
    """Every width counted on the meta device, against the reference implementations and against the paper's print."""
    counted = {}
    for name, _, _ in COUNTS:
        with torch.device("meta"):
            counts = count(create_model(f"mobilenetv2_{name}").eval(), torch.zeros(1, 3, 224, 224))
        counted[name] = (counts.params, counts.macs)
    same = [counted[name] == (params, macs) for name, params, macs in COUNTS]
    widths = ", ".join(f"{int(name) / 100:g}" for name, _, _ in COUNTS)
    claim = SubClaim(
        "counts",
        f"parameters and multiply-adds of widths {widths} are those of the reference implementations",
        "; ".join(f"{params:,}, {macs:,}" for _, params, macs in COUNTS),
        "torchvision, timm",
    )
    measured = "all equal" if all(same) else "; ".join(f"{params:,}, {macs:,}" for params, macs in counted.values())
    findings = [Finding(claim, HOLDS if all(same) else FAILS, measured, "counted now", float(sum(same)))]
    for name, *stated in PAPER:
        for noun, stated_count, here in zip(("parameters", "multiply-adds"), stated, counted[name], strict=True):
            claim = SubClaim(
                f"{noun} {name}",
                f"{noun} of width {int(name) / 100:g}, within {PRINTED:.0%}",
                f"{stated_count / 1e6:g} M",
                "table 4",
            )
            verdict = judge_exact(here, stated_count, PRINTED)
            findings.append(Finding(claim, verdict, f"{here:,} ({here / stated_count - 1:+.1%})", "counted now", float(here)))
    return findings


def _chunks() -> list[Finding]:
    """The whole network evaluated in k groups of inner channels: same output, lower peak of living activations."""
    torch.manual_seed(0)
    x = torch.randn(1, 3, 224, 224)
    plain = fold(_with_statistics(create_model("mobilenetv2_100")))
    with torch.inference_mode():
        expected = plain(x)
    formula = _formula(plain, x)
    errors, shares, stated = [], [], []
    for k in CHUNKS:
        chunked = create_model("mobilenetv2_100", chunks=k)
        fold_of_same = fold(_same_weights(chunked))
        with torch.inference_mode():
            errors.append(difference([fold_of_same(x).numpy()], [expected.numpy()]))
        shares.append(_activations(fold_of_same, x) / _activations(plain, x))
        stated.append(formula[k] / formula[1])
    groups = " to ".join((str(CHUNKS[0]), str(CHUNKS[-1])))
    how = "computed now in torch, width 1.0, 224 pixels, batch 1, folded"
    same = SubClaim("chunked output", f"a block may be evaluated in {groups} groups of inner channels", "equal (1e-5)", "section 5")
    less = SubClaim(
        "chunked memory",
        f"peak memory of the activations in {groups} groups is that of |in| + |out| + |inner| / k",
        ", ".join(f"{s:.2f}x" for s in stated),
        "section 5",
    )
    all_less = all(share < 1 for share in shares)
    reached = all(share <= s for share, s in zip(shares, stated, strict=True))
    return [
        Finding(same, judge_bound_of(max(errors)), f"largest difference {max(errors):.1e}", how, max(errors)),
        Finding(
            less,
            HOLDS if reached else PARTLY if all_less else FAILS,
            ", ".join(f"{share:.2f}x" for share in shares) + f" of {_activations(plain, x) / 2**20:.1f} MiB",
            how,
            shares[-1],
        ),
    ]
