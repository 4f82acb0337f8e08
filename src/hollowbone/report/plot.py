"""Parts of plotly figures that several charts share: axes, lines across a plot, layout, and text made safe.

A colour is the name of a CSS variable, `var(--accent)`; the page's script looks it up in the scheme that is on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from textwrap import wrap
from typing import Any


def axis_range(values: Sequence[float], log: bool, least: float = 0.0) -> list[float]:
    """A range of an axis with room at both ends, at least `least`; of the logarithms where it is logarithmic."""
    low, high = min(values), max(values)
    if log:
        return [math.log10(low) - 0.08, math.log10(high) + 0.08]
    room = max(0.08 * (high - low), least) or 0.1 * high
    return [max(0.0, low - room), high + room]


def beyond(x: float) -> dict[str, Any]:
    """A shade over everything beyond a limit."""
    place = {"xref": "x", "yref": "paper", "x0": x, "x1": x * 1e3, "y0": 0, "y1": 1}
    return {"type": "rect", **place, "fillcolor": "var(--over)", "line": {"width": 0}, "layer": "below"}


def line(x: float) -> dict[str, Any]:
    """A dashed line across the whole plot: a budget, an aim, the waterline."""
    dashed = {"color": "var(--bad)", "width": 1.5, "dash": "dash"}
    return {"type": "line", "xref": "x", "yref": "paper", "x0": x, "x1": x, "y0": 0, "y1": 1, "line": dashed}


def line_label(text: str, at: float, span: Sequence[float], log: bool) -> dict[str, Any]:
    """The name of a line above it, written towards the side that has room. An annotation takes logarithms on such an axis."""
    x = math.log10(at) if log else at
    place = (x - span[0]) / (span[1] - span[0])
    side = "right" if place > 0.7 else "left" if place < 0.3 else "center"
    return {
        "xref": "x",
        "yref": "paper",
        "x": x,
        "xanchor": side,
        "y": 1,
        "yanchor": "bottom",
        "text": safe(text),
        "showarrow": False,
        "font": {"size": 12, "color": "var(--bad)"},
    }


def axis(title: str, **more: Any) -> dict[str, Any]:
    """An axis with its title, in the page's colours."""
    return {
        "title": {"text": safe(title), "standoff": 8, "font": {"size": 12}},
        "gridcolor": "var(--rule)",
        "linecolor": "var(--rule-strong)",
        "zeroline": False,
        "ticks": "outside",
        "ticklen": 4,
        "tickcolor": "var(--rule-strong)",
        "automargin": True,
        **more,
    }


def layout_of(*, height: int, **more: Any) -> dict[str, Any]:
    """A layout without a background of its own, `height` pixels high, its legend below."""
    return {
        "height": height,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "var(--sans)", "size": 12, "color": "var(--ink)"},
        "hoverlabel": {
            "bgcolor": "var(--raised)",
            "bordercolor": "var(--rule-strong)",
            "align": "left",
            "font": {"family": "var(--sans)", "color": "var(--ink)"},
        },
        "hovermode": "closest",
        "legend": {"orientation": "h", "x": 0, "yref": "container", "y": 0, "yanchor": "bottom", "itemsizing": "trace"},
        "margin": {"l": 56, "r": 16, "t": 28, "b": 48},
        "annotations": [],
        **more,
    }


def safe(text: str) -> str:
    """Text that plotly's small HTML shows as it is, in lines that fit on a telephone."""
    return "<br>".join(escape(line, quote=False) for line in wrap(str(text), 36)) or escape(str(text), quote=False)


def short(name: str) -> str:
    """A name for a tick, safe and of bearable length."""
    return escape(name if len(name) <= 14 else name[:13] + "…", quote=False)
