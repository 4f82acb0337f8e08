"""What training holds: the request (`Training`), what callbacks see (`State`), and what comes out (`Trained`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import nn
from torch.optim import Optimizer

from hollowbone.tasks.base import Data, Preprocessing, Task
from hollowbone.train.recipe import Callback, Recipe

if TYPE_CHECKING:
    from rich.progress import Progress

    from hollowbone.train.ema import Average


@dataclass(frozen=True)
class Training:
    """Everything that `train` was asked for, checked; it can be sent to another process."""

    model: nn.Module
    data: Data
    task: Task
    recipe: Recipe
    preprocessing: Preprocessing
    teacher: nn.Module | None = None
    callbacks: Sequence[Callback] = ()
    out: Path | None = None
    resume: bool = True
    progress: Progress | bool | None = None
    select_every: int = 1
    choose: Literal["last", "best"] = "last"
    checkpoint_seconds: float = 20.0
    tensorboard: bool = False


@dataclass
class State:
    """What a callback sees and may change (the model's attributes and weights, an optimiser's options).

    `step` counts optimiser steps from 0, `epoch` epochs from 0; `logs` are the figures of the last step, or in
    `on_epoch_end` the epoch's means. `optimizers` has one entry for each Step of the task, None where the Step has an
    `update` of its own.
    """

    model: nn.Module
    optimizers: list[Optimizer | None]
    recipe: Recipe
    task: Task
    total_steps: int
    steps_per_epoch: int
    step: int = 0
    epoch: int = 0
    logs: dict[str, float] = field(default_factory=dict)
    ema: Average | None = None


@dataclass(repr=False)
class Trained:
    """A finished training. `metric` is that of `chosen` on *select*.

    `history` has one dictionary an epoch: epoch, step, lr, the means of the losses, metric where it was evaluated, and
    `restores` where the NaN guard went back. Times are not in it: it is the same in every repetition. `seconds` is
    wall-clock spent in training, over all resumes.
    """

    model: nn.Module
    history: list[dict[str, Any]]
    metric: float
    steps: int
    seconds: float
    ema_model: nn.Module | None = None

    @property
    def chosen(self) -> nn.Module:
        """The network to use: the weight average where there is one, else the trained network."""
        return self.model if self.ema_model is None else self.ema_model

    def __repr__(self) -> str:
        averaged = ", averaged weights" if self.ema_model is not None else ""
        return f"Trained(metric={self.metric:.4g} on select, {self.steps} steps in {self.seconds:.1f} s{averaged})"

    def _repr_html_(self) -> str:
        columns = list(dict.fromkeys(key for entry in self.history for key in entry))
        head = "".join(f"<th>{escape(key)}</th>" for key in columns)
        rows = (
            "".join(f"<td>{value:.4g}</td>" if (value := entry.get(key)) is not None else "<td></td>" for key in columns)
            for entry in self.history
        )
        body = "".join(f"<tr>{row}</tr>" for row in rows)
        return f"<p>{escape(repr(self))}</p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
