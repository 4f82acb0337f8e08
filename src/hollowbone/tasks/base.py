"""The task contract: how data is read, what a training step is, and by which figure a model is judged.

A task is a folder of this package. It knows readers, `Step`s, post-processing and a metric with a direction; it knows no
network and no optimiser. Whatever trains (`hollowbone.train`) runs the Steps of a task; whatever judges uses its `Metric`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn
from torch.utils.data import Dataset

SPLITS = ("train", "select", "report")
"""*train* fits weights; everything that chooses uses *select*; *report* is touched once, at the end."""


@dataclass(frozen=True)
class Metric:
    """A figure with a direction. `scale` turns it into what is printed (100 for a fraction shown in per cent)."""

    name: str
    higher_is_better: bool = True
    unit: str = "%"
    scale: float = 100.0

    def better(self, a: float, b: float) -> bool:
        """Whether `a` beats `b`."""
        return a > b if self.higher_is_better else a < b

    def format(self, value: float) -> str:
        """As printed: `97.5%`."""
        return f"{value * self.scale:.2f}{self.unit}"


@dataclass(frozen=True)
class Preprocessing:
    """What turns a picture into the network's input; stored in every artifact, so that `predict` needs nothing else.

    Resize (bilinear, antialiased) to `resolution`, channels as `in_chans` (1 = luminance, 3 = RGB), scale to [0, 1],
    subtract `mean`, divide by `std`.
    """

    resolution: tuple[int, int]
    in_chans: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"resolution": list(self.resolution), "in_chans": self.in_chans, "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Preprocessing:
        """The inverse of `to_dict`."""
        return cls(tuple(value["resolution"]), value["in_chans"], tuple(value["mean"]), tuple(value["std"]))


@dataclass(frozen=True)
class Augment:
    """What training does to a picture. `geometric` is a preset: "none", "shift" (pad and crop), "flip_shift"."""

    geometric: str = "shift"
    mixup: float = 0.0
    cutmix: float = 0.0
    randaugment: tuple[int, int] = (0, 0)
    random_erasing: float = 0.0


@dataclass
class DataReport:
    """What a reader found, for people and for `result.json`."""

    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    """Samples by split and class."""
    sizes: dict[str, int] = field(default_factory=dict)
    """Pictures by `WIDTHxHEIGHT`, the most frequent first."""
    imbalance: float = 1.0
    """Largest over smallest class of the train split."""
    duplicates: list[tuple[str, str]] = field(default_factory=list)
    """Pairs (kept, dropped) of byte-identical pictures in different splits."""
    broken: dict[str, str] = field(default_factory=dict)
    """Unreadable files by name, with the reason."""
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Data:
    """A read dataset: three splits of (picture, target), the class names, and what the reader found.

    A classification sample is (uint8 Tensor (C, H, W) at `preprocessing.resolution`, int). `digest` identifies the content:
    the same files and options give the same digest, on any machine.
    """

    name: str
    train: Dataset
    select: Dataset
    report: Dataset
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    found: DataReport
    digest: str
    source: str = ""

    def split(self, name: str) -> Dataset:
        """The split of that name, one of `SPLITS`."""
        if name not in SPLITS:
            raise ValueError(f"a split is one of {SPLITS}, not {name!r}")
        return getattr(self, name)


Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Step:
    """One alternation of training.

    `params(model)` are the parameters it moves; `loss(model, batch)` returns named scalars, of which "loss" is minimised;
    `update` replaces the gradient step where there is none (EM): it is called as `update(model, batch)`; the Step runs on
    every `every`-th batch.
    """

    loss: Callable[[nn.Module, Batch], Mapping[str, Tensor]]
    params: Callable[[nn.Module], Iterable[nn.Parameter]] = lambda model: model.parameters()
    update: Callable[[nn.Module, Batch], Mapping[str, float]] | None = None
    every: int = 1
    name: str = "main"
    lr_scale: float = 1.0
    weight_decay: float | None = None


class Task(Protocol):
    """What `hollowbone.train` and `hollowbone.fit` need to know about a problem."""

    name: str
    metric: Metric

    def read(self, source: str | Path | Data, *, seed: int = 0, **options: Any) -> Data:
        """Read a dataset by bundled name or from disk."""
        ...

    def steps(self, *, teacher: nn.Module | None = None, **options: Any) -> list[Step]:
        """The training steps; `options` are the task's own (label smoothing, distillation weight, ...)."""
        ...

    def prepare(self, batch: Batch, preprocessing: Preprocessing, *, augment: Augment | None = None) -> Batch:
        """From stored samples (uint8) to the network's input (float); augmented if told how, with torch's global generator."""
        ...

    def predictions(self, outputs: Sequence[np.ndarray]) -> np.ndarray:
        """From raw outputs of a model or artifact to predictions."""
        ...

    def score(self, predictions: np.ndarray, targets: np.ndarray) -> float:
        """The metric, as a fraction (not scaled)."""
        ...

    def interval(self, predictions: np.ndarray, targets: np.ndarray) -> tuple[float, float]:
        """95% interval of the metric over samples."""
        ...
