"""A run's result for the terminal and for a notebook cell: what was asked, what came out, beside the reference."""

from __future__ import annotations

from html import escape
from typing import Any

from rich.table import Table

from hollowbone.measure.units import human

ROWS = ("latency", "size", "memory", "params", "macs")


def rows_of(result: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """(figure, reference, shipped, shipped / reference) as text."""
    rows = []
    before, after = result["reference"]["cost"], result["cost"]
    for metric in ROWS:
        a, b = _figure(before, metric), _figure(after, metric)
        ratio = f"{b / a:.3g}x" if a and b is not None else ""
        rows.append((metric, "" if a is None else human(metric, a), "" if b is None else human(metric, b), ratio))
    names = {m["split"]: m for m in result["reference"]["metrics"]}
    for m in result["metrics"]:
        there = names.get(m["split"])
        rows.append(
            (f"{m['metric']} on {m['split']}", _metric(result, there) if there else "not trained", _metric(result, m), "")
        )
    return rows


def summary(result: dict[str, Any]) -> Table:
    """The result as a rich table; the title says whether the budget is met, the caption where it was measured."""
    met = "[green]met[/]" if result["budget"]["met"] else "[red]NOT met[/]"
    cost = result["cost"]
    where = f"{cost['device']}, {cost['runtime']}, {cost['threads']} thread(s), batch 1, seed {result['seeds'][0]}"
    table = Table(
        title=f"{result['model']['name']}: budget {result['budget']['text']} {met}",
        caption=f"{where}; latency is the median; intervals are 95%",
        title_justify="left",
        caption_justify="left",
    )
    for column in ("", f"reference {result['reference']['name']}", f"shipped {result['model']['artifact']}", "ratio"):
        table.add_column(column)
    for row in rows_of(result):
        table.add_row(*row)
    return table


def summary_html(result: dict[str, Any]) -> str:
    """The same as a plain HTML table."""
    met = "met" if result["budget"]["met"] else "NOT met"
    head = f"<b>{escape(result['model']['name'])}</b>: budget {escape(result['budget']['text'])} {met}"
    cells = ("", "reference", "shipped", "ratio")
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows_of(result))
    return f"<p>{head}</p><table><tr>{''.join(f'<th>{escape(c)}</th>' for c in cells)}</tr>{body}</table>"


def _figure(cost: dict[str, Any], metric: str) -> float | None:
    value = cost.get(metric)
    return value["median_ms"] if metric == "latency" and value else value


def _metric(result: dict[str, Any], m: dict[str, Any]) -> str:
    scale, unit = result["metric"]["scale"], result["metric"]["unit"]
    low, high = m["interval"]
    return f"{m['value'] * scale:.2f}{unit} ({low * scale:.2f} to {high * scale:.2f}, n={m['n']})"
