"""The classification task: reading, preparing batches, the training Step, predictions, accuracy and its interval."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hollowbone.tasks.base import Augment, Batch, Data, Metric, Preprocessing, Step
from hollowbone.tasks.classification.augment import apply
from hollowbone.tasks.classification.steps import classification_step

if TYPE_CHECKING:
    from rich.console import Group


class Classification:
    """One label a picture, judged by top-1 accuracy."""

    name = "classification"
    metric = Metric("accuracy")

    def read(self, source: Any, *, seed: int = 0, **options: Any) -> Data:
        """Read a dataset; the options are those of `readers.read`."""
        from hollowbone.tasks.classification.readers import read

        return read(source, seed=seed, **options)

    def steps(self, *, teacher: nn.Module | None = None, **options: Any) -> list[Step]:
        """One Step; the options are those of `steps.classification_step` (label_smoothing, distill, tau)."""
        return [classification_step(teacher=teacher, **options)]

    def prepare(
        self, batch: Batch, preprocessing: Preprocessing, *, augment: Augment | None = None, num_classes: int | None = None
    ) -> Batch:
        """From pictures uint8 (B, C, h, w) and labels (B,) to the network's input float (B, C, H, W).

        Resized if the size differs, augmented if told how, then normalised. Mixup and cutmix return soft targets
        (B, num_classes); without `num_classes` they have as many columns as the batch's highest label needs, and the loss
        takes the missing ones as zero. Every draw comes from torch's global CPU generator.
        """
        pictures, targets = batch
        x = pictures.float() / 255
        if x.shape[-2:] != torch.Size(preprocessing.resolution):
            x = F.interpolate(x, size=preprocessing.resolution, mode="bilinear", antialias=True)
        if augment is not None:
            x, targets = apply(x, targets, augment, num_classes)
        return normalise(x, preprocessing), targets

    def decode(self, path: str | Path, preprocessing: Preprocessing) -> Tensor:
        """A picture file as uint8 Tensor (C, H, W) at the preprocessing's size, for `prepare`; `UserError` if unreadable."""
        from hollowbone.tasks.classification.pictures import load

        return torch.tensor(load(path, preprocessing.resolution, preprocessing.in_chans))

    def predictions(self, outputs: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
        """Class numbers (N,) from a model's outputs, of which the first is logits (N, K); -1 where a logit is not finite.

        -1 equals no label, so a network that overflows is judged wrong and not by chance right.
        """
        logits = np.asarray(outputs if isinstance(outputs, np.ndarray) else outputs[0])
        return np.where(np.isfinite(logits).all(axis=-1), logits.argmax(axis=-1), -1)

    def score(self, predictions: np.ndarray, targets: np.ndarray) -> float:
        """Top-1 accuracy, a fraction."""
        return float(_right(predictions, targets).mean())

    def interval(self, predictions: np.ndarray, targets: np.ndarray) -> tuple[float, float]:
        """95% interval of the accuracy over samples (Wilson's)."""
        right = _right(predictions, targets)
        return wilson(int(right.sum()), len(right))

    def describe(self, data: Data) -> Group:
        """What the reader found, as something that rich can print."""
        from hollowbone.tasks.classification.describe import describe

        return describe(data)


def normalise(x: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Subtract the mean and divide by the deviation: `x` (B, C, H, W) on the scale 0 to 1."""
    mean = torch.tensor(preprocessing.mean, device=x.device).view(1, -1, 1, 1)
    std = torch.tensor(preprocessing.std, device=x.device).view(1, -1, 1, 1)
    return (x - mean) / std


def _right(predictions: np.ndarray, targets: np.ndarray) -> np.ndarray:
    if len(predictions) != len(targets) or len(targets) == 0:
        raise ValueError(
            f"as many predictions as targets are needed, and at least one, not {len(predictions)} and {len(targets)}"
        )
    return np.asarray(predictions) == np.asarray(targets)


def wilson(successes: int, total: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927), by default at 95%."""
    p, spread = successes / total, z * z / total
    centre = (p + spread / 2) / (1 + spread)
    half = z * (p * (1 - p) / total + spread / (4 * total)) ** 0.5 / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def confusion(predictions: np.ndarray, targets: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts (num_classes, num_classes): row = true class, column = predicted. Predictions of -1 (not finite) are left out."""
    seen = np.asarray(predictions) >= 0
    cells = np.asarray(targets)[seen] * num_classes + np.asarray(predictions)[seen]
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def balanced_accuracy(predictions: np.ndarray, targets: np.ndarray) -> float:
    """Mean over the classes that occur of the share of their samples that is right."""
    right = _right(predictions, targets)
    return float(np.mean([right[np.asarray(targets) == label].mean() for label in np.unique(targets)]))
