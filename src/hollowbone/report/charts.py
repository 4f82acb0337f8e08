"""The page's figures as plotly JSON: plain dictionaries, so that drawing up a report imports no plotly.

Text that comes from the user passes through `safe`, since plotly reads a small HTML in every label.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from hollowbone.report.plot import axis, axis_range, beyond, layout_of, line, line_label, safe, short
from hollowbone.report.words import Words

Figure = dict[str, Any]
TICKS = 30
"""Class names drawn along one side of the confusion matrix at most; every name is in the label under the pointer."""
SHADES = ("var(--series-1)", "var(--series-2)", "var(--series-3)")


def figures(result: dict[str, Any], words: Words) -> dict[str, Figure]:
    """Every figure that the result has something to draw for, by the id of its place on the page."""
    drawn = {
        "tried": tried(result, words),
        "slimming": slimming(result, words),
        "training": training(result, words),
        "waterline": waterline(result),
        "confusion": confusion(result),
    }
    return {name: figure for name, figure in drawn.items() if figure is not None}


def tried(result: dict[str, Any], words: Words) -> Figure | None:
    """Latency against the metric on *select* for everything tried; what was only timed lies in a strip below."""
    points = [p for p in result["tried"] if p["latency_ms"]]
    if not points:
        return None
    scored = [p for p in points if p["select"] is not None]
    timed = [p for p in points if p["select"] is None]
    limits = latency_limits(result)
    xs = [p["latency_ms"] for p in points] + [x["limit"] for x in limits]
    log = max(xs) > 12 * min(xs)
    span = axis_range(xs, log)
    traces = [_stage(stage, [p for p in scored if p["stage"] == stage], i, words) for i, stage in enumerate(_stages(scored))]
    if timed:
        traces.append(
            {
                **_marks(timed, words),
                "name": "timed only",
                "y": [0] * len(timed),
                "yaxis": "y2",
                "marker": {"symbol": "line-ns", "size": 14, "line": {"width": 2, "color": "var(--muted)"}},
            }
        )
    layout = layout_of(
        height=460,
        xaxis=axis(f"latency, ms ({'log scale' if log else 'median'})", type="log" if log else "linear", range=span),
        yaxis=axis(f"{words.metric_name} on select, {words.unit or 'as is'}", domain=[0.16 if timed else 0, 1], nticks=7),
        shapes=[shape for x in limits for shape in (beyond(x["limit"]), line(x["limit"]))],
        annotations=[line_label(f"{x['name']} ≤ {x['limit']:.4g} ms", x["limit"], span, log) for x in limits],
    )
    if timed:
        layout["xaxis"]["anchor"] = "y2"
        layout["yaxis2"] = {"domain": [0, 0.07], "range": [-1, 1], "visible": False, "fixedrange": True}
        note = {
            "text": "exported untrained and timed, not scored",
            "xref": "paper",
            "yref": "paper",
            "x": 0,
            "y": 0.07,
            "xanchor": "left",
            "yanchor": "bottom",
        }
        layout["annotations"].append({**note, "showarrow": False, "font": {"size": 11, "color": "var(--muted)"}})
    return {"data": traces, "layout": layout}


def latency_limits(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The limits that are lines on an axis of latency."""
    return [x for x in result["budget"]["limits"] if x["metric"] == "latency"]


def slimming(result: dict[str, Any], words: Words) -> Figure | None:
    """Predicted latency against the supernet's score, step by step, from right to left."""
    found = result["slimming"]
    if not found or not found["path"]:
        return None
    path, unit = found["path"], found["unit"]
    first = path[0]
    points = [
        {"kind": "start", "detail": "before slimming", "after": found["start"], "score": first["score"] + first["drop"]},
        *path,
    ]
    hover = [
        f"<b>{i}. {safe(p['detail'])}</b><br>{p['after']:.4g} {unit} predicted<br>"
        f"{words.score(p['score'])} on select, not retrained"
        for i, p in enumerate(points)
    ]
    symbols = {"start": "diamond", "depth": "square", "mixer": "triangle-up", "width": "circle", "resolution": "triangle-down"}
    way = {
        "type": "scatter",
        "mode": "lines",
        "x": [p["after"] for p in points],
        "y": [p["score"] * words.scale for p in points],
        "line": {"color": "var(--rule-strong)", "width": 1.5},
        "hoverinfo": "skip",
        "showlegend": False,
    }
    traces: list[dict[str, Any]] = [way]
    colours = {
        "start": "var(--muted)",
        "depth": SHADES[0],
        "mixer": SHADES[1],
        "width": SHADES[2],
        "resolution": "var(--accent)",
    }
    for kind in dict.fromkeys(p["kind"] for p in points):
        chosen = [i for i, p in enumerate(points) if p["kind"] == kind]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": safe(kind),
                "x": [points[i]["after"] for i in chosen],
                "y": [points[i]["score"] * words.scale for i in chosen],
                "hovertext": [hover[i] for i in chosen],
                "hoverinfo": "text",
                "marker": {"symbol": symbols.get(kind, "x"), "size": 9, "color": colours.get(kind, "var(--muted)")},
            }
        )
    span = axis_range([p["after"] for p in points] + found["limits"], False)
    aim = found["limits"][-1]
    layout = layout_of(
        height=380,
        xaxis=axis(f"predicted latency, {unit}" if unit == "ms" else f"predicted, {unit}", range=span),
        yaxis=axis(f"{words.metric_name} of what is left, {words.unit or 'as is'}", nticks=7),
        shapes=[line(limit) for limit in found["limits"]],
        annotations=[line_label(f"aim {aim:.4g}", aim, span, False)],
    )
    return {"data": traces, "layout": layout}


def training(result: dict[str, Any], words: Words) -> Figure | None:
    """Loss of every epoch, and the metric on *select* where it was taken."""
    history = result["training"]["history"]
    if not history:
        return None
    epochs = [h["epoch"] + 1 for h in history]
    loss = [h.get("loss") for h in history]
    judged = [h for h in history if h.get("metric") is not None]
    traces: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines+markers" if len(history) < 60 else "lines",
            "name": "training loss",
            "x": epochs,
            "y": loss,
            "hovertext": [
                f"epoch {h['epoch'] + 1}, step {h['step']}<br>loss {h['loss']:.4g}<br>learning rate {h['lr']:.3g}"
                for h in history
            ],
            "hoverinfo": "text",
            "line": {"color": SHADES[0], "width": 2},
            "marker": {"size": 5},
        }
    ]
    layout = layout_of(
        height=320, xaxis=axis("epoch", rangemode="tozero"), yaxis=axis("training loss", nticks=6, rangemode="tozero")
    )
    if judged:
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": f"{safe(words.metric_name)} on select (right axis)",
                "x": [h["epoch"] + 1 for h in judged],
                "y": [h["metric"] * words.scale for h in judged],
                "yaxis": "y2",
                "hovertext": [f"epoch {h['epoch'] + 1}<br>{words.score(h['metric'])} on select" for h in judged],
                "hoverinfo": "text",
                "line": {"color": SHADES[1], "width": 2, "dash": "dot"},
                "marker": {"symbol": "diamond", "size": 9},
            }
        )
        layout["yaxis2"] = {
            **axis(
                f"on select, {words.unit or 'as is'}",
                nticks=6,
                tickmode="auto",
                range=axis_range([h["metric"] * words.scale for h in judged], False, 1),
            ),
            "overlaying": "y",
            "side": "right",
            "showgrid": False,
        }
    return {"data": traces, "layout": layout}


def waterline(result: dict[str, Any]) -> Figure | None:
    """Intensity against arithmetic rate, both logarithmic: what each layer reached, and the most it could."""
    rows = [r for r in result["waterline"] if r["macs"] and r["measured_ms"] > 0]
    if not rows:
        return None
    peak = max(_rate(r, "ideal_ms") for r in rows)
    balance = rows[0]["balance"]
    xs = [r["intensity"] for r in rows] + [balance]
    left, right = 10 ** (math.log10(min(xs)) - 0.15), 10 ** (math.log10(max(xs)) + 0.15)
    span = [math.log10(left), math.log10(right)]
    knee = min(max(balance, left), right)
    roof = {
        "type": "scatter",
        "mode": "lines",
        "name": "roofline from main memory",
        "x": [left, knee, right],
        "y": [min(peak, peak * x / balance) for x in (left, knee, right)],
        "line": {"color": "var(--ink)", "width": 1.5},
        "hoverinfo": "skip",
    }
    traces = [roof]
    for name, below, colour, symbol in (
        ("below the waterline (memory)", True, SHADES[1], "triangle-down"),
        ("above it (arithmetic)", False, SHADES[0], "circle"),
    ):
        group = [r for r in rows if r["memory_bound"] is below]
        if not group:
            continue
        reached = [_rate(r, "measured_ms") for r in group]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": name,
                "x": [r["intensity"] for r in group],
                "y": reached,
                "error_y": {
                    "type": "data",
                    "symmetric": False,
                    "array": [max(0.0, _rate(r, "attainable_ms") - y) for r, y in zip(group, reached, strict=True)],
                    "arrayminus": [0] * len(group),
                    "color": "var(--rule-strong)",
                    "thickness": 1,
                    "width": 3,
                },
                "hovertext": [_layer(r) for r in group],
                "hoverinfo": "text",
                "marker": {"color": colour, "symbol": symbol, "size": 8},
            }
        )
    layout = layout_of(
        height=440,
        xaxis=axis("operations a byte moved (log scale)", type="log", range=span, **DECADES),
        yaxis=axis("10⁹ operations a second (log scale)", type="log", **DECADES),
        shapes=[line(balance)],
        annotations=[line_label(f"waterline {balance:.3g}", balance, span, True)],
    )
    return {"data": traces, "layout": layout}


def confusion(result: dict[str, Any]) -> Figure | None:
    """A row a true class, a column an answer; the shade is the share of the row, the label the count."""
    counts, names = result["confusion"], result["model"]["classes"]
    if not counts:
        return None
    n = len(counts)
    totals = [max(1, sum(row)) for row in counts]
    step = math.ceil(n / TICKS)
    ticks = {
        "tickvals": list(range(0, n, step)),
        "ticktext": [short(name) for name in names[::step]],
        "showgrid": False,
        "zeroline": False,
    }
    hover = [
        [
            f"<b>{safe(names[t])}</b> taken for <b>{safe(names[p])}</b><br>"
            f"{counts[t][p]} of {totals[t]} ({counts[t][p] / totals[t]:.1%})"
            for p in range(n)
        ]
        for t in range(n)
    ]
    trace: dict[str, Any] = {
        "type": "heatmap",
        "z": [[value / total for value in row] for row, total in zip(counts, totals, strict=True)],
        "zmin": 0,
        "zmax": 1,
        "colorscale": [[0, "var(--heat-0)"], [0.5, "var(--heat-1)"], [1, "var(--heat-2)"]],
        "showscale": False,
        "xgap": 1,
        "ygap": 1,
        "hovertext": hover,
        "hoverinfo": "text",
    }
    if n <= 24:
        trace |= {"text": [[str(value) if value else "" for value in row] for row in counts], "texttemplate": "%{text}"}
    layout = layout_of(
        height=560,
        xaxis=axis("answer", **ticks, automargin=True, tickangle=0 if max(map(len, map(str, names))) <= 2 else -90),
        yaxis=axis("truth", **ticks, automargin=True, autorange="reversed"),
    )
    return {"data": [trace], "layout": layout, "square": True}


DECADES = {"dtick": 1, "exponentformat": "none"}


def _stages(points: Sequence[dict[str, Any]]) -> list[str]:
    """The stages in the order of the legend: trials as they ran, the slimming, the reference, what ships."""
    last = {"slimming": 1, "reference": 2, "shipped": 3}
    return sorted(dict.fromkeys(p["stage"] for p in points), key=lambda stage: last.get(stage, 0))


def _stage(stage: str, points: list[dict[str, Any]], place: int, words: Words) -> dict[str, Any]:
    latencies = _marks(points, words)
    latencies["y"] = [p["select"] * words.scale for p in points]
    match stage:
        case "slimming":
            marker = {"symbol": "circle-open", "size": 7, "color": SHADES[2], "line": {"width": 1.5}}
            return {
                **latencies,
                "mode": "lines+markers",
                "name": "slimming (predicted)",
                "marker": marker,
                "line": {"color": SHADES[2], "width": 1, "dash": "dot"},
            }
        case "reference":
            return {**latencies, "name": "reference", "marker": {"symbol": "diamond", "size": 12, "color": "var(--muted)"}}
        case "shipped":
            return {**latencies, "name": "shipped file", "marker": {"symbol": "star", "size": 16, "color": "var(--accent)"}}
        case _:
            name = "trial, " + (stage if not stage.startswith("1 ") else stage.removesuffix("s"))
            return {
                **latencies,
                "name": safe(name),
                "marker": {"symbol": "circle", "size": 7 + 3 * min(place, 3), "color": SHADES[0], "opacity": 0.85},
            }


def _marks(points: list[dict[str, Any]], words: Words) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [p["latency_ms"] for p in points],
        "hovertext": [_hover(p, words) for p in points],
        "hoverinfo": "text",
    }


def _hover(point: dict[str, Any], words: Words) -> str:
    how = "measured" if point["measured"] else "predicted"
    lines = [
        f"<b>{safe(point['name'])}</b>",
        f"stage: {safe(point['stage'])}",
        f"latency: {words.ms(point['latency_ms'])} ms, {how}",
    ]
    if point.get("predicted_ms"):
        lines.append(f"predicted before: {words.ms(point['predicted_ms'])} ms")
    scored = point["select"] is not None
    epochs = f" after {point['epochs']} epochs" if point.get("epochs") and scored else ""
    lines.append(f"{safe(words.metric_name)}: {words.score(point['select'])} on select{epochs}" if scored else "not scored")
    return "<br>".join(lines)


def _layer(row: dict[str, Any]) -> str:
    return (
        f"<b>{safe(row['name'])}</b> ({safe(row['type'])})<br>"
        f"{row['measured_ms'] * 1e3:.1f} µs measured, {row['attainable_ms'] * 1e3:.1f} attainable"
        f"<br>{row['intensity']:.3g} operations a byte<br>{row['share']:.0%} of the roofline"
    )


def _rate(row: dict[str, Any], time: str) -> float:
    """10^9 operations a second, two a multiply-add."""
    return 2 * row["macs"] / max(row[time], 1e-9) / 1e6
