"""Measuring: `Cost`, `Budget`, and the verbs `measure`, `compare`, `count`, `peaks` and `waterline`.

Each name is imported from its file when it is first used, so that `hollowbone.measure.budget` needs no PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hollowbone.measure.budget import Budget as Budget
    from hollowbone.measure.budget import Judgement as Judgement
    from hollowbone.measure.budget import Limit as Limit
    from hollowbone.measure.comparing import Comparison as Comparison
    from hollowbone.measure.comparing import compare as compare
    from hollowbone.measure.cost import METRICS as METRICS
    from hollowbone.measure.cost import Cost as Cost
    from hollowbone.measure.counters import Counts as Counts
    from hollowbone.measure.counters import count as count
    from hollowbone.measure.energy import energy_available as energy_available
    from hollowbone.measure.measurable import require_measurable as require_measurable
    from hollowbone.measure.measuring import measure as measure
    from hollowbone.measure.memory import peak_bytes as peak_bytes
    from hollowbone.measure.roofline import Peaks as Peaks
    from hollowbone.measure.roofline import peaks as peaks
    from hollowbone.measure.waterlines import LayerRow as LayerRow
    from hollowbone.measure.waterlines import waterline as waterline

_HOME = {
    "METRICS": "cost",
    "Cost": "cost",
    "Budget": "budget",
    "Judgement": "budget",
    "Limit": "budget",
    "Counts": "counters",
    "count": "counters",
    "measure": "measuring",
    "Comparison": "comparing",
    "compare": "comparing",
    "energy_available": "energy",
    "require_measurable": "measurable",
    "peak_bytes": "memory",
    "Peaks": "roofline",
    "peaks": "roofline",
    "LayerRow": "waterlines",
    "waterline": "waterlines",
}
"""The file of each name; no file bears the name of a verb, since Python would put the file in its place."""

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
