"""`result.json`: everything that a run found, versioned, for programs; the report is drawn from it alone.

The schema is documented in `docs/reference/result.md`. A figure always stands with its split, device, runtime, threads and
interval, so that a line copied out of the file still says what it is.
"""

from __future__ import annotations

import base64
import io
import sys
from typing import Any

import numpy as np

from hollowbone.files import sha256, write_json, write_text
from hollowbone.fit.candidates import Candidate, Found
from hollowbone.fit.context import Context
from hollowbone.fit.finish import Shipped
from hollowbone.fit.reference import Baseline

SCHEMA = "hollowbone.result/1"
MISCLASSIFIED = 24


def write(context: Context, baseline: Baseline, found: Found, winner: Candidate, shipped: Shipped) -> dict[str, Any]:
    """Judge the shipped file on *report*, write `result.json`, `labels.txt` and `report.html`, and return the result."""
    from hollowbone.measure import waterline
    from hollowbone.report.page import write_report
    from hollowbone.train import evaluate

    settings, data, task, journal = context.settings, context.data, context.task, context.journal
    judged = evaluate(shipped.artifact, data, "report", task=task, preprocessing=shipped.preprocessing)
    report_metric = journal.result(f"report/{shipped.weights_sha256[:12]}", judged.to_dict)
    warnings = near_chance(report_metric, judged.targets)
    layers = journal.clock(
        f"waterline/{shipped.weights_sha256[:12]}",
        lambda: [row.to_dict() for row in waterline(shipped.model, _example(shipped), threads=settings.threads)],
    )
    where = {"device": context.device.name, "runtime": settings.runtime, "threads": settings.threads}
    value = {
        "schema": SCHEMA,
        "command": settings.command(str(context.folder.path)),
        "settings": settings.to_dict(),
        "task": task.name,
        "metric": {
            "name": task.metric.name,
            "unit": task.metric.unit,
            "scale": task.metric.scale,
            "higher_is_better": task.metric.higher_is_better,
        },
        "data": _data(context),
        "budget": {
            "text": settings.budget,
            "met": shipped.judgement.met,
            "limits": [
                {
                    "name": row.limit.name,
                    "metric": row.limit.metric,
                    "limit": row.limit.number,
                    "measured": row.value,
                    "met": row.met,
                    "text": row.text,
                }
                for row in shipped.judgement.rows
            ],
        },
        "device": {
            "name": context.device.name,
            "facts": journal["device"]["facts"],
            "fingerprint": journal["device"]["fingerprint"],
        },
        "reference": {
            "name": baseline.name,
            "cost": shipped.reference_cost.to_dict(),
            "metrics": [{**baseline.report, **where, "what": "exported file", "seeds": 1}] if baseline.report else [],
            "select": baseline.select,
        },
        "model": {
            "name": shipped.candidate.name,
            "origin": shipped.candidate.origin,
            "config": dict(shipped.candidate.config),
            "artifact": shipped.artifact.path.name,
            "format": shipped.artifact.format,
            "sha256": sha256(shipped.artifact.path),
            "weights_sha256": shipped.weights_sha256,
            "int8": shipped.int8,
            "verified": _verified(shipped),
            "preprocessing": shipped.preprocessing.to_dict(),
            "classes": list(data.classes),
            "layers": _layers(shipped),
        },
        "cost": shipped.cost.to_dict(),
        "metrics": [{**report_metric, **where, "what": "exported file", "seeds": 1}],
        "warnings": warnings,
        "tried": _tried(context, found, shipped, baseline),
        "slimming": found.slimming.record() if found.slimming else None,
        "tables": found.tables,
        "halving": journal.get("halving", []),
        "training": shipped.training,
        "waterline": layers,
        "confusion": _confusion(judged.predictions, judged.targets, len(data.classes)),
        "misclassified": _misclassified(context, judged.predictions, judged.targets),
        "seeds": [settings.seed],
        "versions": _versions(),
        "journal": context.folder.journal.name,
    }
    write_text(context.folder.path / "labels.txt", "\n".join(data.classes) + "\n")
    write_json(context.folder.result, value)
    write_report(value, context.folder.path / "report.html")
    for warning in warnings:
        context.say(f"warning: {warning}")
    context.say(
        f"{task.metric.name} on report: {task.metric.format(report_metric['value'])}, measured on {shipped.artifact.path.name}"
    )
    return value


def near_chance(judged: dict[str, Any], targets: np.ndarray) -> list[str]:
    """A warning where a model cannot be told from one that always answers with the largest class of the split.

    A budget can be met by a model that has learnt nothing; whoever ships it must hear so.
    """
    largest = float(np.bincount(np.asarray(targets)).max() / len(targets))
    if judged["interval"][0] > largest:
        return []
    return [
        f"{judged['metric']} on {judged['split']} is {judged['value']:.1%}, no better than always naming the largest class "
        f"({largest:.1%}): the budget is kept by a model that has learnt nothing; train longer (--epochs) or allow more"
    ]


def _example(shipped: Shipped) -> Any:
    from hollowbone.fit.ship import example_of

    return example_of(shipped.preprocessing)


def _data(context: Context) -> dict[str, Any]:
    data, found = context.data, context.data.found
    return {
        "name": data.name,
        "source": data.source,
        "digest": data.digest,
        "classes": list(data.classes),
        "counts": found.counts,
        "sizes": found.sizes,
        "imbalance": found.imbalance,
        "duplicates": [list(pair) for pair in found.duplicates],
        "broken": found.broken,
        "notes": found.notes,
    }


def _verified(shipped: Shipped) -> dict[str, Any] | None:
    v = shipped.artifact.verified
    return None if v is None else {"error": v.error, "tolerance": v.tolerance, "samples": v.samples, "of": "the float32 export"}


def _layers(shipped: Shipped) -> list[dict[str, Any]]:
    """The architecture found, a row a top-level part."""
    return [
        {"name": name, "type": type(part).__name__, "params": sum(p.numel() for p in part.parameters())}
        for name, part in shipped.model.named_children()
    ]


def _tried(context: Context, found: Found, shipped: Shipped, baseline: Baseline) -> list[dict[str, Any]]:
    """Points of the accuracy-latency picture: every score on *select* with the latency that goes with it."""
    points = []
    for rung in context.journal.get("halving", []):
        for entrant in rung["entrants"]:
            name = next((c.name for c in found.candidates if dict(c.config) == entrant["config"]), "candidate")
            points.append(
                {
                    "stage": f"{rung['epochs']} epochs",
                    "name": name,
                    "latency_ms": entrant["latency_ms"],
                    "select": entrant["score"],
                    "epochs": rung["epochs"],
                    "measured": True,
                }
            )
    for step in found.slimming.record()["path"] if found.slimming and context.budget.limit("latency") else []:
        points.append(
            {
                "stage": "slimming",
                "name": step["detail"],
                "latency_ms": step["after"],
                "select": step["score"],
                "epochs": None,
                "measured": False,
            }
        )
    for point in found.tried:
        points.append({**point, "stage": f"proof of {point['stage']}", "select": None, "epochs": 0, "measured": True})
    if baseline.select is not None:
        latency = shipped.reference_cost.latency
        points.append(
            {
                "stage": "reference",
                "name": baseline.name,
                "latency_ms": latency.median_ms if latency else None,
                "select": baseline.select,
                "epochs": context.epochs,
                "measured": True,
            }
        )
    latency = shipped.cost.latency
    points.append(
        {
            "stage": "shipped",
            "name": shipped.candidate.name,
            "latency_ms": latency.median_ms if latency else None,
            "select": shipped.training["select"],
            "epochs": context.epochs,
            "measured": True,
        }
    )
    return points


def _confusion(predictions: np.ndarray, targets: np.ndarray, classes: int) -> list[list[int]]:
    from hollowbone.tasks.classification.task import confusion

    return confusion(predictions, targets, classes).tolist()


def _misclassified(context: Context, predictions: np.ndarray, targets: np.ndarray) -> list[dict[str, Any]]:
    """Some wrong answers on *report*, with the picture as PNG in base64."""
    from PIL import Image

    found = []
    for i in np.flatnonzero(np.asarray(predictions) != np.asarray(targets))[:MISCLASSIFIED]:
        picture = context.data.report[int(i)][0].numpy()
        image = Image.fromarray(picture[0] if picture.shape[0] == 1 else np.moveaxis(picture, 0, -1))
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        found.append(
            {
                "index": int(i),
                "truth": int(targets[i]),
                "predicted": int(predictions[i]),
                "png": base64.b64encode(buffer.getvalue()).decode(),
            }
        )
    return found


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": sys.version.split()[0]}
    for name in ("hollowbone", "torch", "numpy", "onnx", "onnxruntime", "onnxscript", "executorch"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
