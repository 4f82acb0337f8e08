"""What the verb `search` does for each kind of space."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from hollowbone.errors import BudgetImpossible, UserError
from hollowbone.search.efficientformer_space import EfficientFormerSpace
from hollowbone.search.score import scorer
from hollowbone.search.slimming import slim
from hollowbone.search.supernet import train_supernet
from hollowbone.search.table import LatencyTable
from hollowbone.tasks.base import Data, Task
from hollowbone.train.recipe import Recipe


def slimmed(
    space: EfficientFormerSpace,
    table: LatencyTable,
    limit_ms: float,
    *,
    data: Data,
    task: Task,
    recipe: Recipe | None,
    seed: int,
    out: str | Path | None,
) -> nn.Module:
    """Choose a supernet for the limit, train it, slim it; the found network is built afresh."""
    config = space.supernet(limit_ms=limit_ms, predict=table.network, **sizes(data))
    table.calibrate(space.calibration(config))
    supernet = train_supernet(config, data, task=task, recipe=recipe or Recipe(seed=seed), out=out)
    found = slim(supernet, space, table, limit_ms, scorer(task, data, data.preprocessing, seed=seed))
    return _with_found(space.build(found.config), found)


def proposed(
    space: Any,
    table: LatencyTable,
    limit_ms: float,
    *,
    data: Data,
    task: Task,
    recipe: Recipe | None,
    seed: int,
    out: str | Path | None,
) -> nn.Module:
    """The space's first proposal."""
    size = sizes(data)
    proposals = space.propose(limit_ms=limit_ms, predict=lambda config: space.latency(config, table), **size)
    if not proposals:
        fastest = space.latency(space.smallest(**size), table)
        raise BudgetImpossible(
            f"no {space.name} meets latency<={limit_ms:g}ms: the fastest takes {fastest:.4g} ms on {table.device.name}"
        )
    torch.manual_seed(seed)
    return _with_found(space.build(proposals[0]), proposals[0])


def sizes(data: Data) -> dict[str, int]:
    """What a space must know of a data set: `resolution`, `num_classes`, `in_chans`."""
    height, width = data.preprocessing.resolution
    if height != width:
        raise UserError(f"the families searched take square pictures; the data are {width}x{height}")
    return {"resolution": height, "num_classes": len(data.classes), "in_chans": data.preprocessing.in_chans}


def _with_found(network: nn.Module, found: Any) -> nn.Module:
    object.__setattr__(network, "found", found)  # beside the module's own registers: it is no part of the network
    return network
