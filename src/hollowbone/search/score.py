"""How good a slimmed supernet is without retraining: batch norms re-estimated, then the task's metric on a fixed subset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate

from hollowbone.tasks.base import Batch, Data, Preprocessing, Task


@dataclass(frozen=True)
class Scorer:
    """Called with a network, returns the metric on *select* batches, sign turned where lower is better.

    Both kinds of batches are prepared for the network. The same weights always give the same score (same machine, same
    threads).
    """

    task: Task
    select: tuple[Batch, ...]
    train: tuple[Batch, ...]

    def __call__(self, network: nn.Module) -> float:
        """Changes nothing of the network but its batch-norm statistics, and leaves it in evaluation mode."""
        reestimate_batchnorm(network, [x for x, _ in self.train])
        with torch.inference_mode():
            outputs = np.concatenate([network(x).numpy() for x, _ in self.select])
        targets = np.concatenate([y.numpy() for _, y in self.select])
        value = self.task.score(self.task.predictions([outputs]), targets)
        return value if self.task.metric.higher_is_better else -value


def scorer(
    task: Task,
    data: Data,
    preprocessing: Preprocessing,
    *,
    select: int = 512,
    train: int = 256,
    batch_size: int = 128,
    seed: int = 0,
) -> Scorer:
    """A `Scorer` on `select` samples of *select* and `train` of *train*, drawn once (all where there are fewer)."""
    generator = torch.Generator().manual_seed(seed)
    chosen = (
        tuple(task.prepare(batch, preprocessing) for batch in _batches(dataset, count, batch_size, generator))
        for dataset, count in ((data.select, select), (data.train, train))
    )
    return Scorer(task, *chosen)


@torch.no_grad()
def reestimate_batchnorm(network: nn.Module, inputs: Sequence[Tensor]) -> None:
    """Replace the statistics of every batch norm by the averages over these inputs; all else stays in evaluation mode."""
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    before = [norm.momentum for norm in norms]
    network.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over the batches
        norm.train()
    for x in inputs:
        network(x)
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
    network.eval()


def _batches(dataset: Dataset, count: int, batch_size: int, generator: torch.Generator) -> list[Batch]:
    places = torch.randperm(len(dataset), generator=generator)[:count].tolist()  # type: ignore[arg-type]
    return [
        tuple(default_collate([dataset[i] for i in places[at : at + batch_size]])) for at in range(0, len(places), batch_size)
    ]
