"""Latency-driven slimming: shrink a trained supernet step by step, each time by the action that loses least accuracy per ms.

Source: Li et al. 2022 (EfficientFormer, arXiv 2206.01191), section 4.2, Algorithm 1. Importance of a MetaPath is
S = p(4D) / p(I), in the last two stages (p(3D) + p(4D)) / p(I), with p the softmax of its logits; importance of a stage is
the sum over its remaining paths. Every step considers (a) *depth*: the least important path becomes the identity;
(b) *mixer*: the first MB3D becomes MB4D; (c) *width*: the least important stage that is wider than 16 loses 16 channels.
Of these the smallest dAcc / dT is done, until the predicted latency meets the limit.

What the paper leaves open, read by us: one block stays in every stage; at the start the blocks that attend are the suffix that
maximises the summed log-probability of the kinds chosen; channels go by least |gamma| of the stage's embedding norm (first
stage: the stem's), hidden units by least |gamma| of the MLP's norm (attention blocks: by least row norm of fc1); dAcc is
measured with batch-norm statistics re-estimated and clipped at 0; an action that saves nothing is not allowed; ties go to the
larger saving.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import nn

from hollowbone.errors import BudgetImpossible
from hollowbone.search.base import Action, Config, SlimmingStep, Table
from hollowbone.search.efficientformer_space import STEP, EfficientFormerSpace, uniform_widths, with_width, without_block
from hollowbone.search.subnet import Selection, extract
from hollowbone.search.supernet import MetaPath, Supernet
from hollowbone.search.table import Record, measure_now

Score = Callable[[nn.Module], float]
"""Of a network, higher is better (`search.score.Scorer`)."""


@dataclass(frozen=True)
class Slimmed:
    """What slimming found: the configuration to train from scratch, how it was reached, and what was predicted of it.

    `selection` continues the slimming (`slim(..., start=selection)`) where the measured artifact is still over the limit.
    `score` is that of the slimmed supernet, not of the network that will be trained.
    """

    config: Config
    selection: Selection
    path: tuple[SlimmingStep, ...]
    latency_ms: float
    score: float
    start_ms: float


def initial(supernet: Supernet) -> Selection:
    """Everything that the supernet has, each position as pooling or attention, attention as the likeliest suffix."""
    last_two = [path for stage in supernet.by_stage()[-2:] for path in stage]
    probabilities = [path.probabilities() for path in last_two]
    scores = [
        sum(math.log(p["3d" if i >= len(probabilities) - suffix else "4d"]) for i, p in enumerate(probabilities))
        for suffix in range(len(probabilities) + 1)
    ]
    vit_num = int(np.argmax(scores))
    config = {**supernet.config, "vit_num": vit_num}
    return Selection(config, tuple(tuple(range(depth)) for depth in config["depths"]))


def importance(path: MetaPath) -> float:
    """S of a MetaPath: how much likelier any block is than the identity."""
    probabilities = path.probabilities()
    return (1.0 - probabilities["identity"]) / probabilities["identity"]


def proposals(supernet: Supernet, selection: Selection) -> list[tuple[Action, Selection]]:
    """The (up to three) actions that a step considers, with what is left after each."""
    config, found = selection.config, []
    stages = zip(supernet.by_stage(), selection.positions, strict=True)
    values = [[importance(paths[i]) for i in kept] for paths, kept in stages]
    removable = [(value, s, i) for s, stage in enumerate(values) for i, value in enumerate(stage) if len(stage) > 1]
    if removable:
        _, stage, i = min(removable)
        kind, position = selection.kinds()[stage][i], selection.positions[stage][i]
        kept = tuple(p for p in selection.positions[stage] if p != position)
        left = replace(selection, config=without_block(config, stage, kind), positions=_put(selection.positions, stage, kept))
        found.append((Action("depth", f"stage {stage + 1}: remove block {position + 1} ({kind})", left.config), left))
    if config["vit_num"]:
        left = replace(selection, config={**config, "vit_num": config["vit_num"] - 1})
        found.append((Action("mixer", "the first 3d block becomes 4d", left.config), left))
    wide = [(sum(stage), s) for s, stage in enumerate(values) if config["widths"][s] > STEP]
    if wide:
        _, stage = min(wide)
        width = config["widths"][stage]
        left = replace(selection, config=with_width(config, stage, width - STEP))
        found.append((Action("width", f"stage {stage + 1}: width {width} to {width - STEP}", left.config), left))
    return found


def choose(considered: Sequence[dict[str, Any]]) -> int | None:
    """The place of the action with the least clipped drop per ms among those that save time; None if none does.

    Equal ratios go to the larger saving, then to the order given.
    """
    allowed = [(max(0.0, c["drop"]) / c["saved_ms"], -c["saved_ms"], i) for i, c in enumerate(considered) if c["saved_ms"] > 0]
    return min(allowed)[2] if allowed else None


def slim(
    supernet: Supernet,
    space: EfficientFormerSpace,
    table: Table,
    limit_ms: float,
    score: Score,
    *,
    start: Selection | None = None,
    record: Record = measure_now,
) -> Slimmed:
    """Slim a trained supernet until its predicted latency is `limit_ms` or less.

    `record(key, compute)` is asked for every step before it is acted upon (`fit` passes its journal's `result`): a step read
    from a journal is repeated without evaluating anything. Nothing is drawn at random. Raises `BudgetImpossible` when no
    action is left.
    """
    judge = _Judge(supernet, space, table, score)
    selection = start or initial(supernet)
    path: list[SlimmingStep] = []
    first = at = record("start", lambda: judge.standing(selection))
    while at["latency_ms"] > limit_ms:
        options = proposals(supernet, selection)
        step = record(f"step {len(path) + 1}", lambda options=options, at=at: judge.step(options, at))  # type: ignore[misc]
        if step["chosen"] is None:
            raise BudgetImpossible(
                f"slimming ended at {at['latency_ms']:.4g} ms predicted, above {limit_ms:.4g} ms; no action saves any more "
                f"(widths {selection.config['widths']}, depths {selection.config['depths']})"
            )
        action, selection = options[step["chosen"]]
        at = step["considered"][step["chosen"]]
        path.append(SlimmingStep(action, at["score"], at["drop"], at["saved_ms"], at["latency_ms"], tuple(step["considered"])))
    return Slimmed(selection.config, selection, tuple(path), at["latency_ms"], at["score"], first["latency_ms"])


def slim_randomly(config: Config, space: EfficientFormerSpace, table: Table, limit_ms: float, *, seed: int) -> list[Config]:
    """The arm of comparison: from `config`, any action of the space that saves time, drawn at random, until the limit is met.

    Returns every configuration on the way, the last of which meets the limit. Raises `BudgetImpossible` when none does.
    """
    random = np.random.default_rng(seed)
    way, ms = [config], space.latency(config, table)
    while ms > limit_ms:
        options = [(action.config, space.latency(action.config, table)) for action in space.actions(way[-1])]
        options = [(left, after) for left, after in options if after < ms]
        if not options:
            raise BudgetImpossible(f"random slimming ended at {ms:.4g} ms predicted, above the limit of {limit_ms:.4g} ms")
        left, ms = options[int(random.integers(len(options)))]
        way.append(left)
    return way


def scale_uniformly(config: Config, space: EfficientFormerSpace, table: Table, limit_ms: float) -> Config:
    """The other arm: the widest uniform scaling of all widths, depths as they are, that meets the limit.

    Raises `BudgetImpossible` when not even 16 channels everywhere do.
    """
    for scaled in uniform_widths(config):
        if (ms := space.latency(scaled, table)) <= limit_ms:
            return scaled
    raise BudgetImpossible(f"with width {STEP} in every stage {ms:.4g} ms are predicted, above the limit of {limit_ms:.4g} ms")


@dataclass(frozen=True)
class _Judge:
    """What a selection costs and is worth, as JSON values."""

    supernet: Supernet
    space: EfficientFormerSpace
    table: Table
    score: Score

    def standing(self, selection: Selection) -> dict[str, Any]:
        """Of one selection."""
        latency = self.space.latency(selection.config, self.table)
        return {"latency_ms": latency, "score": self.score(extract(self.supernet, selection))}

    def step(self, options: Sequence[tuple[Action, Selection]], at: dict[str, Any]) -> dict[str, Any]:
        """What each action would save and lose from where slimming stands, and which is chosen."""
        considered = []
        for action, left in options:
            after = self.space.latency(left.config, self.table)
            entry = {"kind": action.kind, "detail": action.detail, "latency_ms": after, "saved_ms": at["latency_ms"] - after}
            if entry["saved_ms"] > 0:  # an action that saves nothing is not allowed, so it need not be evaluated
                entry["score"] = self.score(extract(self.supernet, left))
                entry["drop"] = at["score"] - entry["score"]
            considered.append(entry)
        return {"considered": considered, "chosen": choose(considered)}


def _put(values: tuple[Any, ...], place: int, value: Any) -> tuple[Any, ...]:
    return (*values[:place], value, *values[place + 1 :])
