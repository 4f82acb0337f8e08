"""Which samples come when, and with which random numbers: functions of the seed, the epoch and the step alone.

Nothing here has a state, so a training that is killed and resumed at step n sees what an uninterrupted one sees at step n.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from hollowbone.errors import UserError
from hollowbone.tasks.base import Batch


def mixed(*parts: int | str) -> int:
    """A 63-bit number that depends on every part."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()) >> 1


def seed_all(*parts: int | str, device: str = "cpu") -> None:
    """Seed the global generators of torch, numpy and python."""
    number = mixed(*parts)
    # `torch.manual_seed` also queues a call with a stack trace for every absent accelerator: 50 times the cost.
    if device == "cpu":
        torch.default_generator.manual_seed(number)
    else:
        torch.manual_seed(number)
    np.random.seed(number & 0xFFFFFFFF)
    random.seed(number)


@contextmanager
def generators_kept() -> Iterator[None]:
    """Give the global generators of the CPU back as they were."""
    kept = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(kept[0])
        np.random.set_state(kept[1])
        random.setstate(kept[2])


def permutation(seed: int, epoch: int, n: int) -> Tensor:
    """The order of `n` samples in an epoch."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(mixed(seed, "order", epoch)))


class Feed:
    """The train split cut into optimiser steps of `accumulate` batches each, for one of `world` devices.

    `batch_size` samples are shared out over the devices, so a recipe means the same on any number of them. A last batch
    with fewer than two samples a device is dropped (batch normalisation has no variance of one sample).
    """

    def __init__(self, split: Any, *, batch_size: int, accumulate: int, seed: int, rank: int = 0, world: int = 1) -> None:
        self.split, self.seed, self.rank, self.world = split, seed, rank, world
        self.n, self.size, self.accumulate = len(split), batch_size, accumulate
        least = 2 * world
        if self.size < least:
            raise UserError(f"batch_size must be at least {least} ({world} device(s) of two samples), not {batch_size}")
        self.batches, rest = divmod(self.n, self.size)
        self.batches += rest >= least
        if not self.batches:
            raise UserError(f"the train split has {self.n} sample(s); training needs at least {least}")
        self.steps = -(-self.batches // accumulate)

    def __call__(self, epoch: int, start: int) -> Iterator[list[tuple[Batch, float]]]:
        """From optimiser step `start` of an epoch on: this device's batches, each with its weight in the step's mean loss.

        The weights make the mean over the step's samples, wherever they are: their sum over batches, averaged over
        devices, is 1.
        """
        order = permutation(self.seed, epoch, self.n)
        groups = []
        for step in range(start, self.steps):
            whole = order[step * self.accumulate * self.size : min((step + 1) * self.accumulate, self.batches) * self.size]
            parts = whole.split(self.size)
            mine = [part[self.rank :: self.world] for part in parts]
            groups.append([(m, len(m) * self.world / len(whole)) for m in mine])
        fetched = fetch(self.split, [indices for group in groups for indices, _ in group])
        for group in groups:
            yield [(next(fetched), weight) for _, weight in group]


def fetch(split: Any, batches: list[Tensor]) -> Iterator[Batch]:
    """Batches of a split by their indices.

    A split with `batch(indices)`, or with tensors `images` and `labels`, is indexed at once; any other is read by
    `DataLoader` workers, one a core.
    """
    if hasattr(split, "batch"):
        return (split.batch(indices) for indices in batches)
    images, labels = getattr(split, "images", None), getattr(split, "labels", None)
    if isinstance(images, Tensor) and isinstance(labels, Tensor):
        return ((images[indices], labels[indices]) for indices in batches)
    workers = min(os.cpu_count() or 1, 8) if hasattr(split, "load") else 0
    sampler = [indices.tolist() for indices in batches]
    # A generator of its own, for the loader draws a seed for its workers from the global one otherwise.
    loader = DataLoader(
        split, batch_sampler=sampler, num_workers=workers, collate_fn=_collate, generator=torch.Generator().manual_seed(0)
    )
    return iter(loader)


def _collate(samples: list[Any]) -> Any:
    return tuple(default_collate(samples))
