"""How costs, comparisons and waterlines look: rich tables for terminals, the same tables as HTML for notebooks."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from hollowbone.measure.cost import METRICS, Cost
from hollowbone.measure.units import human

if TYPE_CHECKING:
    from hollowbone.measure.comparing import Comparison
    from hollowbone.measure.waterlines import LayerRow


NOT_ASKED = "it was not asked for"
"""The reason in a Cost for a figure that `measure` was told to leave out; such figures get no line."""


def cost_table(cost: Cost) -> Table:
    """One line a figure: value, and what to know about it."""
    table = Table(title=_where(cost), title_justify="left")
    for column in ("metric", "value", "note"):
        table.add_column(column, justify="right" if column == "value" else "left")
    for metric in METRICS:
        if cost.reasons.get(metric) != NOT_ASKED:
            table.add_row(metric, human(metric, cost.value(metric)), _note(cost, metric))
    for name in ("elementwise", "activations"):
        if (elements := getattr(cost, name)) is not None:
            table.add_row(name, human("macs", elements), "elements written")
    if cost.intensity is not None:
        table.add_row("intensity", f"{cost.intensity:.3g}", "operations a byte moved")
    if cost.efficiency is not None:
        table.add_row("efficiency", f"{100 * cost.efficiency:.0f}%", "of the roofline")
    elif "efficiency" in cost.reasons:
        table.add_row("efficiency", "–", cost.reasons["efficiency"])
    return table


def comparison_table(comparison: Comparison) -> Table:
    """One line a model: figures, and ratios to the first."""
    costs = comparison.costs
    table = Table(title=_where(costs[comparison.baseline]), title_justify="left")
    metrics = [m for m in METRICS if any(c.value(m) is not None for c in costs.values())]
    table.add_column("model")
    for metric in metrics:
        table.add_column(metric, justify="right")
    for name, cost in costs.items():
        cells = []
        for metric in metrics:
            ratio = None if name == comparison.baseline else comparison.ratio(name, metric)
            cells.append(human(metric, cost.value(metric)) + (f"\n{ratio}" if ratio else ""))
        table.add_row(name, *cells)
    return table


def waterline_table(rows: Sequence[LayerRow], *, slowest: int = 20) -> Table:
    """The layers that take longest, with what the machine could do."""
    total = sum(r.measured_ms for r in rows) or 1.0
    table = Table(title=f"the {min(slowest, len(rows))} slowest of {len(rows)} layers", title_justify="left")
    for column in ("layer", "type", "MACs", "ops/byte", "attainable", "measured", "share of time", "of the roofline"):
        table.add_column(column, justify="left" if column in ("layer", "type") else "right")
    for row in sorted(rows, key=lambda r: -r.measured_ms)[:slowest]:
        table.add_row(
            row.name,
            row.type,
            human("macs", row.macs),
            f"{row.intensity:.3g}{' (memory)' if row.memory_bound else ''}",
            human("latency", row.attainable_ms),
            human("latency", row.measured_ms),
            f"{100 * row.measured_ms / total:.1f}%",
            f"{100 * row.share:.0f}%",
        )
    return table


def as_text(table: Table, width: int = 160) -> str:
    """A table as plain text, for `str` and logs."""
    console = Console(file=io.StringIO(), width=width, color_system=None, legacy_windows=False)
    console.print(table)
    return console.file.getvalue().rstrip("\n")  # type: ignore[attr-defined]


def as_html(table: Table) -> str:
    """A table as an HTML fragment of its own, for notebooks: no styles but the page's."""
    from html import escape

    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(c).replace(chr(10), '<br>')}</{tag}>" for c in cells) + "</tr>"

    columns = [[str(cell) for cell in column.cells] for column in table.columns]
    head = line([str(column.header) for column in table.columns], "th")
    body = "".join(line(cells, "td") for cells in zip(*columns, strict=True))
    return f"<table><caption>{escape(str(table.title or ''))}</caption><thead>{head}</thead><tbody>{body}</tbody></table>"


def _where(cost: Cost) -> str:
    call = cost.entry if cost.mode == "infer" else f"{cost.entry} and backward"
    work = f"{cost.units} {cost.unit}{'s' if cost.units != 1 else ''} a call"
    return f"{call} in {cost.runtime} on {cost.device}, {cost.threads} thread{'s' if cost.threads != 1 else ''}, {work}"


def _note(cost: Cost, metric: str) -> str:
    if cost.value(metric) is None:
        return cost.reasons.get(metric, "")
    if metric == "latency" and cost.latency is not None:
        t = cost.latency
        interval = f"{human('latency', t.low_ms)} to {human('latency', t.high_ms)}"
        return f"median of {t.runs} runs (95%: {interval}), p95 {human('latency', t.p95_ms)}"
    if metric == "macs" and cost.uncounted:
        return f"a lower bound: no formula counts {', '.join(cost.uncounted)}"
    return ""
