"""Search: candidate spaces, the latency table, latency-driven slimming and successive halving, behind one verb."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hollowbone.errors import UserError, unknown

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from hollowbone.measure.budget import Budget
    from hollowbone.runtime.base import Device
    from hollowbone.search.table import TimedSpace
    from hollowbone.tasks.base import Data
    from hollowbone.train.recipe import Recipe

SPACES: dict[str, str] = {
    "efficientformer": "hollowbone.search.efficientformer_space:EfficientFormerSpace",
    "mobilenetv2": "hollowbone.search.mobilenetv2_space:MobileNetV2Space",
}
"""Where each candidate space's class is; one line a space."""


def list_spaces() -> list[str]:
    """Names of the candidate spaces."""
    return sorted(SPACES)


def get_space(name: str) -> TimedSpace:
    """The candidate space of that name; raises `UserError` naming the nearest if there is none."""
    if name not in SPACES:
        raise unknown("candidate space", name, SPACES)
    module, _, attribute = SPACES[name].partition(":")
    return getattr(import_module(module), attribute)()


def search(
    space: str,
    *,
    budget: str | Budget,
    data: str | Path | Data,
    device: str | Device = "local",
    runtime: str = "onnxruntime",
    threads: int = 1,
    task: str = "classification",
    recipe: Recipe | None = None,
    seed: int = 0,
    out: str | Path | None = None,
) -> nn.Module:
    """The network of a space that a latency budget allows on a device, freshly initialised: train it from scratch.

    `efficientformer` trains a supernet on `data` by `recipe` (checkpointed in `out`, if given) and slims it;
    `mobilenetv2` takes the slowest configuration that is measured within the limit. What was found, and how, is
    `network.found` (a `search.slimming.Slimmed`, or the configuration). Raises `UserError` for an unknown space and for a
    budget that is not one absolute limit on latency (`fit` takes any), `BudgetImpossible` where nothing meets it.
    """
    from hollowbone.measure.budget import Budget
    from hollowbone.runtime.device import get_device
    from hollowbone.search import verb
    from hollowbone.search.table import LatencyTable
    from hollowbone.tasks import get_task

    found_space = get_space(space)
    budget = Budget(budget) if isinstance(budget, str) else budget
    limit = budget.limit("latency")
    if limit is None or limit.relative or limit.stat != "median" or len(budget.limits) > 1:
        raise UserError(
            f"search takes one absolute limit on the median latency, such as 'latency<=3ms', not {str(budget)!r}; fit takes any"
        )
    the_task = get_task(task)
    read: Any = the_task.read(data, seed=seed)  # type: ignore[arg-type]
    where = get_device(device) if isinstance(device, str) else device
    table = LatencyTable(found_space, where, runtime=runtime, threads=threads)
    finder: Any = verb.slimmed if space == "efficientformer" else verb.proposed
    return finder(found_space, table, limit.number, data=read, task=the_task, recipe=recipe, seed=seed, out=out)


__all__ = ["SPACES", "get_space", "list_spaces", "search"]
