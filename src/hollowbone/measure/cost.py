"""`Cost`: everything that a model costs, measured, in one place; None with a reason where it could not be measured."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from hollowbone.runtime.base import Timing

if TYPE_CHECKING:
    from rich.table import Table

METRICS: dict[str, str] = {
    "latency": "ms",
    "size": "B",
    "params": "",
    "macs": "",
    "memory": "B",
    "energy": "J",
}
"""The metrics a budget may limit, and the base unit in which a `Cost` holds each."""


@dataclass(frozen=True)
class Cost:
    """What one call of an entry point costs.

    Parameters and MACs are counts; `activations` counts the elements written by the operators that count MACs; `size` is
    bytes of the shipped artifact; `memory` is peak bytes; `energy` is joules. A figure that could not be taken is None and
    `reasons[metric]` says why. `uncounted` lists operators with work and no formula: such a Cost meets no MAC budget.
    """

    entry: str = "forward"
    mode: str = "infer"
    unit: str = "image"
    units: int = 1
    device: str = "local"
    runtime: str = "torch"
    threads: int = 1
    params: int | None = None
    macs: int | None = None
    elementwise: int | None = None
    activations: int | None = None
    size: int | None = None
    memory: int | None = None
    latency: Timing | None = None
    energy: float | None = None
    intensity: float | None = None
    """Arithmetic intensity: MACs x 2 over bytes moved (inputs, weights and outputs of every counted operator, once each)."""
    efficiency: float | None = None
    """Share of the roofline reached: attainable time over measured time, between 0 and 1."""
    uncounted: tuple[str, ...] = ()
    reasons: dict[str, str] = field(default_factory=dict)

    def value(self, metric: str, stat: str = "median") -> float | None:
        """The figure of a metric in its base unit (`METRICS`); `stat` is `median` or `p95` and matters for latency alone."""
        if metric == "latency":
            return None if self.latency is None else (self.latency.p95_ms if stat == "p95" else self.latency.median_ms)
        return getattr(self, metric)

    def with_(self, **changes: Any) -> Cost:
        """A copy with some figures replaced."""
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, None where unknown."""
        return asdict(self)

    def __rich__(self) -> Table:
        from hollowbone.measure.table import cost_table

        return cost_table(self)

    def _repr_html_(self) -> str:
        from hollowbone.measure.table import as_html, cost_table

        return as_html(cost_table(self))

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Cost:
        """The inverse of `to_dict`."""
        latency = value.get("latency")
        return cls(**{**value, "latency": Timing(**latency) if latency else None, "uncounted": tuple(value["uncounted"])})
