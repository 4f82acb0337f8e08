"""What a training run is told: one frozen dataclass of plain JSON values, and the callbacks that act during training."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from hollowbone.tasks.base import Augment

if TYPE_CHECKING:
    from hollowbone.train.trainer import State


@dataclass(frozen=True)
class Recipe:
    """How to train. Names are the field's; rates are for the batch size given; times are epochs, never seconds.

    `precision` is 32-true, bf16-mixed or 16-mixed. `ema` is the decay of the weight average (0: none), warmed up as
    min(ema, (1+t)/(10+t)). `randaugment` is (operations, magnitude), (0, 0) for none. `augment` names a preset of the task's
    geometric augmentation ("none", "shift", "flip_shift"). `clip_grad` limits the norm of the whole gradient, `agc` clips
    adaptively, unit by unit (0: not at all). One optimiser step is `accumulate` batches. `distill` weighs the teacher's hard
    (`tau` = 0) or soft (`tau` > 0) labels against the true ones.
    """

    epochs: int = 30
    batch_size: int = 64
    lr: float = 2e-3
    optimizer: str = "adamw"
    weight_decay: float = 0.025
    momentum: float = 0.9
    schedule: str = "cosine"
    warmup_epochs: float = 1.0
    min_lr: float = 1e-5
    label_smoothing: float = 0.1
    mixup: float = 0.0
    cutmix: float = 0.0
    randaugment: tuple[int, int] = (0, 0)
    random_erasing: float = 0.0
    augment: str = "shift"
    ema: float = 0.0
    clip_grad: float = 0.0
    agc: float = 0.0
    precision: str = "32-true"
    accumulate: int = 1
    distill: float = 0.5
    tau: float = 1.0
    seed: int = 0
    threads: int = 2

    @property
    def augmentation(self) -> Augment:
        """The part of the recipe that the task's `prepare` carries out."""
        return Augment(self.augment, self.mixup, self.cutmix, self.randaugment, self.random_erasing)

    def with_(self, **changes: Any) -> Recipe:
        """A copy with some entries replaced."""
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


class Callback:
    """Acts during training; every method may be left out. Its `state_dict` is in the checkpoint, so resume is exact."""

    def on_start(self, state: State) -> None:
        """Before the first step (also after a resume)."""

    def on_step_start(self, state: State) -> None:
        """Before each optimiser step; `state.step` counts optimiser steps from 0."""

    def on_step_end(self, state: State) -> None:
        """After each optimiser step."""

    def on_epoch_end(self, state: State) -> None:
        """After each epoch, before the evaluation on *select*."""

    def on_end(self, state: State) -> None:
        """After the last step; again when a finished training is resumed. What it does is not in the checkpoint."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values that a resume needs."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
