"""MobileNetV2 (Sandler et al. 2018, arXiv 1801.04381): the two ablations of its block at equal cost, and its exact figures.

The arms differ in one switch of one small network: an activation after the projection or none (section 6.4, figure 6a), and
the residual between the thin ends, between the wide tensors, or left out (figure 6b). A switch costs no parameter and no
multiply-add. The bottlenecks are as narrow as the rounding to 8 allows (8 and 16 channels), since the paper's argument for a
linear one (section 3.2) is that an activation destroys information where channels are few.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hollowbone.measure import count, peak_bytes
from hollowbone.models.blocks.inverted_residual import InvertedResidual
from hollowbone.models.create import create_model
from hollowbone.models.fold import fold
from hollowbone.models.mobilenetv2 import Group
from hollowbone.reproduce.base import FAILS, HOLDS, PARTLY, Arm, Contrast, Finding, Once, Reproduction, SubClaim
from hollowbone.reproduce.statistics import judge_exact
from hollowbone.reproduce.trial import counted, paired_times, picture, ratio, read_data, trained_figures
from hollowbone.runtime.base import Device
from hollowbone.tasks.classification.photo_patches import REGIONS
from hollowbone.train import Recipe

DATA, SHAPE = "photo_patches", (1, 3, 32, 32)
SEEDS = tuple(range(12))
RECIPE = Recipe(epochs=12, threads=1)
"""So small a network trains no faster with two threads."""
NETWORK: dict[str, Any] = {
    "settings": (Group(1, 8, 1, 2), Group(6, 8, 3, 1), Group(6, 16, 3, 2)),
    "stem_channels": 16,
    "head_channels": 128,
}
"""Five of the seven blocks keep their shape, so a residual has somewhere to go."""
SWITCHES: dict[str, dict[str, str]] = {
    "linear": {"bottleneck": "linear", "residual": "bottleneck"},
    "relu6": {"bottleneck": "relu6", "residual": "bottleneck"},
    "expansion": {"bottleneck": "linear", "residual": "expansion"},
    "none": {"bottleneck": "linear", "residual": "none"},
}

COUNTS: dict[str, tuple[int, int]] = {
    "mobilenetv2_035": (1_677_128, 59_285_808),
    "mobilenetv2_050": (1_968_680, 97_131_840),
    "mobilenetv2_075": (2_636_424, 209_069_792),
    "mobilenetv2_100": (3_504_872, 300_774_272),
    "mobilenetv2_140": (6_108_776, 582_195_824),
}
"""Parameters and multiply-adds at 224 pixels, as counted in the reference implementations."""
PRINTED: dict[str, tuple[float, float]] = {"mobilenetv2_100": (3.4e6, 300e6), "mobilenetv2_140": (6.9e6, 585e6)}
"""The same as the paper prints them."""
ROUNDING = 0.01
"""A printed figure is met within this share."""
CHUNKS = (2, 3, 4, 5)
EQUAL = 1e-5
"""Largest max|a-b| / max(1, max|b|) of outputs that are the same but for the order of their sums."""


def build(arm: str, num_classes: int) -> nn.Module:
    """The small network of an arm."""
    overrides: dict[str, Any] = {**NETWORK, **SWITCHES[arm]}
    return create_model("mobilenetv2_100", num_classes=num_classes, in_chans=SHAPE[1], **overrides)


def run(arm: str, seed: int, kept: Once, device: Device) -> dict[str, Any]:
    """Train one arm with one seed, which decides splits, initialisation and order: arms of a seed start from equal weights."""
    data = read_data(DATA, seed)
    torch.manual_seed(seed)
    return trained_figures(build(arm, len(data.classes)), data, RECIPE.with_(seed=seed), device)


def exact(device: Device) -> list[Finding]:
    """What needs no training."""
    return [*counts(), *chunks(), equal_cost(device)]


def counts() -> list[Finding]:
    """Every width, on the meta device: against the reference implementations, and against the paper's print."""
    here = {}
    for name in COUNTS:
        with torch.device("meta"):
            found = count(create_model(name).eval(), torch.zeros(1, 3, 224, 224))
        here[name] = (found.params, found.macs)
    claim = SubClaim(
        "counts",
        "parameters and multiply-adds of widths 0.35, 0.5, 0.75, 1.0 and 1.4 at 224 pixels are those of the reference code",
        _pairs(COUNTS),
        "torchvision and timm",
    )
    findings = [
        Finding(claim, HOLDS if here == COUNTS else FAILS, "all equal" if here == COUNTS else _pairs(here), "counted now")
    ]
    for name, printed in PRINTED.items():
        for noun, stated, value in zip(("parameters", "multiply-adds"), printed, here[name], strict=True):
            width = int(name[-3:]) / 100
            text = f"{noun} of width {width:g}, within {ROUNDING:.0%}"
            claim = SubClaim(f"{noun} {width:g}", text, f"{stated / 1e6:g} M", "table 4", recalled=True)
            off = f"{value / 1e6:.2f} M ({value / stated - 1:+.1%})"
            findings.append(Finding(claim, judge_exact(value, stated, ROUNDING), off, "counted now", float(value)))
    return findings


def chunks() -> list[Finding]:
    """The network evaluated in k groups of inner channels: the same output, and a lower peak of living activations."""
    x = torch.from_numpy(picture((1, 3, 224, 224)))
    plain = network_in_chunks(1)
    with torch.inference_mode():
        expected = plain(x)
    peak, formula = activation_bytes(plain, x), peak_formula(x)
    errors, shares = [], []
    for k in CHUNKS:
        network = network_in_chunks(k)
        with torch.inference_mode():
            errors.append(float((network(x) - expected).abs().max() / max(1.0, float(expected.abs().max()))))
        shares.append(activation_bytes(network, x) / peak)
    stated = [formula[k] / formula[1] for k in CHUNKS]
    how = f"computed now: torch, width 1.0, 224 pixels, batch 1, k = {', '.join(map(str, CHUNKS))}"
    same = SubClaim(
        "chunked output", "a block can be evaluated in k groups of its inner channels", f"equal, to {EQUAL:g}", "section 5"
    )
    less = SubClaim(
        "chunked memory",
        "the peak of living activations then falls to the share that |in| + |out| + |inner| / k gives",
        ", ".join(f"{share:.2f}x" for share in stated),
        "section 5",
    )
    return [
        Finding(same, HOLDS if max(errors) <= EQUAL else FAILS, f"differs by {max(errors):.1g}", how, max(errors)),
        Finding(
            less,
            judge_shares(shares, stated),
            ", ".join(f"{share:.2f}x" for share in shares) + f" of {peak / 2**20:.1f} MiB",
            how,
        ),
    ]


def judge_shares(shares: list[float], stated: list[float]) -> str:
    """Whether every share is as small as stated, or all are at least below 1."""
    if all(share <= most for share, most in zip(shares, stated, strict=True)):
        return HOLDS
    return PARTLY if max(shares) < 1 else FAILS


def network_in_chunks(k: int) -> nn.Module:
    """Width 1.0 as it ships, always with the same weights and statistics, evaluated in k groups."""
    torch.manual_seed(0)
    network = create_model("mobilenetv2_100", chunks=k).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):  # fresh statistics would make folding trivial
            for tensor, low in (
                (module.weight, 0.5),
                (module.bias, -0.5),
                (module.running_mean, -0.5),
                (module.running_var, 0.5),
            ):
                nn.init.uniform_(tensor, low, low + 1)  # type: ignore[arg-type]
    return fold(network)


def activation_bytes(network: nn.Module, x: Tensor) -> int:
    """Peak bytes of living tensors beyond weights and input."""
    held = sum(t.nbytes for t in [*network.parameters(), *network.buffers(), x])
    return peak_bytes(network, x) - held


def peak_formula(x: Tensor) -> dict[int, float]:
    """max over blocks of |in| + |out| + |inner| / k, in elements, for k = 1 and `CHUNKS`."""
    sizes: list[tuple[int, int]] = []

    def note(block: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        area = max(inputs[0][0, 0].numel() if block.expanded else 0, output[0, 0].numel())
        sizes.append((inputs[0].numel() + output.numel(), block.conv_dw.out_channels * area))

    network = create_model("mobilenetv2_100").eval()
    for block in network.modules():
        if isinstance(block, InvertedResidual):
            block.register_forward_hook(note)
    with torch.inference_mode():
        network(x)
    return {k: max(ends + inner / k for ends, inner in sizes) for k in (1, *CHUNKS)}


def equal_cost(device: Device) -> Finding:
    """The arms have the same parameters and MACs; how their times compare is said beside it."""
    num_classes = sum(map(len, REGIONS.values()))  # those of `DATA`, which need not be read for this
    arms = {arm: build(arm, num_classes) for arm in SWITCHES}
    costs = {arm: counted(network, picture(SHAPE)) for arm, network in arms.items()}
    first = costs["linear"]
    times = []
    for arm in SWITCHES:
        if arm != "linear":
            value, low, high = ratio(*paired_times(arms[arm], arms["linear"], SHAPE, device))
            times.append(f"{arm} {value:.2f}x ({low:.2f} to {high:.2f})")
    claim = SubClaim("equal cost", "the arms have the same parameters and multiply-adds", ours=True)
    measured = f"{first['params']:,} parameters, {first['macs']:,} MACs; time against linear: {', '.join(times)}"
    if not (equal := all(cost == first for cost in costs.values())):
        measured = "; ".join(f"{arm} {cost['params']:,}, {cost['macs']:,}" for arm, cost in costs.items())
    how = f"counted and timed now: {device.name}, onnxruntime, 1 thread, batch 1"
    return Finding(claim, HOLDS if equal else FAILS, measured, how)


def _pairs(table: dict[str, tuple[int, int]]) -> str:
    return "; ".join(f"{params:,}, {macs:,}" for params, macs in table.values())


REPRODUCTION = Reproduction(
    slug="mobilenetv2",
    data=DATA,
    seeds=SEEDS,
    arms=(
        Arm("linear", "the paper's block: linear bottleneck, residual between bottlenecks"),
        Arm("relu6", "ReLU6 after the projection"),
        Arm("expansion", "residual between the expanded tensors"),
        Arm("none", "no residual"),
    ),
    contrasts=(
        Contrast(
            SubClaim("linear", "a linear bottleneck is more accurate than one with ReLU6", "", "section 6.4, figure 6a"),
            better="linear",
            worse="relu6",
        ),
        Contrast(
            SubClaim(
                "residual place",
                "a residual between bottlenecks is more accurate than one between expansions",
                "",
                "section 6.4, figure 6b",
            ),
            better="linear",
            worse="expansion",
        ),
        Contrast(
            SubClaim("residual", "a residual between bottlenecks is more accurate than none", "", "section 6.4, figure 6b"),
            better="linear",
            worse="none",
        ),
    ),
    settings={"recipe": RECIPE.to_dict(), "network": NETWORK, "shape": list(SHAPE)},
    sources=(
        "hollowbone.reproduce.mobilenetv2:run",
        "hollowbone.reproduce.trial",
        "hollowbone.models.mobilenetv2",
        "hollowbone.models.blocks.channels",
        "hollowbone.models.blocks.conv",
        "hollowbone.models.blocks.inverted_residual",
        "hollowbone.models.fold",
        "hollowbone.tasks.base",
        "hollowbone.tasks.classification",
        "hollowbone.train",
    ),
    exact=exact,
    run=run,
    minutes=9,
    paper="ImageNet-1K (1.28 million pictures) and some days of several GPUs",
    notes=(
        "the study is small: networks of some twenty thousand parameters, 32-pixel patches of photographs, "
        f"{RECIPE.epochs} epochs; the paper's figure 6 is of ImageNet",
    ),
)
