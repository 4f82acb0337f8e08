"""Is `fit` worth its search? On `photo_patches`, at three binding latency budgets, over seeds: `fit` against its own parts.

    python benchmarks/fit_study.py --out runs/study            # resumable: what is finished is not run again
    python benchmarks/fit_study.py --out runs/study --table    # the table of what is finished

Arms, all trained for the same number of final epochs by the same recipe, judged on the report split with the exported float32
file (int8 or not is `fit`'s own choice): `fit`; the slimmed EfficientFormer that fit found, alone; EfficientFormer of uniform
width scaling; timm's MobileNetV2 at the width that fits. Budgets are milliseconds in onnxruntime, one thread, on this machine.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean, stdev
from typing import Any

BUDGETS_MS = (0.15, 0.1, 0.06)
SEEDS = range(5)
ARMS = ("fit", "slimmed", "uniform", "mobilenetv2")
T95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447}
DATA = "photo_patches"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/study"))
    parser.add_argument("--table", action="store_true", help="print what is finished and stop")
    parser.add_argument("--epochs", type=int, default=None, help="final epochs of every arm; else what fit chooses")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no further arm after this long")
    arguments = parser.parse_args()
    ledger = arguments.out / "study.jsonl"
    done = {(r["budget_ms"], r["seed"], r["arm"]): r for r in read(ledger)}
    started = time.monotonic()
    if not arguments.table:
        for seed in SEEDS:
            for budget_ms in BUDGETS_MS:
                for arm in ARMS:
                    if (budget_ms, seed, arm) in done or time.monotonic() - started > 60 * arguments.minutes:
                        continue
                    record = run(arm, budget_ms, seed, arguments.out, arguments.epochs)
                    done[budget_ms, seed, arm] = record
                    ledger.parent.mkdir(parents=True, exist_ok=True)
                    with open(ledger, "a") as handle:
                        handle.write(json.dumps(record) + "\n")
                    print(record, flush=True)
    print(table(list(done.values())))


def read(ledger: Path) -> list[dict[str, Any]]:
    """Finished arms; a line torn by a kill is run again."""
    if not ledger.exists():
        return []
    lines = ledger.read_text().split("\n")
    return [json.loads(line) for line in lines if line.endswith("}")]


def run(arm: str, budget_ms: float, seed: int, out: Path, epochs: int | None) -> dict[str, Any]:
    """One arm at one budget with one seed."""
    from hollowbone.fit import fit

    began = time.monotonic()
    folder = out / f"fit-{budget_ms}-{seed}"
    found = fit(DATA, f"latency<={budget_ms}ms", seed=seed, out=folder, epochs=epochs, quiet=True)
    record = {"arm": arm, "budget_ms": budget_ms, "seed": seed, "date": datetime.now(UTC).isoformat(timespec="seconds")}
    if arm == "fit":
        metric = found.result["metrics"][0]
        return record | {
            "accuracy": metric["value"],
            "n": metric["n"],
            "latency_ms": found.result["cost"]["latency"]["median_ms"],
            "config": found.result["model"]["config"],
            "int8": found.result["model"]["int8"]["kept"],
            "seconds": round(time.monotonic() - began, 1),
        }
    return record | train_alone(arm, budget_ms, seed, found.result, out, began)


def train_alone(arm: str, budget_ms: float, seed: int, result: dict[str, Any], out: Path, began: float) -> dict[str, Any]:
    """Train one configuration by fit's recipe, export it as fit does, and judge the file."""
    import torch

    from hollowbone.fit.settings import AIM
    from hollowbone.fit.ship import export_artifact, fresh_timing, inputs_of
    from hollowbone.fit.trial import build, preprocessing_of
    from hollowbone.runtime import get_device
    from hollowbone.tasks import get_task
    from hollowbone.train import Recipe, evaluate, train

    task, device = get_task("classification"), get_device()
    data = task.read(DATA, seed=seed)
    config = configuration(arm, budget_ms * AIM, result, device)
    recipe = Recipe(**{**result["training"]["recipe"], "randaugment": tuple(result["training"]["recipe"]["randaugment"])})
    torch.manual_seed(recipe.seed)
    preprocessing = preprocessing_of(config, data)
    folder = out / f"{arm}-{budget_ms}-{seed}"
    trained = train(build(config), data, task=task, recipe=recipe, preprocessing=preprocessing, out=folder, select_every=0)
    artifact = export_artifact(trained.chosen, folder / "model.onnx", preprocessing, format="onnx")
    judged = evaluate(artifact, data, "report", task=task, preprocessing=preprocessing)
    timing = fresh_timing(device, artifact, inputs_of(preprocessing), 1)
    return {
        "accuracy": judged.value,
        "n": judged.n,
        "latency_ms": timing.median_ms,
        "config": config,
        "int8": False,
        "seconds": round(time.monotonic() - began, 1),
    }


def configuration(arm: str, limit_ms: float, result: dict[str, Any], device: Any) -> dict[str, Any]:
    """What an arm trains: the slimmed network that fit found, or the largest of its own rule within the limit."""
    from hollowbone.search import get_space
    from hollowbone.search.slimming import scale_uniformly
    from hollowbone.search.table import LatencyTable

    if arm == "slimmed":
        return next(point["config"] for point in reversed(result["tried"]) if point["stage"] == "proof of slimming")
    if arm == "uniform":
        space: Any = get_space("efficientformer")
        table = LatencyTable(space, device)
        supernet = {**result["slimming"]["supernet"], "vit_num": 0}
        table.calibrate(space.calibration(supernet))
        return dict(scale_uniformly(supernet, space, table, limit_ms))
    space = get_space("mobilenetv2")
    table = LatencyTable(space, device)
    sizes = {k: result["slimming"]["supernet"][k] for k in ("resolution", "num_classes", "in_chans")}
    widths = [w / 100 for w in range(140, 4, -5)]
    fitting = (space.config(width, **sizes) for width in widths)
    return next(config for config in fitting if space.latency(config, table) <= limit_ms)


def table(records: list[dict[str, Any]]) -> str:
    """Mean accuracy with its 95% t interval over seeds, and fit's paired difference to each arm."""
    lines = [
        "| budget | arm | seeds | accuracy on report | latency | fit minus arm | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    by_key = {(r["budget_ms"], r["seed"], r["arm"]): r for r in records}
    for budget in BUDGETS_MS:
        for arm in ARMS:
            rows = [r for r in records if r["budget_ms"] == budget and r["arm"] == arm]
            if not rows:
                continue
            pairs = [(by_key.get((budget, r["seed"], "fit")), r) for r in rows]
            differences = [f["accuracy"] - r["accuracy"] for f, r in pairs if f is not None]
            latency = mean(r["latency_ms"] for r in rows)
            seconds = mean(r["seconds"] for r in rows)
            accuracy = interval([r["accuracy"] for r in rows])
            versus = "" if arm == "fit" else interval(differences, signed=True)
            lines.append(f"| {budget} ms | {arm} | {len(rows)} | {accuracy} | {latency:.4f} ms | {versus} | {seconds:.0f} |")
    return "\n".join(lines)


def interval(values: list[float], *, signed: bool = False) -> str:
    """Mean and half width in points."""
    sign = "+" if signed else ""
    if len(values) < 2:
        return f"{100 * mean(values):{sign}.2f} (one seed)" if values else ""
    half = T95.get(len(values) - 1, 1.96) * stdev(values) / math.sqrt(len(values))
    return f"{100 * mean(values):{sign}.2f} ± {100 * half:.2f}"


if __name__ == "__main__":
    main()
