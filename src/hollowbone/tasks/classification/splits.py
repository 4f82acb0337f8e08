"""Three splits from one pile, and what holds them: in memory as one uint8 tensor, or decoded when asked for.

A picture's place is decided by a hash of the seed and its own content, so it depends neither on the order in which files
are listed nor on their names, and equal pictures stay together.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from hollowbone.errors import UserError
from hollowbone.tasks.base import SPLITS

FRACTIONS = (0.60, 0.15, 0.25)
"""Shares of train, select and report where the data bring no splits of their own."""


class MemorySplit(Dataset):
    """Pictures `images` uint8 (N, C, H, W), `labels` int64 (N,), and `names` (files, or a description of each picture)."""

    def __init__(self, images: Tensor, labels: Tensor, names: Sequence[str]) -> None:
        self.images, self.labels, self.names = images, labels, tuple(names)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], int(self.labels[index])


class LazySplit(Dataset):
    """Pictures decoded when asked for by `load(index)` -> uint8 (C, H, W); `labels` and `names` as in `MemorySplit`."""

    def __init__(self, load: Callable[[int], np.ndarray], labels: Tensor, names: Sequence[str]) -> None:
        self.load, self.labels, self.names = load, labels, tuple(names)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.from_numpy(self.load(index)), int(self.labels[index])


def stratified(labels: Sequence[int], digests: Sequence[str], fractions: Sequence[float], seed: int) -> list[int]:
    """The part (0, 1, ... as in `fractions`) of each picture: every class is shared out in these fractions.

    Every part gets at least one picture of a class that has as many pictures as there are parts; with fewer, the first
    parts are served first.
    """
    by_class: dict[int, list[int]] = defaultdict(list)
    for index, label in enumerate(labels):
        by_class[label].append(index)
    parts = [0] * len(labels)
    for members in by_class.values():
        members.sort(key=lambda i: (hashlib.sha256(f"{seed}:{digests[i]}".encode()).digest(), digests[i]))
        sizes = share_out(len(members), fractions)
        start = 0
        for part, size in enumerate(sizes):
            for index in members[start : start + size]:
                parts[index] = part
            start += size
    return parts


def share_out(total: int, fractions: Sequence[float]) -> list[int]:
    """Whole numbers that add up to `total`, as near to the fractions as can be, none zero while there is enough for all."""
    least = [1 if total > part else 0 for part in range(len(fractions))]
    sizes = [max(low, round(total * fraction)) for low, fraction in zip(least, fractions, strict=True)]
    while (surplus := sum(sizes) - total) != 0:
        # The part that strays most from its fraction gives or takes one.
        step = -1 if surplus > 0 else 1
        open_parts = [p for p in range(len(sizes)) if step > 0 or sizes[p] > least[p]]
        best = max(open_parts, key=lambda p: step * (total * fractions[p] - sizes[p]))
        sizes[best] += step
    return sizes


def check_fractions(fractions: Sequence[float]) -> tuple[float, float, float]:
    """The fractions as given; `UserError` unless they are three shares above 0 that add up to 1."""
    if len(fractions) != 3 or any(not 0 < f < 1 for f in fractions) or abs(sum(fractions) - 1) > 1e-6:
        raise UserError(f"fractions are three shares (train, select, report) above 0 that add up to 1, not {tuple(fractions)}")
    return fractions[0], fractions[1], fractions[2]


def imbalance(labels: Sequence[int]) -> float:
    """Largest class over smallest class."""
    counts = Counter(labels).values()
    return max(counts) / min(counts) if counts else 1.0


def statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of uint8 (N, C, H, W), on the scale 0 to 1, four decimals.

    Taken from a histogram of whole numbers, so they are the same on every machine. A constant channel gets deviation 1.
    """
    values = torch.arange(256, dtype=torch.float64)
    means, stds = [], []
    for channel in range(images.shape[1]):
        counts = torch.bincount(images[:, channel].flatten(), minlength=256).double()
        mean = float((counts * values).sum() / counts.sum())
        variance = float((counts * (values - mean) ** 2).sum() / counts.sum())
        means.append(round(mean / 255, 4))
        stds.append(round(variance**0.5 / 255, 4) or 1.0)
    return tuple(means), tuple(stds)


def place(
    labels: Sequence[int], digests: Sequence[str], given: Sequence[str | None], fractions: Sequence[float], seed: int
) -> tuple[list[int], str]:
    """The part of each picture (its place in `SPLITS`) and a sentence that says where it came from.

    Splits that the data bring are kept. Where only one is held out it becomes *report*, so that figures can be compared
    with others' on the same data, and *select* is taken from train; where nothing is, both are.
    """
    present = {split for split in given if split}
    if not present:
        return stratified(labels, digests, fractions, seed), f"no ready splits: shared out {_percent(fractions)} by content"
    if "train" not in present:
        raise UserError(f"the data have a {' and a '.join(sorted(present))} split and no train split; add one")
    if present == set(SPLITS):
        return [SPLITS.index(split or "") for split in given], "the data's own splits are used"
    held_out = present - {"train"}
    parts = [0 if split == "train" else 2 for split in given]
    at = [index for index, split in enumerate(given) if split == "train"]
    shares = _renormalised(fractions[:2]) if held_out else tuple(fractions)
    for index, part in zip(at, stratified([labels[i] for i in at], [digests[i] for i in at], shares, seed), strict=True):
        parts[index] = part
    if held_out:
        which = {"select": "validation", "report": "test"}[held_out.pop()]
        return parts, f"the data's {which} split is used to report; {shares[1]:.0%} of their train split is set apart to select"
    return parts, f"the data have a train split only: it is shared out {_percent(fractions)} by content"


def _renormalised(fractions: Sequence[float]) -> tuple[float, ...]:
    return tuple(f / sum(fractions) for f in fractions)


def _percent(fractions: Sequence[float]) -> str:
    return " : ".join(f"{100 * f:.0f}" for f in fractions)


def drop_duplicates(
    digests: Sequence[str], labels: Sequence[int], parts: Sequence[int], names: Sequence[str]
) -> tuple[list[int], list[tuple[str, str]], list[str]]:
    """Indices to keep, pairs (kept, dropped) of equal pictures in different splits, and notes.

    A picture that is both in train and held out leaves train; one that is in select and in report leaves select: the report
    stays honest, and complete.
    """
    latest: dict[str, int] = {}
    told: dict[str, set[int]] = defaultdict(set)
    for index, digest in enumerate(digests):
        told[digest].add(labels[index])
        if digest not in latest or parts[index] > parts[latest[digest]]:
            latest[digest] = index
    kept, pairs = [], []
    for index, digest in enumerate(digests):
        best = latest[digest]
        if parts[index] < parts[best]:
            pairs.append((names[best], names[index]))
        else:
            kept.append(index)
    contradictory = [names[latest[digest]] for digest, several in told.items() if len(several) > 1]
    notes = [f"equal pictures have different labels: {', '.join(contradictory[:5])}"] if contradictory else []
    return kept, pairs, notes
