"""`Budget`: limits on a `Cost`, typed as one line: `Budget("latency<=3ms, size<=2MB")`.

A limit is `[ENTRY.|train.]METRIC[.p95]<=NUMBER UNIT`, or `<=0.5x` of a reference that `resolve` is given later. Sizes are
decimal (kB, MB, GB) or binary (KiB, MiB, GiB); counts take k, M, G; `latency` is the median unless `.p95` is asked for.
Needs no PyTorch, so that a command can refuse nonsense before anything heavy is loaded.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from decimal import Decimal

from hollowbone.errors import NotMeasurable, UserError, unknown
from hollowbone.measure.cost import METRICS, Cost
from hollowbone.measure.units import example, human, parse_value, share, shortest, shown

_WHOLE_MODEL = ("size", "params")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Limit:
    """One upper limit. `number` is in the base unit of `cost.METRICS`, or a share of the reference where `relative`."""

    metric: str
    number: float
    relative: bool = False
    stat: str = "median"
    entry: str = "forward"
    mode: str = "infer"

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise unknown("metric", self.metric, METRICS)
        if not 0 < self.number < math.inf:
            raise UserError(f"the limit on {self.metric} must be a finite number more than 0, not {self.number}")

    @property
    def name(self) -> str:
        """What is limited, as typed: `latency`, `latency.p95`, `train.memory`, `prefill.latency`."""
        prefix = "train." if self.mode == "train" else "" if self.entry == "forward" else f"{self.entry}."
        return prefix + self.metric + (".p95" if self.stat == "p95" else "")

    @property
    def amount(self) -> str:
        """The limit itself, as typed: `3ms`, `0.5x`."""
        return share(self.number) if self.relative else shortest(self.metric, self.number)

    def __str__(self) -> str:
        return f"{self.name}<={self.amount}"


@dataclass(frozen=True)
class JudgedLimit:
    """A limit beside the figure measured (None where there is none), and a sentence for people."""

    limit: Limit
    value: float | None
    met: bool
    text: str


@dataclass(frozen=True)
class Judgement:
    """Whether a cost is within a budget, limit by limit."""

    rows: tuple[JudgedLimit, ...]

    @property
    def met(self) -> bool:
        """Whether every limit is met."""
        return all(row.met for row in self.rows)

    def __str__(self) -> str:
        return "; ".join(row.text for row in self.rows)


@dataclass(frozen=True, init=False, repr=False)
class Budget:
    """Upper limits on a `Cost`, from the text that a user types. Raises `UserError` with what would do.

    >>> Budget("latency <= 3 ms, size<=2000kB, params≤3.5M")
    Budget("latency<=3ms, size<=2MB, params<=3.5M")
    """

    limits: tuple[Limit, ...]

    def __init__(self, text: str) -> None:
        if not isinstance(text, str) or not text.strip():
            raise UserError(
                f"a budget needs at least one limit, for example {example('latency')!r}; given was {shown(str(text))}"
            )
        self._set(_parse_limit(part) for part in text.split(","))

    @classmethod
    def of(cls, *limits: Limit) -> Budget:
        """A budget of limits already made."""
        if not limits:
            raise UserError(f"a budget needs at least one limit, for example {example('latency')!r}")
        budget = object.__new__(cls)
        budget._set(limits)
        return budget

    def _set(self, limits: Iterable[Limit]) -> None:
        limits = tuple(limits)
        for i, limit in enumerate(limits):
            for earlier in limits[:i]:
                _refuse_two(earlier, limit)
        object.__setattr__(self, "limits", limits)

    def __str__(self) -> str:
        return ", ".join(map(str, self.limits))

    def __repr__(self) -> str:
        return f'Budget("{self}")'

    @property
    def relative(self) -> bool:
        """Whether any limit is a share of a reference."""
        return any(limit.relative for limit in self.limits)

    def limit(self, metric: str, *, entry: str = "forward", mode: str = "infer") -> Limit | None:
        """The first limit on a metric of an entry point, or None."""
        return next((x for x in self.limits if (x.metric, x.entry, x.mode) == (metric, entry, mode)), None)

    def scaled(self, factor: float) -> Budget:
        """Every limit times `factor`: a search aims at `budget.scaled(0.9)` so that what ships is surely within."""
        if not 0 < factor < math.inf:
            raise UserError(f"a budget is scaled by a finite number more than 0, not {factor}")
        times = Decimal(repr(float(factor)))
        return Budget.of(*(replace(x, number=float(Decimal(repr(float(x.number))) * times)) for x in self.limits))

    def resolve(self, reference: Cost) -> Budget:
        """The same budget with every `0.5x` replaced by half of what the reference measured.

        Raises `NotMeasurable` where the reference has no such figure.
        """
        return Budget.of(*(_absolute(x, reference) if x.relative else x for x in self.limits))

    def judge(self, cost: Cost) -> Judgement:
        """Compare a cost with every limit. A figure that is missing, or MACs with uncounted operators, meets nothing."""
        if self.relative:
            raise UserError(f"the budget {self} is relative: resolve it against the cost of a reference before judging")
        return Judgement(tuple(_judge(limit, cost) for limit in self.limits))


def _parse_limit(part: str) -> Limit:
    name, value = _split(part)
    metric, stat, entry, mode = _parse_name(name)
    number, relative = parse_value(metric, value)
    return Limit(metric, number, relative, stat, entry, mode)


def _split(part: str) -> tuple[str, str]:
    match = re.fullmatch(r"([^<>=≤≥]*)([<>=≤≥]+)([^<>=≤≥]*)", part.strip(), re.DOTALL)
    if match is None:
        raise UserError(
            f"cannot read {shown(part.strip())} as a limit: write METRIC<=NUMBER UNIT, for example {example('latency')}"
        )
    name, sign, value = (piece.strip() for piece in match.groups())
    if sign not in ("<=", "≤"):
        raise UserError(f"a budget sets upper limits: write {shown(f'{name}<={value}')} instead of {shown(part.strip())}")
    return name, value


def _parse_name(name: str) -> tuple[str, str, str, str]:
    """`prefill.latency.p95` as (metric, stat, entry, mode)."""
    parts = name.split(".")
    stat = "median"
    if len(parts) > 1 and parts[-2] in METRICS:
        if parts[-1] != "p95":
            raise UserError(
                f"there is no statistic {shown(parts[-1])} of {parts[-2]}; latency is the median, latency.p95 the tail"
            )
        if parts[-2] != "latency":
            raise UserError(f"{parts[-2]} has no p95: only latency varies from run to run; write {example(parts[-2])}")
        stat = parts.pop()
    metric = parts[-1]
    if metric not in METRICS:
        raise unknown("metric", metric[:60], METRICS)
    prefix = ".".join(parts[:-1])
    if len(parts) > 2 or (len(parts) == 2 and not _NAME.fullmatch(prefix)):
        raise UserError(f"{shown(prefix)} is not the name of an entry point: write METRIC, ENTRY.METRIC or train.METRIC")
    if prefix and prefix != "forward" and metric in _WHOLE_MODEL:
        raise UserError(f"{metric} belongs to the whole model, not to {shown(prefix)}: write {example(metric)}")
    return (metric, stat, "forward", "train") if prefix == "train" else (metric, stat, prefix or "forward", "infer")


def _refuse_two(a: Limit, b: Limit) -> None:
    if a.name == b.name:
        raise UserError(f"{b.name} is limited twice, by {a.amount} and by {b.amount}: keep one of them")


def _mismatch(limit: Limit, cost: Cost) -> str | None:
    """Why the cost says nothing about the limit, or None if it does."""
    if limit.metric in _WHOLE_MODEL or (limit.entry, limit.mode) == (cost.entry, cost.mode):
        return None
    return f"{limit.name} limits {limit.entry} ({limit.mode}), and this is the cost of {cost.entry} ({cost.mode})"


def _absolute(limit: Limit, reference: Cost) -> Limit:
    value = reference.value(limit.metric, limit.stat)
    reason = _mismatch(limit, reference)
    if reason is None and value is None:
        reason = reference.reasons.get(limit.metric, "it was not measured")
    if reason is None and limit.metric == "macs" and reference.uncounted:
        reason = f"no formula counts {', '.join(reference.uncounted)}"
    if reason is not None or value is None:
        raise NotMeasurable(f"{limit} needs the reference's {limit.metric}, which is unknown: {reason}")
    if not 0 < value < math.inf:
        raise NotMeasurable(f"{limit} needs a reference with more than 0 {limit.metric}, and this one has {value:g}")
    return replace(limit, number=limit.number * value, relative=False)


def _judge(limit: Limit, cost: Cost) -> JudgedLimit:
    if (reason := _mismatch(limit, cost)) is not None:
        return JudgedLimit(limit, None, False, reason)
    value = cost.value(limit.metric, limit.stat)
    if value is None:
        reason = cost.reasons.get(limit.metric, "it was not measured")
        return JudgedLimit(limit, None, False, f"{limit.name} is unknown ({reason}), so {limit} is not met")
    if limit.metric == "macs" and cost.uncounted:
        unknown_work = ", ".join(cost.uncounted)
        text = f"{limit} is not met: no formula counts {unknown_work}, so the {human('macs', value)} are a lower bound"
        return JudgedLimit(limit, value, False, text)
    met = value <= limit.number
    verdict = "within" if met else "over"
    return JudgedLimit(limit, value, met, f"{limit.name} {human(limit.metric, value)} is {verdict} {limit.amount}")
