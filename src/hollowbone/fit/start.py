"""`--start`: the user's own model, fine-tuned and made to fit.

As it is where its untrained export is measured within the limits. Else, for EfficientFormer and MobileNetV2: fine-tuned
first, then slimmed with its weights, step by step, by the score lost per share of the limits saved (a MobileNetV2 also
enters without its last groups); what is left trains on from there, taught by the network it was cut from. Any other network
cannot be shrunk yet: it goes on where its int8 form is measured within the limits, and is refused with the measured figure
otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from hollowbone.errors import BudgetImpossible
from hollowbone.fit.candidates import (
    PROOF,
    REMEDY,
    Candidate,
    Found,
    Shrink,
    Slimmer,
    check_floor,
    label,
    latency_table,
    measured,
    prove,
    slimming_of,
    square_sizes,
)
from hollowbone.fit.context import Context
from hollowbone.fit.pressure import Pressure, static_counts
from hollowbone.fit.reference import Baseline, weights_of
from hollowbone.fit.ship import CALIBRATION_SAMPLES, export_artifact, inputs_of, real_samples
from hollowbone.fit.trial import build, identity, keep_weights, preprocessing_of
from hollowbone.measure.budget import Budget, Limit
from hollowbone.measure.units import human
from hollowbone.models.efficientformer import EfficientFormer
from hollowbone.models.mobilenetv2 import MobileNetV2
from hollowbone.runtime.base import Timing
from hollowbone.search import get_space
from hollowbone.search.base import Config
from hollowbone.search.score import scorer
from hollowbone.search.subnet import extract
from hollowbone.search.transplant import (
    as_supernet,
    contained,
    former_config,
    influences,
    keeping_groups,
    shrink,
    stage_sizes,
    transplant,
    without_last_groups,
)

TUNING = 1 / 3
"""Share of the final epochs for which a model is fine-tuned before it is slimmed."""
LIGHTER_IN_INT8 = {"latency", "size", "memory"}
"""Metrics that eight bits can lower."""
PROBE = 64
"""Training samples on which the blocks of an EfficientFormer show how much they change."""


def find(context: Context, limits: Budget, baseline: Baseline) -> Found:
    """The candidates that come of the user's model. Raises `BudgetImpossible`, with what was measured, if there is none."""
    config = baseline.config
    tried: list[dict[str, Any]] = []
    network = _built(context, config)
    family = next((name for name, family in FAMILIES.items() if isinstance(network, family.kind)), None)
    timing = measured(context, config)
    tried.append(_point("start", config, timing))
    shares = _shares(context, limits, config)
    context.say(f"  start     {label(config)}: {timing.median_ms:.4f} ms measured; {_worst(shares)}")
    if max(shares.values()) <= (1.0 if family is None else PROOF):
        return Found((Candidate(label(config), config, "start", timing.median_ms, timing.median_ms),), tried)
    if family is None:
        return _in_int8(context, limits, config, shares, tried)
    return _slimmed(context, limits, baseline, network, family, tried)


def _in_int8(
    context: Context, limits: Budget, config: Config, shares: dict[Limit, float], tried: list[dict[str, Any]]
) -> Found:
    """The model as it is, if its int8 form is measured within the limits; whether that form ships is decided when trained."""
    said = f"{label(config)} misses {limits}: as it is, {_worst(shares)}"
    over = {limit.metric for limit, share in shares.items() if share > 1.0}
    if context.settings.format == "onnx" and over <= LIGHTER_IN_INT8:
        figures = _int8_figures(context, config)
        timing = Timing(**figures["latency"])
        counts = {**static_counts(context, config), **figures, "latency": _ms(limits, timing)}
        small = {limit: counts[limit.metric] / limit.number for limit in limits.limits}
        tried.append(_point("start in int8", config, timing))
        context.say(f"  start     {label(config)} in int8: {timing.median_ms:.4f} ms measured; {_worst(small)}")
        if max(small.values()) <= 1.0:
            return Found((Candidate(label(config), config, "start in int8", timing.median_ms, timing.median_ms),), tried)
        said += f"; in int8, {_worst(small)}"
    raise BudgetImpossible(
        f"{said} (measured on {context.device.name}). Only EfficientFormer and MobileNetV2 can be shrunk yet: start from one "
        f"of them, or leave --start out; {REMEDY}"
    )


def _int8_figures(context: Context, config: Config) -> dict[str, Any]:
    """Latency, bytes and peak memory of the model's int8 form before it is trained, journaled once."""
    from hollowbone.runtime.int8 import quantize_int8

    preprocessing = preprocessing_of(config, context.data)
    inputs, threads = inputs_of(preprocessing), context.settings.threads

    def measure() -> dict[str, Any]:
        path = context.folder.work("start", "model.onnx")
        plain = export_artifact(_built(context, config), path, preprocessing, format="onnx")
        samples = real_samples(context.task, context.data, preprocessing, "train", CALIBRATION_SAMPLES)
        facts = context.journal["device"]["facts"]
        small = quantize_int8(plain, samples, path.with_name("int8.onnx"), facts=facts)
        timing = context.device.time(small, inputs, threads=threads, fresh=True)
        memory = context.device.peak_memory(small, inputs, threads=threads)
        return {"latency": timing.to_dict(), "size": small.nbytes, "memory": memory}

    return context.journal.clock(f"start/int8/{identity(config)}", measure)


def _slimmed(
    context: Context, limits: Budget, baseline: Baseline, network: nn.Module, name: str, tried: list[dict[str, Any]]
) -> Found:
    """Fine-tune, slim with the weights, prove."""
    family, space, sizes = FAMILIES[name], get_space(name), square_sizes(context)
    begun = family.begin(network, **sizes)
    strides = {k: begun[k] for k in ("stem_strides",) if k in begun}
    check_floor(context, limits, {name: {**space.smallest(**sizes), **strides}})
    # Where the budget is a share of the start, it is trained in full anyway, to be held against: that training serves here too.
    epochs = context.epochs if context.budget.relative else max(1, round(context.epochs * TUNING))
    context.say(f"fine-tuning {baseline.name} for {epochs} epochs")
    score, sha = weights_of(context, baseline.config, epochs)
    context.say(f"slimming {baseline.name}, {context.task.metric.format(score)} on select")
    teacher = {**baseline.config, "init_sha": sha}
    table = latency_table(context, space)
    limit = limits.limit("latency")
    if limit and hasattr(space, "calibration"):
        table.calibrate(space.calibration(begun))
    pressure = Pressure(context, limits, lambda config: space.latency(config, table))
    unit = limit.number if limit else 1.0
    surgery = family.surgery(context, _built(context, teacher), begun, pressure, unit, table)
    slimming = Slimmer(context, pressure, unit, {**begun, **surgery.sizes}, surgery.shrink, origin="start")
    sources = [_Cut(context, pressure, slimming.make, lambda _: surgery.cut(slimming.last), teacher)]
    if surgery.crop:
        sources.append(_Cut(context, pressure, partial(surgery.crop, pressure), surgery.cut, teacher))
    proven = [prove(context, source, pressure, tried) for source in sources]
    candidates = tuple(candidate for candidate in proven if candidate is not None)
    if not candidates:
        found = [_shares(context, limits, point["config"]) for point in tried]
        nearest = min(range(len(tried)), key=lambda i: max(found[i].values()))
        raise BudgetImpossible(
            f"nothing that slimming makes of {baseline.name} meets {limits}: the nearest, {tried[nearest]['name']}, has "
            f"{_worst(found[nearest])} (measured on {context.device.name}); {REMEDY}"
        )
    return Found(candidates, tried, slimming if slimming.last is not None else None, {name: len(table.entries()["entries"])})


class _Cut:
    """What `choose` makes of the start for an aim, with the weights that are left; `teacher` is what they were cut from."""

    origin = "start"

    def __init__(
        self,
        context: Context,
        pressure: Pressure,
        choose: Callable[[float], Config | None],
        cut: Callable[[Config], nn.Module],
        teacher: Config,
    ) -> None:
        self._context, self.pressure, self._choose, self._cut, self.teacher = context, pressure, choose, cut, teacher

    def make(self, aim: float) -> Config | None:
        """The configuration; its weights are kept in the run's folder."""
        config = self._choose(aim)
        if config is None:
            return None
        return {**config, "init_sha": keep_weights(self._cut(config).state_dict(), self._context.folder)}


@dataclass(frozen=True)
class Surgery:
    """How a network is slimmed: `cut(selection)` is the network that is left of it, with its weights; `sizes` describe it.

    `crop(pressure, aim)` is the configuration that another way of making it fit leads to.
    """

    shrink: Shrink
    cut: Callable[[Any], nn.Module]
    sizes: dict[str, list[int]]
    crop: Callable[[Callable[[Config], float], float], Config | None] | None = None


def _mobilenet(context: Context, network: nn.Module, begun: Config, pressure: Pressure, unit: float, table: Any) -> Surgery:
    """Layer by layer, over the space's own actions."""
    scorers: dict[int, Any] = {}  # one a resolution

    def score(config: Config) -> float:
        side = config["resolution"]
        if side not in scorers:
            preprocessing = preprocessing_of(config, context.data)
            scorers[side] = scorer(context.task, context.data, preprocessing, seed=context.settings.seed)
        return scorers[side](transplant(network, config))

    def slim(limit: float, after: Any, record: Any) -> Any:
        return shrink(keeping_groups, begun, lambda config: pressure(config) * unit, limit, score, after=after, record=record)

    return Surgery(
        slim,
        lambda config: transplant(network, config),
        stage_sizes(transplant(network, begun)),
        partial(without_last_groups, begun),
    )


def _former(context: Context, network: nn.Module, begun: Config, pressure: Pressure, unit: float, table: Any) -> Surgery:
    """As the supernet of its own blocks, by latency-driven slimming."""
    preprocessing = preprocessing_of(begun, context.data)
    probe = torch.cat([torch.from_numpy(x) for (x,) in real_samples(context.task, context.data, preprocessing, "train", PROBE)])
    changes = context.journal.result("start/influences", lambda: influences(network, probe))
    supernet = as_supernet(network, begun, changes)
    score = scorer(context.task, context.data, preprocessing, seed=context.settings.seed)
    slim = slimming_of(supernet, table.space, table, pressure, unit, score)
    return Surgery(slim, lambda selection: extract(supernet, selection), {})


@dataclass(frozen=True)
class Family:
    """A family that can be slimmed: its networks, where in its space one of them begins, and how it is cut."""

    kind: type[nn.Module]
    begin: Callable[..., Config]
    surgery: Callable[..., Surgery]


FAMILIES = {
    "efficientformer": Family(EfficientFormer, former_config, _former),
    "mobilenetv2": Family(MobileNetV2, contained, _mobilenet),
}
"""By the name of their space."""


def _built(context: Context, config: Config) -> nn.Module:
    """The network with the weights that its configuration names."""
    return build(context.with_weights(config)).eval()


def _shares(context: Context, limits: Budget, config: Config) -> dict[Limit, float]:
    """What a measured configuration uses of every limit."""
    timing = measured(context, config)
    pressure = Pressure(context, limits, lambda _: _ms(limits, timing))
    return {limit: pressure.figure(limit, config) / limit.number for limit in limits.limits}


def _ms(limits: Budget, timing: Timing) -> float:
    """The figure that the latency limit is about."""
    limit = limits.limit("latency")
    return timing.p95_ms if limit and limit.stat == "p95" else timing.median_ms


def _point(stage: str, config: Config, timing: Timing) -> dict[str, Any]:
    return {
        "stage": stage,
        "name": label(config),
        "latency_ms": timing.median_ms,
        "predicted_ms": timing.median_ms,
        "config": dict(config),
    }


def _worst(shares: dict[Limit, float]) -> str:
    """The limit that presses hardest, as in `latency 0.3 ms, 1.5 times the limit`."""
    limit = max(shares, key=lambda x: shares[x])
    return f"{limit.name} {human(limit.metric, shares[limit] * limit.number)}, {shares[limit]:.3g} times the limit"
