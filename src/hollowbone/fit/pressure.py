"""How hard a configuration presses against a budget: the largest share of any limit that it uses.

A search that shrinks a network until its pressure is 0.9 meets every limit at once, whatever they are on. Latency comes
from the table, parameters and multiply-adds from a count without weights, bytes and peak memory from an export of the
untrained network (weights do not change them).
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from hollowbone.errors import UserError
from hollowbone.fit.ship import example_of, export_artifact, inputs_of
from hollowbone.fit.trial import bare, build, identity, preprocessing_of
from hollowbone.measure.budget import Budget, Limit
from hollowbone.runtime.base import Example
from hollowbone.search.base import Config, canonical

SEARCHED = ("latency", "size", "params", "macs", "memory")


class Pressure:
    """`pressure(config)` is the largest of figure / limit over an absolute budget; figures are computed once a configuration.

    `latency_ms(config)` predicts; `context` tells where exports go and what they are for.
    """

    def __init__(self, context, budget: Budget, latency_ms: Callable[[Config], float]) -> None:
        for limit in budget.limits:
            if limit.metric not in SEARCHED or limit.mode != "infer" or limit.entry != "forward":
                raise UserError(f"fit cannot search for {limit}: it can limit {', '.join(SEARCHED)} of inference")
        self._context = context
        self.budget = budget
        self._latency_ms = latency_ms
        self._known: dict[tuple[str, str], float] = {}

    def __call__(self, config: Config) -> float:
        """The largest share of a limit used; at most 1 where the budget is met."""
        return max(self.figure(limit, config) / limit.number for limit in self.budget.limits)

    def figure(self, limit: Limit, config: Config) -> float:
        """One predicted figure in the limit's base unit; weights do not change it."""
        config = bare(config)
        key = (limit.metric, canonical(config))
        if key not in self._known:
            self._known[key] = self._figure(limit.metric, config)
        return self._known[key]

    def _figure(self, metric: str, config: Config) -> float:
        if metric == "latency":
            return self._latency_ms(config)
        if metric in ("params", "macs"):
            return float(static_counts(self._context, config)[metric])
        artifact = self._export(config)
        if metric == "size":
            return float(artifact.nbytes)
        inputs = inputs_of(preprocessing_of(config, self._context.data))
        key = f"memory/{identity(config)}"
        return float(
            self._context.journal.clock(
                key, lambda: self._context.device.peak_memory(artifact, inputs, threads=self._context.settings.threads)
            )
        )

    def _export(self, config: Config):
        settings = self._context.settings
        path = self._context.folder.work("pressure", f"model.{'onnx' if settings.format == 'onnx' else 'pte'}")
        preprocessing = preprocessing_of(config, self._context.data)
        return export_artifact(build(config).eval(), path, preprocessing, format=settings.format)


def static_counts(context, config: Config) -> dict[str, int]:
    """Parameters and multiply-adds of a configuration, counted on the meta device."""
    from hollowbone.measure import count

    preprocessing = preprocessing_of(config, context.data)
    with torch.device("meta"):
        model = build(bare(config)).eval()
    example = example_of(preprocessing)
    counts = count(model, Example(args=(example.args[0].to("meta"),)))
    if counts.uncounted and context.budget.limit("macs"):
        raise UserError(f"multiply-adds cannot be limited here: no formula counts {', '.join(counts.uncounted)}")
    return {"params": counts.params, "macs": counts.macs}
