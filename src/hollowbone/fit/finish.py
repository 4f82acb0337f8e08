"""The last third of a run: train the winner, export, quantise where it pays, measure, judge on the shipped file alone."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import Any

from torch import nn

from hollowbone.errors import BudgetImpossible
from hollowbone.files import write_with
from hollowbone.fit.candidates import REMEDY, Candidate, Found, tighten
from hollowbone.fit.context import Context
from hollowbone.fit.reference import Baseline
from hollowbone.fit.ship import (
    EXTENSIONS,
    LONG,
    cost_of,
    export_artifact,
    fresh_timing,
    inputs_of,
    metadata_of,
    real_samples,
    try_int8,
)
from hollowbone.fit.trial import build, digest_of_weights, identity, preprocessing_of, train_candidate
from hollowbone.measure.budget import Budget, Judgement
from hollowbone.measure.cost import Cost
from hollowbone.runtime.base import Artifact, Timing
from hollowbone.search.base import Config
from hollowbone.tasks.base import Preprocessing

ATTEMPTS = 3
"""Times that a shipped file measured over the budget is slimmed on and trained again."""
VERIFIED_SAMPLES = 16


@dataclass(frozen=True)
class Shipped:
    """The artifact in the run's folder, the network it came from, and what was measured on it."""

    candidate: Candidate
    artifact: Artifact
    model: nn.Module
    preprocessing: Preprocessing
    cost: Cost
    reference_cost: Cost
    judgement: Judgement
    limits: Budget
    int8: dict[str, Any]
    training: dict[str, Any]
    weights_sha256: str


def ship(context: Context, winner: Candidate, limits: Budget, baseline: Baseline, found: Found) -> Shipped:
    """Train, export and judge the winner; slim on where its file is over the budget."""
    candidate: Candidate | None = winner
    for attempt in range(ATTEMPTS):
        if candidate is None:
            break
        shipped = _attempt(context, candidate, baseline, limits, attempt)
        if shipped.judgement.met or attempt == ATTEMPTS - 1:
            return shipped
        context.say(f"over the budget as shipped ({shipped.judgement}); slimming on")
        candidate = tighten(context, candidate, found.tried)
    raise BudgetImpossible(f"the shipped file misses {limits} ({shipped.judgement}) and nothing smaller is left; {REMEDY}")


def _attempt(context: Context, candidate: Candidate, baseline: Baseline, limits: Budget, attempt: int) -> Shipped:
    from safetensors.torch import load_file

    settings, journal, data, task = context.settings, context.journal, context.data, context.task
    teacher, taught_by = _teacher(context, candidate, baseline)
    recipe = context.recipe(context.epochs, candidate.config)
    key = f"final/{identity(candidate.config, recipe.to_dict(), teacher or {})}"
    taught = f", taught by {taught_by}" if teacher else ""
    context.say(f"training {candidate.name} for {recipe.epochs} epochs{taught}")
    [training] = context.train([context.job(candidate.config, recipe.epochs, key, teacher=teacher)], train_candidate)
    select = journal.result(f"{key}/select", lambda: training["score"])
    sha = journal.result(f"{key}/weights", lambda: digest_of_weights(training["weights"]))
    model = build(candidate.config)
    model.load_state_dict(load_file(training["weights"]))
    preprocessing = preprocessing_of(candidate.config, data)
    extension = EXTENSIONS[settings.format]
    plain = export_artifact(
        model.eval(),
        context.folder.work("ship", f"model.{extension}"),
        preprocessing,
        format=settings.format,
        metadata=metadata_of(data, task, preprocessing, candidate.name),
        samples=real_samples(task, data, preprocessing, "select", VERIFIED_SAMPLES),
    )
    chosen, int8 = try_int8(context, key, plain, preprocessing)
    target = context.folder.path / f"model.{extension}"
    write_with(target, lambda path: shutil.copyfile(chosen.path, path))
    artifact = _at(chosen, target, plain)
    cost, reference_cost = _costs(context, key, artifact, model, preprocessing, baseline)
    absolute = context.budget.resolve(reference_cost)
    judgement = absolute.judge(cost)
    context.say(f"shipped {target}: {judgement}; {task.metric.format(select)} on select before export")
    record = {
        "recipe": recipe.to_dict(),
        "history": training["history"],
        "teacher": taught_by if teacher else None,
        "select": select,
    }
    return Shipped(candidate, artifact, model, preprocessing, cost, reference_cost, judgement, absolute, int8, record, sha)


def _teacher(context: Context, candidate: Candidate, baseline: Baseline) -> tuple[Config | None, str]:
    """Who teaches, and its name: the user's `--teacher`, else the reference where it was trained, else the network that the
    candidate was cut from."""
    if context.teacher is not None:
        return context.teacher, str(context.settings.teacher)
    if baseline.weights is not None:
        return {**baseline.config, "init_sha": baseline.weights}, baseline.name
    return getattr(candidate.source, "teacher", None), baseline.name


def _costs(
    context: Context, key: str, artifact: Artifact, model: nn.Module, preprocessing: Preprocessing, baseline: Baseline
) -> tuple[Cost, Cost]:
    """Cost of the shipped file and of the reference beside it: where the budget is a share of it, both timed in one run."""
    if not context.budget.relative:
        return cost_of(context, key, artifact, model, preprocessing), baseline.cost
    if preprocessing.resolution != preprocessing_of(baseline.config, context.data).resolution:
        # Two input sizes cannot be interleaved in one call; both are timed in fresh processes, one after the other.
        again = context.journal.clock(
            f"{key}/reference",
            lambda: fresh_timing(
                context.device,
                baseline.artifact,
                inputs_of(preprocessing_of(baseline.config, context.data)),
                context.settings.threads,
            ).to_dict(),
        )
        return cost_of(context, key, artifact, model, preprocessing), baseline.cost.with_(latency=Timing(**again))
    pair = context.journal.clock(
        f"{key}/pair",
        lambda: [
            t.to_dict()
            for t in context.device.time_pair(
                baseline.artifact, artifact, inputs_of(preprocessing), threads=context.settings.threads, clock=LONG
            )
        ],
    )
    cost = cost_of(context, key, artifact, model, preprocessing, latency=Timing(**pair[1]))
    return cost, baseline.cost.with_(latency=Timing(**pair[0]))


def _at(chosen: Artifact, path: Any, plain: Artifact) -> Artifact:
    from dataclasses import replace

    return replace(chosen, path=path, verified=chosen.verified or plain.verified)
