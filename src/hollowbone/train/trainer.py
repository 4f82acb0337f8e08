"""Plain training: the Steps of a task, on any module and any data, exactly resumable."""

from __future__ import annotations

import copy
import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from hollowbone.errors import UserError, unknown
from hollowbone.tasks import get_task
from hollowbone.tasks.base import Data, Preprocessing, Task
from hollowbone.train.fabric import PRECISIONS, Runner, launch, starts_processes
from hollowbone.train.loop import Loop
from hollowbone.train.optim import SCHEDULES
from hollowbone.train.recipe import Callback, Recipe
from hollowbone.train.state import State, Trained, Training

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["State", "Trained", "train"]


def train(
    model: nn.Module,
    data: Data,
    *,
    task: str | Task = "classification",
    recipe: Recipe | None = None,
    preprocessing: Preprocessing | None = None,
    teacher: nn.Module | None = None,
    callbacks: Sequence[Callback] = (),
    out: str | Path | None = None,
    resume: bool = True,
    devices: int = 1,
    progress: Progress | bool | None = None,
    select_every: int = 1,
    choose: Literal["last", "best"] = "last",
    checkpoint_seconds: float = 20.0,
    tensorboard: bool = False,
) -> Trained:
    """Train `model` in place on the train split and return it with its metric on *select*.

    `preprocessing` is the data's unless given; `teacher` is for distillation. With a folder `out`, a checkpoint is written
    every `checkpoint_seconds` and a row of `log.csv` every epoch; the same call resumes from it (unless `resume` is False)
    and ends with the same bits as one that was never interrupted, on the same machine. Ctrl-C writes a checkpoint and
    raises `KeyboardInterrupt`. *select* is evaluated every `select_every` epochs (0: only after the last); `choose="best"`
    returns the weights of the best of these epochs. `devices` > 1 trains data-parallel in as many processes, as does
    torchrun; a batch is then shared out, so the recipe keeps its meaning. A last batch of fewer than two samples a device
    is dropped. Raises `UserError` for values out of range, for a checkpoint that is unreadable or of another training, for
    a folder that cannot be written, and when training diverges in spite of the NaN guard.
    """
    recipe = recipe or Recipe()
    _check(recipe, devices=devices, select_every=select_every, choose=choose, model=model)
    training = Training(
        model=model,
        data=data,
        task=get_task(task) if isinstance(task, str) else task,
        recipe=recipe,
        preprocessing=preprocessing or data.preprocessing,
        teacher=teacher,
        callbacks=tuple(callbacks),
        out=Path(out) if out is not None else None,
        resume=resume,
        progress=progress,
        select_every=select_every,
        choose=choose,
        checkpoint_seconds=checkpoint_seconds,
        tensorboard=tensorboard,
    )
    if not starts_processes(devices):
        return launch(partial(_run, training), devices=devices, precision=recipe.precision)
    # A display cannot be sent to another process; the first one shows its own.
    elsewhere = Training(**{**vars(training), "progress": None if progress is not False else False})
    return _unpacked(launch(partial(_run_packed, elsewhere), devices=devices, precision=recipe.precision), training)


def _run(training: Training, runner: Runner) -> Trained:
    return Loop(training, runner).run()


def _run_packed(training: Training, runner: Runner) -> bytes:
    """The result as bytes, for tensors sent between processes live only as long as both."""
    for tensor in (*training.model.parameters(), *training.model.buffers()):
        tensor.data = tensor.data.clone()  # what was sent lies in memory that all the processes share
    trained = _run(training, runner)
    buffer = io.BytesIO()
    ema = None if trained.ema_model is None else trained.ema_model.state_dict()
    plain = {name: getattr(trained, name) for name in ("history", "metric", "steps", "seconds")}
    callbacks = [callback.state_dict() for callback in training.callbacks]
    torch.save({"model": trained.model.state_dict(), "ema": ema, "callbacks": callbacks, **plain}, buffer)
    return buffer.getvalue()


def _unpacked(packed: bytes, training: Training) -> Trained:
    result: dict[str, Any] = torch.load(io.BytesIO(packed), map_location="cpu", weights_only=True)
    training.model.load_state_dict(result.pop("model"))
    for callback, state in zip(training.callbacks, result.pop("callbacks"), strict=True):
        callback.load_state_dict(state)
    averaged = None
    if (ema := result.pop("ema")) is not None:
        averaged = copy.deepcopy(training.model).eval()
        averaged.load_state_dict(ema)
    return Trained(training.model, **result, ema_model=averaged)


def _check(recipe: Recipe, *, devices: int, select_every: int, choose: str, model: nn.Module) -> None:
    """The door: every figure of the recipe that the trainer itself uses."""
    for name in ("epochs", "batch_size", "accumulate", "threads"):
        if getattr(recipe, name) < 1:
            raise UserError(f"{name} must be 1 or more, not {getattr(recipe, name)}")
    if not 0 < recipe.lr < float("inf"):
        raise UserError(f"lr must be above 0, not {recipe.lr}")
    for name in ("weight_decay", "momentum", "warmup_epochs", "min_lr", "clip_grad", "agc"):
        if not getattr(recipe, name) >= 0:
            raise UserError(f"{name} must be 0 or more, not {getattr(recipe, name)}")
    if not 0 <= recipe.ema < 1:
        raise UserError(f"ema is a decay of at least 0 (no average) and below 1, not {recipe.ema}")
    if recipe.schedule not in SCHEDULES:
        raise unknown("schedule", recipe.schedule, SCHEDULES)
    if recipe.precision not in PRECISIONS:
        raise unknown("precision", recipe.precision, PRECISIONS)
    if devices < 1:
        raise UserError(f"devices must be 1 or more, not {devices}")
    if select_every < 0:
        raise UserError(f"select_every must be 0 (after the last epoch alone) or more, not {select_every}")
    if choose not in ("last", "best"):
        raise UserError(f"choose is 'last' or 'best', not {choose!r}")
    if not isinstance(model, nn.Module):
        raise UserError(f"train needs a torch.nn.Module, not {type(model).__name__}")
