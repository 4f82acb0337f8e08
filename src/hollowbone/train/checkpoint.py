"""The training's checkpoint: one file that is old or new, read without executing anything, refused if it is another's."""

from __future__ import annotations

import hashlib
import io
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hollowbone.errors import UserError
from hollowbone.files import write_bytes
from hollowbone.train.state import Training

NAME, LOG, WEIGHTS = "checkpoint.pt", "log.csv", "weights.safetensors"
"""The files that a training leaves in its folder."""
VERSION = 1


def structure(model: nn.Module) -> str:
    """Digest of the names, shapes and types in a model's state; the values are not in it."""
    lines = [f"{k} {tuple(v.shape)} {v.dtype}" for k, v in sorted(model.state_dict().items())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def contents(model: nn.Module | None) -> str | None:
    """Digest of a model's state with its values, None for none."""
    if model is None:
        return None
    sha = hashlib.sha256(structure(model).encode())
    for _, value in sorted(model.state_dict().items()):
        sha.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def identity(training: Training, world: int) -> dict[str, Any]:
    """What must be the same for a checkpoint to be this training's, in words that a sentence can use."""
    recipe = {f"recipe.{k}": list(v) if isinstance(v, tuple) else v for k, v in training.recipe.to_dict().items()}
    return recipe | {
        "task": training.task.name,
        "data": training.data.digest,
        "model": structure(training.model),
        "teacher": contents(training.teacher),
        "preprocessing": training.preprocessing.to_dict(),
        "callbacks": [type(callback).__qualname__ for callback in training.callbacks],
        "select_every": training.select_every,
        "choose": training.choose,
        "devices": world,
    }


def write(out: Path, who: dict[str, Any], state: dict[str, Any]) -> None:
    """Write the checkpoint atomically; `UserError` if the disk is full or the folder not writable (the old one stays)."""
    buffer = io.BytesIO()  # for torch.save reports a full disk as a RuntimeError without a reason
    torch.save({"version": VERSION, "identity": who, "state": state}, buffer)
    write_bytes(out / NAME, buffer.getvalue())


def read(out: Path, who: dict[str, Any]) -> dict[str, Any] | None:
    """The state in the folder's checkpoint, None if there is none; `UserError` if it is unreadable or another training's."""
    path = out / NAME
    remove_torn(out)
    if not path.exists():
        return None
    hint = "remove it, give another folder, or pass resume=False"
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
        version, earlier, state = found["version"], found["identity"], found["state"]
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise UserError(f"{path} is not a readable checkpoint of a training ({type(error).__name__}); {hint}") from error
    if version != VERSION:
        raise UserError(f"{path} is of checkpoint version {version}, this hollowbone reads {VERSION}; {hint}")
    differing = [k for k in who if earlier.get(k) != who[k]]
    if differing:
        said = ", ".join(_said(k, earlier.get(k), who[k]) for k in differing)
        raise UserError(f"{path} is of another training ({said}); {hint}")
    return state


def remove_torn(out: Path) -> None:
    """Remove what a killed process left half written."""
    for torn in (path for name in (NAME, LOG, WEIGHTS) for path in out.glob(f".{name}.*.tmp")):
        torn.unlink(missing_ok=True)


def _said(key: str, there: Any, here: Any) -> str:
    if key in ("data", "model", "teacher"):
        return f"another {key}"
    return f"{key.removeprefix('recipe.')} {there!r} there and {here!r} here"
