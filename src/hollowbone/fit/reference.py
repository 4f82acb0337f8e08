"""The model that the result is held against: the user's `--start`, else `--reference` at the data's resolution.

Its cost is measured before anything is trained (weights do not change it). Where the budget is a share of it, it is trained
too, by the recipe of the final training: so the report can say what the saving cost, and it teaches the winner where it is
the better of the two.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from hollowbone.fit.context import Context
from hollowbone.fit.ship import EXTENSIONS, cost_of, export_artifact, metadata_of, real_samples
from hollowbone.fit.trial import build, digest_of_weights, identity, keep_weights, preprocessing_of, train_candidate
from hollowbone.measure.cost import Cost
from hollowbone.runtime.base import Artifact
from hollowbone.search.base import Config


@dataclass(frozen=True)
class Baseline:
    """A reference with its cost; once it is trained, its metric on `select` and `report`, and the digest of its `weights`."""

    name: str
    config: Config
    cost: Cost
    artifact: Artifact
    select: float | None = None
    report: dict[str, Any] | None = None
    weights: str | None = None


def measure(context: Context) -> Baseline:
    """Export the untrained reference and take its cost."""
    data = context.data
    name = context.settings.start or context.settings.reference
    config = context.start or {
        "space": "model",
        "name": name,
        "num_classes": len(data.classes),
        "in_chans": data.preprocessing.in_chans,
        "resolution": list(data.preprocessing.resolution),
    }
    preprocessing = preprocessing_of(config, data)
    model = build(config).eval()
    path = context.folder.work("reference", f"model.{EXTENSIONS[context.settings.format]}")
    artifact = export_artifact(model, path, preprocessing, format=context.settings.format)
    cost = cost_of(context, "reference", artifact, model, preprocessing)
    assert cost.latency is not None
    context.say(
        f"reference  {name} at {_at(preprocessing.resolution)}: {cost.latency.median_ms:.3f} ms, {artifact.nbytes / 1e6:.2f} MB"
    )
    return Baseline(name, config, cost, artifact)


def train(context: Context, baseline: Baseline) -> Baseline:
    """Train the reference by the final recipe, and judge its exported file on *select* (and, at the end, on *report*)."""
    from safetensors.torch import load_file

    from hollowbone.train import evaluate

    context.say(f"training the reference {baseline.name} for {context.epochs} epochs")
    score, weights = weights_of(context, baseline.config, context.epochs)
    model = build(baseline.config)
    model.load_state_dict(load_file(context.folder.weights(weights)))
    preprocessing = preprocessing_of(baseline.config, context.data)
    artifact = export_artifact(
        model.eval(),
        baseline.artifact.path,
        preprocessing,
        format=context.settings.format,
        metadata=metadata_of(context.data, context.task, preprocessing, baseline.name),
        samples=real_samples(context.task, context.data, preprocessing, "select", 8),
    )
    judged = context.journal.result(
        f"reference/{weights[:12]}/report",
        lambda: evaluate(artifact, context.data, "report", task=context.task, preprocessing=preprocessing).to_dict(),
    )
    return replace(baseline, artifact=artifact, select=score, report=judged, weights=weights)


def weights_of(context: Context, config: Config, epochs: int) -> tuple[float, str]:
    """Train a configuration without a teacher: its score on *select*, and the digest under which its weights are kept."""
    from safetensors.torch import load_file

    key = f"reference/{identity(config, context.recipe(epochs, config).to_dict())}"
    [done] = context.train([context.job(config, epochs, key)], train_candidate)
    score = context.journal.result(f"{key}/select", lambda: done["score"])
    weights = context.journal.result(f"{key}/weights", lambda: digest_of_weights(done["weights"]))
    keep_weights(load_file(done["weights"]), context.folder)
    return score, weights


def _at(resolution: tuple[int, int]) -> str:
    return f"{resolution[1]}x{resolution[0]}"
