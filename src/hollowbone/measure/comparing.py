"""The verb `compare`: several models or files, timed in turn in one run, against the first of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hollowbone.errors import NotMeasurable, UserError
from hollowbone.measure.cost import METRICS, Cost
from hollowbone.measure.measuring import Measurable, Subject, cost_of, prepared, timed_together
from hollowbone.runtime.base import Device, Timing
from hollowbone.runtime.device import get_device

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Ratio:
    """A figure over the baseline's, and the interval in which it lies (the value itself for what is counted)."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if self.low == self.high:
            return f"{self.value:.3g}x"
        return f"{self.value:.3g}x ({self.low:.3g} to {self.high:.3g})"


@dataclass(frozen=True)
class Comparison:
    """Costs by name, the first being the baseline; ratios below 1 are less than the baseline's."""

    costs: dict[str, Cost]

    @property
    def baseline(self) -> str:
        """The name that the others are held against."""
        return next(iter(self.costs))

    def ratio(self, name: str, metric: str = "latency") -> Ratio | None:
        """A figure of `name` over the baseline's, None where either is unknown.

        The interval of latency is that of the two medians' own 95% intervals, divided end by end: it is wider than one of
        the ratio need be, and so errs on the side of "no difference".
        """
        ours, theirs = self.costs[name], self.costs[self.baseline]
        if metric == "latency":
            a, b = ours.latency, theirs.latency
            if a is None or b is None:
                return None
            return Ratio(a.median_ms / b.median_ms, a.low_ms / b.high_ms, a.high_ms / b.low_ms)
        over, under = ours.value(metric), theirs.value(metric)
        if over is None or not under or (metric == "macs" and (ours.uncounted or theirs.uncounted)):
            return None
        return Ratio(over / under, over / under, over / under)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        ratios = {
            name: {m: None if r is None else [r.value, r.low, r.high] for m in METRICS for r in [self.ratio(name, m)]}
            for name in self.costs
        }
        return {"baseline": self.baseline, "costs": {n: c.to_dict() for n, c in self.costs.items()}, "ratios": ratios}

    def __rich__(self) -> Table:
        from hollowbone.measure.table import comparison_table

        return comparison_table(self)

    def __str__(self) -> str:
        from hollowbone.measure.table import as_text

        return as_text(self.__rich__())

    def _repr_html_(self) -> str:
        from hollowbone.measure.table import as_html

        return as_html(self.__rich__())


def compare(
    subjects: Mapping[str, Measurable] | Sequence[Measurable],
    example: Any = None,
    *,
    entry: str = "forward",
    mode: str = "infer",
    device: str | Device = "local",
    runtime: str | None = None,
    threads: int = 1,
) -> Comparison:
    """Costs of two or more models or files on the same example, device and threads; the first is the baseline.

    Latencies are taken in turn (A B A B ...) in one process; on a device behind a command, each against the baseline.
    Arguments are those of `measure`. Raises `UserError` for fewer than two.
    """
    named = dict(subjects) if isinstance(subjects, Mapping) else _named(subjects)
    if len(named) < 2:
        raise UserError(f"compare needs two or more models, not {len(named)}; for one, use measure")
    machine = get_device(device) if isinstance(device, str) else device
    with ExitStack() as stack:
        ready = [
            stack.enter_context(prepared(one, example, entry=entry, mode=mode, device=machine, runtime=runtime))
            for one in named.values()
        ]
        timings: Sequence[Timing | None] = [None] * len(ready)
        with suppress(NotMeasurable):  # the cost of each then says why
            timings = _timings(ready, machine, threads)
        costs = [cost_of(one, machine, threads, tuple(METRICS), timing) for one, timing in zip(ready, timings, strict=True)]
    return Comparison(dict(zip(named, costs, strict=True)))


def _named(subjects: Sequence[Measurable]) -> dict[str, Measurable]:
    """Names for a list: the class or the file, numbered where two are alike."""
    named: dict[str, Measurable] = {}
    for one in subjects:
        path = getattr(one, "path", one)
        name = str(getattr(path, "name", path)) if not hasattr(one, "forward") else type(one).__name__
        alike = sum(known == name or known.startswith(f"{name} (") for known in named)
        named[f"{name} ({alike + 1})" if alike else name] = one
    return named


def _timings(ready: Sequence[Subject], device: Device, threads: int) -> list[Timing]:
    if device.name == "local":
        return timed_together(ready, threads)
    first, *others = [s.artifact for s in ready if s.artifact is not None]
    pairs = [device.time_pair(first, other, ready[0].inputs, threads=threads) for other in others]
    return [pairs[0][0], *(pair[1] for pair in pairs)]
