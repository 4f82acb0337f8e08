"""Tables of the page as plain rows: what the template only has to set."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from hollowbone.measure.units import human
from hollowbone.report.words import DASH, Words, amount, ratio

SLOWEST = 24
"""Layers shown at once; the rest unfold."""
CONFUSED = 12


@dataclass(frozen=True)
class Row:
    """A figure of the reference beside that of the shipped file; `note` says what lies around or behind it."""

    name: str
    before: str
    after: str
    ratio: str = ""
    before_note: str = ""
    after_note: str = ""


def costs(result: dict[str, Any], words: Words) -> list[Row]:
    """Every cost of the reference and of the shipped file; what was not measured says why."""
    before, after = result["reference"]["cost"], result["cost"]
    rows = [_latency(before, after, words)]
    if before["latency"] and after["latency"]:
        a, b = before["latency"]["p95_ms"], after["latency"]["p95_ms"]
        rows.append(Row("latency, 95th percentile", f"{words.ms(a)} ms", f"{words.ms(b)} ms", ratio(b, a)))
    for metric, name in (
        ("size", "size of the file"),
        ("memory", "peak memory"),
        ("params", "parameters"),
        ("macs", "multiply-adds"),
        ("energy", "energy"),
    ):
        a, b = before[metric], after[metric]
        notes = ["" if cost[metric] is not None else cost["reasons"].get(metric, "not measured") for cost in (before, after)]
        if metric == "macs":
            notes = [
                f"no formula for {', '.join(cost['uncounted'])}" if cost["uncounted"] else note
                for cost, note in zip((before, after), notes, strict=True)
            ]
        rows.append(Row(name, human(metric, a), human(metric, b), ratio(b, a), *notes))
    return rows


def _latency(before: dict[str, Any], after: dict[str, Any], words: Words) -> Row:
    texts, notes = [], []
    for cost in (before, after):
        t = cost["latency"]
        texts.append(f"{words.ms(t['median_ms'])} ms" if t else DASH)
        notes.append(
            f"{words.ms(t['low_ms'])} to {words.ms(t['high_ms'])}, {t['runs']} runs"
            if t
            else cost["reasons"].get("latency", "not measured")
        )
    times = [cost["latency"]["median_ms"] if cost["latency"] else None for cost in (before, after)]
    return Row("latency, median", texts[0], texts[1], ratio(times[1], times[0]), *notes)


def metrics(result: dict[str, Any], words: Words) -> list[Row]:
    """The metric of both exported files, split by split."""
    there = {(m["metric"], m["split"]): m for m in result["reference"]["metrics"]}
    rows = []
    for m in result["metrics"]:
        other = there.get((m["metric"], m["split"]))
        difference = f"{words.points(m['value'] - other['value'])} points" if other else ""
        before, note = (
            (words.score(other["value"]), f"{words.interval(*other['interval'])}, n = {other['n']:,}")
            if other
            else (DASH, "not trained in this run")
        )
        rows.append(
            Row(
                f"{m['metric']}, {m['split']} split",
                before,
                words.score(m["value"]),
                difference,
                note,
                f"{words.interval(*m['interval'])}, n = {m['n']:,}",
            )
        )
    return rows


def limits(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The limits judged, with the share of each that was used."""
    rows = []
    for limit in result["budget"]["limits"]:
        used = f"{limit['measured'] / limit['limit']:.1%}" if limit["measured"] is not None else DASH
        rows.append(
            {
                **limit,
                "amount": amount(limit["metric"], limit["limit"]),
                "figure": amount(limit["metric"], limit["measured"]),
                "used": used,
            }
        )
    return rows


def architecture(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The parts of the network in their order, those with numbered parts followed by these: parameters, work, blocks."""
    layers, work = result["model"]["layers"], result["waterline"]
    most_params = max((part["params"] for part in layers), default=0) or 1
    most_macs = max((sum(r["macs"] for r in work if _inside(r, part["name"])) for part in layers), default=0) or 1
    rows = []
    for part in layers:
        inside = [r for r in work if _inside(r, part["name"])]
        rows.append(_part(part["name"], part["type"], part["params"], inside, most_params, most_macs, level=1))
        stages = dict.fromkeys(_component(r["name"], part["name"]) for r in inside)
        if all(name.isdigit() for name in stages) and stages:
            for stage in stages:
                name = f"{part['name']}.{stage}"
                rows.append(_part(name, "", None, [r for r in inside if _inside(r, name)], most_params, most_macs, level=2))
    return rows


def _part(
    name: str, kind: str, params: int | None, rows: list[dict[str, Any]], most_params: int, most_macs: int, level: int
) -> dict[str, Any]:
    macs = sum(r["macs"] for r in rows)
    blocks = _blocks(name, rows) if level == 2 else []
    kinds = Counter(r["type"] for r in rows if r["macs"])
    return {
        "name": name,
        "type": kind or ", ".join(f"{count} {type}" for type, count in kinds.most_common()),
        "level": level,
        "params": "" if params is None else f"{params:,}",
        "params_share": 0 if params is None else 100 * params / most_params,
        "macs": f"{macs:,}" if rows else "",
        "macs_share": 100 * macs / most_macs,
        "blocks": blocks,
        "attending": sum(blocks),
    }


def _blocks(name: str, rows: list[dict[str, Any]]) -> list[bool]:
    """A mark a block: whether it attends."""
    found: dict[str, bool] = {}
    for row in rows:
        inside = row["name"][len(name) + 1 :].removeprefix("blocks.").split(".")
        if inside[0].isdigit() and row["macs"]:
            found[inside[0]] = found.get(inside[0], False) or "attention" in row["type"].lower()
    return list(found.values())


def _inside(row: dict[str, Any], name: str) -> bool:
    return row["name"] == name or row["name"].startswith(name + ".")


def _component(name: str, parent: str) -> str:
    return name[len(parent) + 1 :].split(".")[0]


def halving(result: dict[str, Any], words: Words) -> dict[str, Any]:
    """A row a candidate, a column a rung; who went on."""
    rungs = result["halving"]
    rows: dict[str, dict[str, Any]] = {}
    for place, rung in enumerate(rungs):
        for entrant in rung["entrants"]:
            key = repr(sorted(entrant["config"].items(), key=str))
            row = rows.setdefault(
                key,
                {
                    "name": name_of(entrant, rung["epochs"], result),
                    "latency": words.ms(entrant["latency_ms"]),
                    "cells": [None] * len(rungs),
                },
            )
            row["cells"][place] = {"score": words.score(entrant["score"]), "kept": entrant["kept"]}
    return {"epochs": [rung["epochs"] for rung in rungs], "rows": list(rows.values())}


def name_of(entrant: dict[str, Any], epochs: int, result: dict[str, Any]) -> str:
    """What the plot calls an entrant: its point has the same epochs, latency and score."""
    for point in result["tried"]:
        if (point.get("epochs"), point["latency_ms"], point["select"]) == (epochs, entrant["latency_ms"], entrant["score"]):
            return point["name"]
    return ", ".join(f"{k} {v}" for k, v in entrant["config"].items())


def steps(result: dict[str, Any], words: Words) -> list[dict[str, Any]]:
    """The slimming path, each step with every action that it weighed."""
    found = result["slimming"]
    if not found:
        return []
    rows = []
    for number, step in enumerate(found["path"], 1):
        considered = [
            {
                "kind": action["kind"],
                "detail": action["detail"],
                "saved": f"{action['saved_ms']:.4f}",
                "drop": words.points(-action["drop"]) if "drop" in action else "not scored: saves nothing",
                "rate": f"{max(0.0, action['drop']) * words.scale / action['saved_ms']:.3g}"
                if action.get("drop") is not None and action["saved_ms"] > 0
                else DASH,
                "chosen": (action["kind"], action["detail"]) == (step["kind"], step["detail"]),
            }
            for action in step["considered"]
        ]
        rows.append(
            {"number": number, "after": f"{step['after']:.4f}", "score": words.score(step["score"]), "considered": considered}
        )
    return rows


def layers(result: dict[str, Any]) -> dict[str, Any]:
    """Layers by the time they lose against what the machine allows, and the sums over all of them."""
    rows = result["waterline"]
    longest = max((r["measured_ms"] for r in rows), default=0) or 1
    view = [
        {
            "name": r["name"],
            "type": r["type"],
            "measured": f"{r['measured_ms'] * 1e3:.1f}" if r["measured_ms"] else "not timed",
            "attainable": f"{r['attainable_ms'] * 1e3:.1f}",
            "intensity": f"{r['intensity']:.2f}",
            "share": f"{r['share']:.0%}" if r["measured_ms"] else DASH,
            "below": r["memory_bound"],
            "lost_width": 100 * r["lost_ms"] / longest,
            "attainable_width": 100 * min(r["attainable_ms"], r["measured_ms"]) / longest,
        }
        for r in sorted(rows, key=lambda r: -r["lost_ms"])
    ]
    ideal, attainable, measured = (sum(r[key] for r in rows) for key in ("ideal_ms", "attainable_ms", "measured_ms"))
    return {
        "rows": view,
        "below": sum(r["memory_bound"] for r in rows),
        "measured": measured,
        "lost": sum(r["lost_ms"] for r in rows),
        "bound": ideal / attainable if attainable else 0.0,
        "efficiency": ideal / measured if measured else 0.0,
    }


def confused(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The most frequent confusions, for readers without the picture."""
    names, counts = result["model"]["classes"], result["confusion"]
    pairs = [(counts[t][p], t, p) for t in range(len(counts)) for p in range(len(counts)) if t != p and counts[t][p]]
    pairs.sort(key=lambda pair: (-pair[0], pair[1], pair[2]))
    return [
        {"truth": names[t], "answer": names[p], "count": n, "share": f"{n / sum(counts[t]):.1%}"}
        for n, t, p in pairs[:CONFUSED]
    ]


def classes(result: dict[str, Any]) -> dict[str, Any]:
    """Samples by class and split, with their sums."""
    counts = result["data"]["counts"]
    splits = list(counts)
    names = list(dict.fromkeys([*result["data"]["classes"], *(name for split in counts.values() for name in split)]))
    rows = [(name, [counts[split].get(name, 0) for split in splits]) for name in names]
    return {"splits": splits, "rows": rows, "totals": [sum(counts[split].values()) for split in splits]}
