"""EfficientFormer (Li et al. 2022, arXiv 2206.01191): slimming against its alternatives at equal measured latency.

Every seed trains one supernet and slims it by accuracy lost per millisecond (section 4.2). From the same start and under the
same limit the other arms shrink in a random order or scale all widths alike, and MobileNetV2 is taken at the width that fits.
An arm is a ladder of networks from slow to fast; the first that is *measured* within the limit is trained from scratch, all
by one recipe, and judged as the exported file on *report*.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from hollowbone.errors import HollowboneError
from hollowbone.measure import count
from hollowbone.models.create import create_model
from hollowbone.reproduce.base import FAILS, HOLDS, Arm, Contrast, Finding, Once, Reproduction, SubClaim
from hollowbone.reproduce.statistics import judge_bound, rank_correlation
from hollowbone.reproduce.trial import paired_times, picture, ratio, read_data, shape_of, shipped, trained_figures
from hollowbone.runtime.base import Device
from hollowbone.runtime.clock import time_calls_interleaved
from hollowbone.runtime.session import LocalSession
from hollowbone.search import get_space
from hollowbone.search.base import Config
from hollowbone.search.efficientformer_space import EfficientFormerSpace, uniform_widths
from hollowbone.search.mobilenetv2_space import MobileNetV2Space
from hollowbone.search.score import scorer
from hollowbone.search.slimming import Slimmed, initial, slim, slim_randomly
from hollowbone.search.supernet import train_supernet
from hollowbone.search.table import LatencyTable
from hollowbone.search.verb import sizes
from hollowbone.tasks import get_task
from hollowbone.train import Recipe

DATA = "photo_patches"
SEEDS = tuple(range(6))
WIDTHS, DEPTHS = (32, 64, 96, 128), (2, 2, 3, 3)
"""Of the supernet."""
SEARCH, FINAL = Recipe(epochs=6, threads=1), Recipe(epochs=12, threads=1)
"""How the supernet and the networks that are compared are trained; so small, they train no faster with two threads."""
LIMIT = 0.5
"""The latency limit, as a share of what the whole supernet's network takes without attention."""
REACH = 0.75
"""Ladders go on to this share of the limit, as the table predicts it, so that what is measured crosses it inside them."""
MOBILENET_WIDTHS = tuple(percent / 100 for percent in range(140, 5, -5))

COUNTS: dict[str, tuple[int, int]] = {
    "efficientformer_l1": (12_289_928, 1_291_284_736),
    "efficientformer_l3": (31_406_000, 3_906_573_312),
}
"""Parameters (both heads) and multiply-adds at 224 pixels, as counted in the official code."""
PHONE_MS = (1.6, 1.6)
"""EfficientFormer-L1 and MobileNetV2 1.4 on an iPhone 12, milliseconds as printed."""
SAME_SPEED = (PHONE_MS[0] + 0.05) / (PHONE_MS[1] - 0.05)
"""The largest ratio that these figures, rounded to a tenth, allow."""
TIMED, DEEPEST = (16, 64), 3
SMALL: dict[str, Any] = {"resolution": 32, "num_classes": 10, "in_chans": 3}
"""Widths, depth and sizes of the small networks on which a table is judged."""
LARGEST_ERROR, LEAST_RANK = 0.25, 0.9
"""What we ask of a table; the paper gives no figure."""


def run(arm: str, seed: int, kept: Once, device: Device) -> dict[str, Any]:
    """Train the network that the seed's search found for an arm; equal seeds share one search."""
    found = kept.once(f"search/{seed}", lambda: search(seed, kept, device))
    config = found["arms"][arm]["config"]
    torch.manual_seed(seed)
    network = get_space(config["space"]).build(config)
    figures = trained_figures(network, read_data(DATA, seed), FINAL.with_(seed=seed), device)
    extra = {"slimming": found["slimming"]} if arm == "slimmed" else {}
    # Arms are compared by their times taken in turn; the trained file's own, alone and at another moment, stays beside it.
    return {**figures, "fresh_ms": figures["latency_ms"], "latency_ms": found["arms"][arm]["ms"], "config": config, **extra}


def search(seed: int, kept: Once, device: Device) -> dict[str, Any]:
    """The configuration of every arm, with its latency taken in turn with the others', and how slimming went."""
    data, task = read_data(DATA, seed), get_task("classification")
    spaces = (EfficientFormerSpace(), MobileNetV2Space())
    space, mobile = spaces
    tables = {s.name: LatencyTable(s, device, cache=False, record=kept.once) for s in spaces}
    table = tables[space.name]
    given: dict[str, Any] = sizes(data)
    base = space.config(WIDTHS, DEPTHS, 0, **given)
    table.calibrate(space.calibration(base))
    limit = LIMIT * table.network(base)
    supernet = train_supernet(base, data, task=task, recipe=SEARCH.with_(seed=seed))
    start = initial(supernet).config
    slimmed = slim(supernet, space, table, REACH * limit, scorer(task, data, data.preprocessing, seed=seed))
    ladders: dict[str, Sequence[Config]] = {
        "slimmed": [start, *(step.action.config for step in slimmed.path)],
        "random": slim_randomly(start, space, table, REACH * limit, seed=seed),
        "uniform": uniform_widths(start),
        "mobilenetv2": [mobile.config(width, **given) for width in MOBILENET_WIDTHS],
    }
    chosen = {
        arm: first_within(ladder, lambda config: tables[config["space"]].network(config), limit)
        for arm, ladder in ladders.items()
    }
    times = taken_in_turn(list(chosen.values()), picture(shape_of(data)))
    arms = {arm: {"config": dict(config), "ms": ms} for (arm, config), ms in zip(chosen.items(), times, strict=True)}
    return {"limit_ms": limit, "arms": arms, "slimming": steps_of(slimmed)}


def first_within(ladder: Sequence[Config], measured: Callable[[Config], float], limit_ms: float) -> Config:
    """The first network of a descending ladder that is measured within the limit, by halving."""
    low, high = 0, len(ladder)
    while low < high:
        middle = (low + high) // 2
        if measured(ladder[middle]) <= limit_ms:
            high = middle
        else:
            low = middle + 1
    if low == len(ladder):
        raise HollowboneError(
            f"no network of a ladder of {len(ladder)} was measured within {limit_ms:.4g} ms; is the machine busy?"
        )
    return ladder[low]


def taken_in_turn(configs: Sequence[Config], x: np.ndarray) -> list[float]:
    """Median milliseconds of several networks as they ship, timed in turn in this process with one thread."""
    with TemporaryDirectory(prefix="hollowbone-arms-") as folder:
        networks = [get_space(config["space"]).build(config).eval() for config in configs]
        files = [shipped(network, x, Path(folder) / f"{i}.onnx") for i, network in enumerate(networks)]
        timings = time_calls_interleaved([LocalSession(file).bind([x]) for file in files])
    return [timing.median_ms for timing in timings]


def steps_of(slimmed: Slimmed) -> list[dict[str, Any]]:
    """Every step of a slimming: what was done, what it cost and saved."""
    return [
        {"kind": step.action.kind, "detail": step.action.detail, "score": step.accuracy, "drop": step.accuracy_drop}
        | {"saved_ms": step.saved_ms, "predicted_ms": step.latency_ms}
        for step in slimmed.path
    ]


def exact(device: Device) -> list[Finding]:
    """What needs no training."""
    return [*counts(), speed(device), additivity(device)]


def counts() -> list[Finding]:
    """Parameters and MACs on the meta device."""
    findings = []
    for name, stated in COUNTS.items():
        with torch.device("meta"):
            found = count(create_model(name).eval(), torch.zeros(1, 3, 224, 224))
        here = (found.params, found.macs)
        text = f"{name} has the parameters and multiply-adds of the official code at 224 pixels"
        claim = SubClaim(f"counts {name[-2:]}", text, _pair(stated), "official code")
        findings.append(Finding(claim, HOLDS if here == stated else FAILS, _pair(here), "counted now", float(found.params)))
    return findings


def speed(device: Device) -> Finding:
    """EfficientFormer-L1 beside MobileNetV2 1.4, both as they ship, in turn."""
    names = ("efficientformer_l1", "mobilenetv2_140")
    first, second = (create_model(name) for name in names)
    ours, theirs = paired_times(first, second, (1, 3, 224, 224), device, max_seconds=5.0)
    value, low, high = ratio(ours, theirs)
    claim = SubClaim(
        "speed",
        "EfficientFormer-L1 takes no longer than MobileNetV2 1.4",
        f"{PHONE_MS[0]} ms and {PHONE_MS[1]} ms on an iPhone 12, so at most {SAME_SPEED:.2f}x",
        "abstract and table 1",
    )
    measured = f"{value:.2f}x ({low:.2f} to {high:.2f}): {ours.median_ms:.1f} ms and {theirs.median_ms:.1f} ms"
    how = f"timed now, in turn: {device.name}, onnxruntime, 1 thread, batch 1, 224 pixels"
    return Finding(claim, judge_bound(low, high, SAME_SPEED), measured, how, value, (low, high))


def additivity(device: Device) -> Finding:
    """Latency as the sum of table entries: ten random networks, predicted and measured; the space's two ends and two
    other networks fit the offset.
    """
    space, random = EfficientFormerSpace(), np.random.default_rng(0)
    table = LatencyTable(space, device, cache=False)
    ends = [space.config([width] * 4, [depth] * 4, 0, **SMALL) for width, depth in ((TIMED[0], 1), (TIMED[-1], DEEPEST))]
    table.calibrate([*ends, _drawn(space, random), _drawn(space, random)])
    drawn = [_drawn(space, random) for _ in range(10)]
    predicted = [space.latency(config, table) for config in drawn]
    measured = [table.network(config) for config in drawn]
    worst = max(abs(p / m - 1) for p, m in zip(predicted, measured, strict=True))
    rank = rank_correlation(predicted, measured)
    claim = SubClaim(
        "additivity",
        "a network's latency is the sum of its blocks' in a look-up table",
        f"our bound: within {LARGEST_ERROR:.0%}, rank correlation above {LEAST_RANK}",
        "section 4.2",
    )
    verdict = HOLDS if worst <= LARGEST_ERROR and rank > LEAST_RANK else FAILS
    said = (
        f"within {worst:.0%}, rank correlation {rank:.2f} ({len(measured)} networks, {len(table.entries()['entries'])} timings)"
    )
    return Finding(claim, verdict, said, f"timed now: {device.name}, onnxruntime, 1 thread, batch 1, 32 pixels", worst)


def _drawn(space: EfficientFormerSpace, random: np.random.Generator) -> Config:
    """A small network of two widths only, so that the table needs few entries."""
    widths = [int(width) for width in random.choice(TIMED, 4)]
    depths = [int(depth) for depth in random.integers(1, DEEPEST + 1, 4)]
    return space.config(widths, depths, int(random.integers(0, depths[-1] + 1)), **SMALL)


def _pair(counts: tuple[int, int]) -> str:
    return f"{counts[0]:,} and {counts[1]:,}"


REPRODUCTION = Reproduction(
    slug="efficientformer",
    data=DATA,
    seeds=SEEDS,
    arms=(
        Arm("slimmed", "slimmed by accuracy lost per millisecond"),
        Arm("random", "slimmed in a random order"),
        Arm("uniform", "all widths scaled alike"),
        Arm("mobilenetv2", "MobileNetV2 at the width that fits"),
    ),
    contrasts=(
        Contrast(
            SubClaim(
                "order",
                "the order by accuracy per millisecond is more accurate than a random one at equal latency",
                "",
                "section 4.2",
            ),
            better="slimmed",
            worse="random",
        ),
        Contrast(
            SubClaim("uniform", "slimming is more accurate than scaling all widths alike at equal latency", "", "section 4.2"),
            better="slimmed",
            worse="uniform",
        ),
        Contrast(
            SubClaim(
                "mobilenetv2",
                "a slimmed network is more accurate than MobileNetV2 at equal latency",
                "+4.5 points (79.2 % and 74.7 % on ImageNet at 1.6 ms)",
                "abstract and table 1",
            ),
            better="slimmed",
            worse="mobilenetv2",
            stated=0.045,
        ),
    ),
    settings={
        "search": SEARCH.to_dict(),
        "final": FINAL.to_dict(),
        "supernet": {"widths": WIDTHS, "depths": DEPTHS},
        "limit": LIMIT,
        "reach": REACH,
    },
    sources=(
        "hollowbone.reproduce.efficientformer:run",
        "hollowbone.reproduce.trial",
        "hollowbone.models.blocks",
        "hollowbone.models.efficientformer",
        "hollowbone.models.fold",
        "hollowbone.models.mobilenetv2",
        "hollowbone.runtime.onnx",
        "hollowbone.search",
        "hollowbone.tasks.base",
        "hollowbone.tasks.classification",
        "hollowbone.train",
    ),
    exact=exact,
    run=run,
    minutes=11,
    paper="ImageNet-1K (1.28 million pictures), a RegNetY-16GF teacher, GPUs for a supernet and 300 epochs, and an iPhone 12",
    notes=(
        f"the study is small: 32-pixel patches of photographs, {FINAL.epochs} epochs for every arm, no teacher; "
        "search time is not counted against the slimmed arm",
        f"the limit is {LIMIT:g} of the latency of the supernet's network (widths {WIDTHS}, depths {DEPTHS}); an arm is the "
        "slowest of its ladder that is within it, and uniform scaling and MobileNetV2 have coarser ladders",
    ),
)
