"""How the page writes figures: one number of decimals for all its times, and beside each figure where it was taken."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from hollowbone.measure.units import human

DASH = "–"


@dataclass(frozen=True)
class Words:
    """Numbers as text. `decimals` are those of every latency on the page, so that columns and sections compare by eye."""

    metric_name: str
    unit: str
    scale: float
    decimals: int

    @classmethod
    def of(cls, result: dict[str, Any]) -> Words:
        """Three significant digits of the shipped latency, or of the smallest latency known."""
        known = [p["latency_ms"] for p in result["tried"] if p["latency_ms"]]
        latency = result["cost"]["latency"]
        value = latency["median_ms"] if latency else min(known, default=1.0)
        decimals = min(6, max(0, 2 - math.floor(math.log10(value)))) if value > 0 else 3
        metric = result["metric"]
        return cls(metric["name"], metric["unit"], metric["scale"], decimals)

    def ms(self, value: float | None) -> str:
        """Milliseconds without their unit."""
        return DASH if value is None else f"{value:.{self.decimals}f}"

    def score(self, value: float | None) -> str:
        """The metric with its unit."""
        return DASH if value is None else f"{value * self.scale:.2f}{self.unit}"

    def points(self, value: float | None) -> str:
        """A difference of two metrics, in points, with its sign (and none where it rounds to nothing)."""
        if value is None:
            return DASH
        text = f"{value * self.scale:+.2f}"
        return "0.00" if float(text) == 0 else text.replace("-", "−")

    def interval(self, low: float, high: float) -> str:
        """Both ends of an interval of the metric."""
        return f"{low * self.scale:.2f} to {high * self.scale:.2f}"


def plural(number: int, word: str) -> str:
    """`1 thread`, `2 threads`, `2 classes`."""
    ending = "" if number == 1 else "es" if word.endswith("s") else "s"
    return f"{number:,} {word}{ending}"


def ratio(after: float | None, before: float | None) -> str:
    """After over before as `0.45×`, empty where there is no such number."""
    return f"{after / before:.3g}×" if before and after is not None else ""


def amount(metric: str, value: float | None) -> str:
    """A cost in four significant digits, so that a figure just over its limit does not look equal to it."""
    if value is not None and metric == "latency":
        return f"{value:.4g} ms"
    return human(metric, value)


def where(record: dict[str, Any]) -> str:
    """Device, runtime and threads of a figure."""
    return f"{record['device']}, {record['runtime']}, {plural(record['threads'], 'thread')}"


def of_cost(cost: dict[str, Any]) -> str:
    """Where a cost was taken, and over how many runs."""
    latency = cost["latency"]
    runs = f"; median latency of {plural(latency['runs'], 'run')}, 95% interval of the median" if latency else ""
    return f"{where(cost)}, batch {cost['units']}{runs}"


def of_metric(metric: dict[str, Any]) -> str:
    """Where a metric was taken: split, samples, device, runtime, threads, seeds."""
    taken = f"{metric['split']} split, n = {metric['n']:,}; {metric['what']}; {where(metric)}"
    return f"{taken}; {plural(metric['seeds'], 'seed')}; 95% interval"


def of_select(result: dict[str, Any]) -> str:
    """Where the scores were taken on which choices rest."""
    n = sum(result["data"]["counts"].get("select", {}).values())
    threads = result["training"]["recipe"].get("threads")
    at = f", {plural(threads, 'thread')}" if threads else ""
    taken = f"select split, n = {n:,}; before export, in PyTorch{at}, on the machine that ran fit"
    return f"{taken}; {plural(len(result['seeds']), 'seed')}"


def of_latency(result: dict[str, Any]) -> str:
    """Where latencies were taken."""
    return f"{where(result['cost'])}, batch {result['cost']['units']}"
