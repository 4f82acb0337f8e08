"""From trained weights to the file that ships: fold, export, verify, quantise, measure.

The budget is judged on the shipped file alone, timed in a fresh process of the target runtime. Eight-bit quantisation is
tried and kept only when it is measured faster in the same run and costs at most `int8_loss` points on *select*.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from hollowbone.fit.context import Context
from hollowbone.measure.cost import Cost
from hollowbone.runtime.base import Artifact, Device, Example, Timing
from hollowbone.tasks.base import Data, Preprocessing, Task

EXTENSIONS = {"onnx": "onnx", "executorch": "pte"}
CALIBRATION_SAMPLES = 256
PROCESSES = 3
LONG = {"min_seconds": 0.5}
"""Clock options of a timing on which a choice between two files rests."""


def example_of(preprocessing: Preprocessing) -> Example:
    """One random input at the candidate's resolution; the batch stays open."""
    import torch

    shape = (1, preprocessing.in_chans, *preprocessing.resolution)
    return Example(args=(torch.randn(shape, generator=torch.Generator().manual_seed(0)),), dynamic={0: {0: "batch"}})


def inputs_of(preprocessing: Preprocessing) -> list[np.ndarray]:
    """The same input for a runtime."""
    return [example_of(preprocessing).args[0].numpy()]


def metadata_of(data: Data, task: Task, preprocessing: Preprocessing, name: str) -> dict[str, str]:
    """What `predict` needs, as strings for the artifact's metadata."""
    from hollowbone import __version__

    return {
        "hollowbone": __version__,
        "hollowbone.task": task.name,
        "hollowbone.model": name,
        "hollowbone.classes": json.dumps(list(data.classes), ensure_ascii=False),
        "hollowbone.preprocessing": json.dumps(preprocessing.to_dict()),
    }


def export_artifact(
    model: nn.Module,
    path: Path,
    preprocessing: Preprocessing,
    *,
    format: str,
    metadata: dict[str, str] | None = None,
    samples: list[list[np.ndarray]] | None = None,
) -> Artifact:
    """Fold batch normalisation and export; verified against the unfolded network on the samples."""
    from hollowbone.models.fold import fold
    from hollowbone.runtime import export

    return export(fold(model), example_of(preprocessing), path, format=format, metadata=metadata, samples=samples)


def real_samples(task: Task, data: Data, preprocessing: Preprocessing, split: str, count: int) -> list[list[np.ndarray]]:
    """The first `count` samples of a split as runtime inputs, one a call."""
    dataset = data.split(split)
    count = min(count, len(dataset))  # type: ignore[arg-type]
    return [[x.numpy()] for x in _prepared(task, dataset, preprocessing, range(count))]


def _prepared(task: Task, dataset: Any, preprocessing: Preprocessing, indices: Any) -> Any:
    import torch

    for i in indices:
        image, target = dataset[i]
        x, _ = task.prepare((image[None], torch.as_tensor([int(target)])), preprocessing)
        yield x


def cost_of(
    context: Context,
    key: str,
    artifact: Artifact,
    model: nn.Module,
    preprocessing: Preprocessing,
    *,
    latency: Timing | None = None,
) -> Cost:
    """Everything the budget and the report ask of a file: counts, bytes, latency in a fresh process, peak memory, energy.

    The clock's figures are journaled under `key`; `latency` hands in one that was taken beside another file.
    """
    from hollowbone.measure import count
    from hollowbone.measure.energy import measure_energy

    settings, device, journal = context.settings, context.device, context.journal
    inputs = inputs_of(preprocessing)
    counts = count(model.eval(), example_of(preprocessing))
    if latency is None:
        latency = Timing(
            **journal.clock(f"{key}/latency", lambda: fresh_timing(device, artifact, inputs, settings.threads).to_dict())
        )
    memory = journal.clock(f"{key}/memory", lambda: device.peak_memory(artifact, inputs, threads=settings.threads))
    energy, reason = None, "only asked for by an energy limit"
    if context.budget.limit("energy"):
        energy, reason = journal.clock(
            f"{key}/energy", lambda: measure_energy(device, artifact, inputs, threads=settings.threads)
        )
    return Cost(
        device=device.name,
        runtime=settings.runtime,
        threads=settings.threads,
        params=counts.params,
        macs=counts.macs,
        elementwise=counts.elementwise,
        activations=counts.activations,
        size=artifact.nbytes,
        memory=memory,
        latency=latency,
        energy=energy,
        uncounted=counts.uncounted,
        reasons={} if energy is not None else {"energy": reason},
    )


def fresh_timing(device: Device, artifact: Artifact, inputs: list[np.ndarray], threads: int) -> Timing:
    """The middle one of `PROCESSES` fresh processes: where memory lies differs between processes, and moves small networks."""
    timings = [device.time(artifact, inputs, threads=threads, fresh=True) for _ in range(PROCESSES)]
    return sorted(timings, key=lambda t: t.median_ms)[PROCESSES // 2]


def try_int8(context: Context, key: str, plain: Artifact, preprocessing: Preprocessing) -> tuple[Artifact, dict[str, Any]]:
    """Quantise the file with the runtime's own tools; the better of the two for the user, and the record of the choice.

    Both are timed interleaved in one process; both are scored on *select*.
    """
    from hollowbone.runtime.int8 import quantize_int8
    from hollowbone.train import evaluate

    settings, journal, task, data = context.settings, context.journal, context.task, context.data
    if plain.format != "onnx":
        return plain, {"tried": False, "kept": False, "reason": f"no eight-bit tool for {plain.format} here yet"}
    calibration = real_samples(task, data, preprocessing, "train", CALIBRATION_SAMPLES)
    small = quantize_int8(plain, calibration, plain.path.with_name("int8.onnx"), facts=journal["device"]["facts"])
    pair = journal.clock(
        f"{key}/int8/latency",
        lambda: [
            t.to_dict() for t in context.device.time_pair(plain, small, inputs_of(preprocessing), threads=settings.threads)
        ],
    )

    def score(artifact: Artifact) -> float:
        return evaluate(artifact, data, "select", task=task, preprocessing=preprocessing).value

    scores = journal.result(f"{key}/int8/select", lambda: [score(plain), score(small)])
    faster = pair[1]["high_ms"] < pair[0]["low_ms"]
    loss = (scores[0] - scores[1]) * (1 if task.metric.higher_is_better else -1) * task.metric.scale
    kept = faster and loss <= settings.int8_loss
    reason = (
        "faster, and within the loss allowed"
        if kept
        else "not faster here"
        if not faster
        else f"loses {loss:.2f} points on select"
    )
    record = {
        "tried": True,
        "kept": kept,
        "reason": reason,
        "latency_ms": [t["median_ms"] for t in pair],
        "select": scores,
        "bytes": [plain.nbytes, small.nbytes],
        "loss_allowed": settings.int8_loss,
    }
    return (small if kept else plain), record
