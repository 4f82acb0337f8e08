"""A small dataset and tiny networks for the tests of training; importable by the processes that tests start."""

from __future__ import annotations

import hashlib
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from hollowbone.tasks.base import Data, DataReport, Metric, Preprocessing, Step
from hollowbone.tasks.classification import MemorySplit
from hollowbone.train import Callback, Recipe, State, train

PREPROCESSING = Preprocessing((8, 8), 1, (0.5,), (0.25,))
PLAIN = Recipe(epochs=3, batch_size=32, lr=5e-3, augment="none", label_smoothing=0.0, threads=1, seed=3)


def stripes(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Pictures (n, 1, 8, 8) of horizontal, vertical and diagonal stripes under noise: three classes."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (n,), generator=draw)
    y, x = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    waves = torch.stack([torch.sin(y * 1.6), torch.sin(x * 1.6), torch.sin((x + y) * 1.6)])
    pictures = waves[labels] + 1.2 * torch.randn(n, 8, 8, generator=draw)
    return (128 + 50 * pictures).clamp(0, 255).to(torch.uint8)[:, None], labels


def data(train_size: int = 256) -> Data:
    parts = []
    for number, size in enumerate((train_size, 96, 96)):
        images, labels = stripes(size, number)
        parts.append(MemorySplit(images, labels, [str(i) for i in range(size)]))
    return Data("stripes", *parts, ("flat", "upright", "leaning"), PREPROCESSING, DataReport(), f"stripes-{train_size}")


class Listed(Dataset):
    """The same samples as a plain dataset, without tensors that could be indexed at once."""

    def __init__(self, split: MemorySplit) -> None:
        self.samples = [split[i] for i in range(len(split))]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        return self.samples[index]


def convnet(*, norm: bool = True) -> nn.Module:
    torch.manual_seed(0)
    middle = [nn.BatchNorm2d(8)] if norm else []
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, 2, 1),
        *middle,
        nn.ReLU(),
        nn.Dropout(0.1) if norm else nn.Identity(),
        nn.Flatten(),
        nn.Linear(128, 3),
    )


def digest(model: nn.Module) -> str:
    sha = hashlib.sha256()
    for name, value in model.state_dict().items():
        sha.update(name.encode() + value.contiguous().numpy().tobytes())
    return sha.hexdigest()


class Wander(Callback):
    """Draws random numbers and keeps a state: would show any gap in a resume."""

    def __init__(self) -> None:
        self.total = 0.0

    def on_step_start(self, state: State) -> None:
        self.total += float(torch.rand(())) + float(np.random.rand())

    def state_dict(self) -> dict[str, Any]:
        return {"total": self.total}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.total = state["total"]


class KillAt(Wander):
    """Sends this process a signal in the middle of a step, once."""

    def __init__(self, step: int, marker: Path, number: int = signal.SIGKILL) -> None:
        super().__init__()
        self.step, self.marker, self.number = step, marker, number

    def on_step_start(self, state: State) -> None:
        super().on_step_start(state)
        if state.step == self.step and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), self.number)


RESUMABLE = PLAIN.with_(epochs=4, augment="shift", mixup=0.2, ema=0.9, accumulate=2, batch_size=24)


def resumable(out: Path | None, callback: Callback) -> Any:
    """A training with everything that has a state; a checkpoint after every step."""
    return train(
        convnet(),
        data(),
        recipe=RESUMABLE,
        out=out,
        callbacks=[callback],
        choose="best",
        checkpoint_seconds=0.0,
        progress=False,
    )


def candidate(job: dict[str, Any]) -> dict[str, Any]:
    """A job for the engines: one short training; kills its own process on the first attempt if told so."""
    marker = Path(job["marker"]) if job.get("marker") else None
    if marker is not None and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    recipe = PLAIN.with_(epochs=1, seed=job["seed"], threads=2)
    trained = train(convnet(), data(), recipe=recipe, progress=False)
    return {"seed": job["seed"], "digest": digest(trained.model), "metric": trained.metric, "pid": os.getpid()}


def refuse(job: dict[str, Any]) -> dict[str, Any]:
    return {"never": train(convnet(), data(), recipe=PLAIN.with_(epochs=0))}


class Rotated:
    """A task of the tests' own: subclasses give `steps`; samples pass through as they are."""

    name = "toy"
    metric = Metric("nearness", higher_is_better=True)

    def read(self, source: Any, **options: Any) -> Data:
        return source

    def steps(self, *, teacher: nn.Module | None = None, **options: Any) -> list[Step]:
        raise NotImplementedError

    def prepare(self, batch: Any, preprocessing: Preprocessing, *, augment: Any = None) -> Any:
        return batch[0].float() / 128 - 1, batch[1]

    def predictions(self, outputs: Any) -> np.ndarray:
        return outputs[0].argmax(-1)

    def score(self, predictions: np.ndarray, targets: np.ndarray) -> float:
        return float((predictions == targets).mean())

    def interval(self, predictions: np.ndarray, targets: np.ndarray) -> tuple[float, float]:
        return (0.0, 1.0)
