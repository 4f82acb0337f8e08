"""Judging and using a model: in PyTorch, or as the artifact that ships, through its runtime."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hollowbone.errors import UserError
from hollowbone.runtime.base import Artifact
from hollowbone.tasks import get_task
from hollowbone.tasks.base import SPLITS, Data, Metric, Preprocessing, Task
from hollowbone.train.order import fetch

Outputs = Callable[[Tensor], list[np.ndarray]]
"""From a prepared batch to the model's outputs."""


@dataclass(frozen=True)
class Evaluation:
    """The metric of a model on a split: `value` and its 95% `interval` (fractions), over `n` samples."""

    metric: Metric
    value: float
    interval: tuple[float, float]
    n: int
    split: str
    predictions: np.ndarray = field(repr=False)
    targets: np.ndarray = field(repr=False)

    def __str__(self) -> str:
        low, high = map(self.metric.format, self.interval)
        value = self.metric.format(self.value)
        return f"{self.metric.name} {value} (95% interval {low} to {high}) on {self.split}, {self.n} samples"

    def _repr_html_(self) -> str:
        return f"<p>{escape(str(self))}</p>"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, without the predictions."""
        return {
            "metric": self.metric.name,
            "value": self.value,
            "interval": list(self.interval),
            "n": self.n,
            "split": self.split,
        }


def evaluate(
    model: nn.Module | Artifact,
    data: Data,
    split: str = "report",
    *,
    task: str | Task = "classification",
    preprocessing: Preprocessing | None = None,
    threads: int = 1,
    batch_size: int = 256,
) -> Evaluation:
    """The metric of a network, or of an exported file in its own runtime, on a split of the data.

    `preprocessing` is the artifact's own, else the data's, unless given. Raises `UserError` for a split that does not exist
    or holds nothing.
    """
    if split not in SPLITS:
        raise UserError(f"a split is one of {', '.join(SPLITS)}, not {split!r}")
    task = get_task(task) if isinstance(task, str) else task
    if not len(data.split(split)):  # type: ignore[arg-type]
        raise UserError(f"the {split} split of {data.name} is empty")
    shown = preprocessing or preprocessing_of(model) or data.preprocessing
    with _opened(model, threads) as outputs:
        predictions, targets = _judged(outputs, data.split(split), task, shown, batch_size)
    interval = task.interval(predictions, targets)
    return Evaluation(task.metric, task.score(predictions, targets), interval, len(targets), split, predictions, targets)


def predict(
    model: nn.Module | Artifact,
    inputs: Any,
    *,
    task: str | Task = "classification",
    preprocessing: Preprocessing | None = None,
    threads: int = 1,
    batch_size: int = 256,
) -> np.ndarray:
    """The task's predictions for samples: an array or tensor (N, C, H, W) of uint8, or paths of pictures.

    Pictures are decoded by the task. `preprocessing` is needed unless an artifact brings its own. Raises `UserError` for
    an input that cannot be read.
    """
    task = get_task(task) if isinstance(task, str) else task
    shown = preprocessing or preprocessing_of(model)
    if shown is None:
        raise UserError("predict needs preprocessing= for a network; that of the data on which it was trained")
    samples = _samples(inputs, task, shown)
    with _opened(model, threads) as outputs:
        chunks = [
            outputs(task.prepare((chunk, torch.zeros(len(chunk), dtype=torch.long)), shown)[0])
            for chunk in (samples[i : i + batch_size] for i in range(0, len(samples), batch_size))
        ]
    return task.predictions(_joined(chunks))


def score(model: nn.Module, data: Data, split: str, task: Task, preprocessing: Preprocessing, batch_size: int = 256) -> float:
    """The metric alone, at the thread count that is set; for use during training."""
    with torch_outputs(model) as outputs:
        return task.score(*_judged(outputs, data.split(split), task, preprocessing, batch_size))


def preprocessing_of(model: Any) -> Preprocessing | None:
    """What an artifact says about its inputs."""
    said = model.metadata.get("hollowbone.preprocessing") if isinstance(model, Artifact) else None
    return Preprocessing.from_dict(json.loads(said)) if said else None


@contextmanager
def torch_outputs(model: nn.Module) -> Iterator[Outputs]:
    """A network in evaluation mode, without gradients; its mode is given back afterwards."""
    device = next((t.device for t in [*model.parameters(), *model.buffers()]), torch.device("cpu"))
    modes = {module: module.training for module in model.modules()}

    def outputs(x: Tensor) -> list[np.ndarray]:
        found = model(x.to(device))
        return [t.detach().float().cpu().numpy() for t in _listed(found)]

    model.eval()
    try:
        with torch.no_grad():
            yield outputs
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def _opened(model: nn.Module | Artifact, threads: int) -> Iterator[Outputs]:
    if threads < 1:
        raise UserError(f"threads must be 1 or more, not {threads}")
    if isinstance(model, nn.Module):
        kept = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            with torch_outputs(model) as outputs:
                yield outputs
        finally:
            torch.set_num_threads(kept)
    elif isinstance(model, Artifact):
        from hollowbone.runtime import load

        session = load(model, threads)
        yield lambda x: _in_batches(session, x.numpy(), model.inputs[0].shape[0])
    else:
        raise UserError(f"a torch.nn.Module or an Artifact can be evaluated, not {type(model).__name__}")


def _in_batches(session: Any, x: np.ndarray, size: int | None) -> list[np.ndarray]:
    """Run an artifact whose batch is open (`size` None) or fixed; a last part is filled up with its own first sample."""
    if size is None:
        return session(x)
    chunks = []
    for part in (x[i : i + size] for i in range(0, len(x), size)):
        full = part if len(part) == size else np.concatenate([part, np.repeat(part[:1], size - len(part), axis=0)])
        chunks.append([output[: len(part)] for output in session(full)])
    return _joined(chunks)


def _judged(outputs: Outputs, split: Any, task: Task, preprocessing: Preprocessing, size: int) -> tuple[np.ndarray, np.ndarray]:
    chunks, targets = [], []
    for batch in fetch(split, list(torch.arange(len(split)).split(size))):
        x, target = task.prepare(batch, preprocessing)
        chunks.append(outputs(x))
        targets.append(target.numpy())
    return task.predictions(_joined(chunks)), np.concatenate(targets)


def _listed(found: Any) -> list[Tensor]:
    if isinstance(found, Tensor):
        return [found]
    return [t for part in (found.values() if isinstance(found, dict) else found) for t in _listed(part)]


def _joined(chunks: Sequence[list[np.ndarray]]) -> list[np.ndarray]:
    return [np.concatenate(parts) for parts in zip(*chunks, strict=True)]


def _samples(inputs: Any, task: Task, preprocessing: Preprocessing) -> Tensor:
    if isinstance(inputs, str | Path):
        inputs = [inputs]
    if isinstance(inputs, Sequence) and inputs and all(isinstance(i, str | Path) for i in inputs):
        decode = getattr(task, "decode", None)
        if decode is None:
            raise UserError(f"the task {task.name} reads no files; pass an array of samples")
        return torch.stack([torch.as_tensor(decode(path, preprocessing)) for path in inputs])
    samples = torch.as_tensor(np.asarray(inputs) if not isinstance(inputs, Tensor) else inputs)
    if samples.ndim < 2 or len(samples) == 0:
        raise UserError(f"predict takes paths or an array of samples (N, ...), not shape {tuple(samples.shape)}")
    return samples
