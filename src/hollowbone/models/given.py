"""A model as a person names it on the command line: catalogue name, checkpoint, hub id, own Python file, exported artifact."""

from __future__ import annotations

import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import overload

import torch
from torch import nn

from hollowbone.errors import UserError
from hollowbone.models.base import ModelCard
from hollowbone.models.checkpoint import load_checkpoint
from hollowbone.models.create import create_model
from hollowbone.runtime.base import Artifact, Example

SUFFIXES = {".onnx": "onnx", ".pte": "executorch", ".mlpackage": "coreml"}
"""What a path ends in, and the format that it then is. `.pt2` is not among them: reading one can execute code."""


def artifact_at(given: str) -> Artifact | None:
    """The exported artifact at a path, None if `given` does not look like one; `UserError` if it is unreadable."""
    path = Path(given)
    if path.suffix == ".pt2":
        raise UserError(f"{given}: hollowbone writes .pt2 files and does not load them, since loading one can execute code")
    if path.suffix not in SUFFIXES or "@" in given:
        return None
    if not path.exists():
        raise UserError(f"there is no file {given}")
    from hollowbone.runtime.export import open_artifact

    return open_artifact(path)


def network(given: str, *, num_classes: int | None = None, in_chans: int | None = None) -> nn.Module:
    """The network of that name, with the sizes that the data decide.

    `FILE.py:FUNCTION[@CHECKPOINT]` executes the user's file and calls the function, with the sizes that are given as
    arguments; nothing else executes anything. Raises `UserError` where there is no such network.
    """
    if match := re.fullmatch(r"(.+\.py):([A-Za-z_]\w*)(?:@(.+))?", given):
        sizes = {"num_classes": num_classes, "in_chans": in_chans}
        made = _built_by(Path(match[1]), match[2], {k: v for k, v in sizes.items() if v is not None})
        if match[3]:
            made.loaded = load_checkpoint(made, None, match[3])  # type: ignore[assignment]
        return made
    if Path(given).suffix in SUFFIXES and "@" not in given:
        raise UserError(
            f"{given} is an exported artifact, which can be measured, compared and evaluated, not trained or exported"
        )
    return create_model(given, num_classes=num_classes, in_chans=in_chans)


@overload
def example(given: str, subject: nn.Module, shape: str | None = None) -> Example: ...
@overload
def example(given: str, subject: nn.Module | Artifact, shape: str | None = None) -> Example | None: ...
def example(given: str, subject: nn.Module | Artifact, shape: str | None = None) -> Example | None:
    """Random inputs for a model named on the command line: of the shape given (`[B]xCxHxW`), else of its own.

    None for an artifact of several inputs, which `measure` feeds by its own specs. Raises `UserError` where no size is known.
    """
    if shape is not None:
        return _random(_parsed(shape))
    if isinstance(subject, Artifact):
        if len(subject.inputs) != 1:
            return None
        return _random([size or 1 for size in subject.inputs[0].shape])
    card = getattr(subject, "card", None)
    if isinstance(card, ModelCard):
        return card.example()
    raise UserError(f"the input size of {given} is not known; pass --input, as --input 3x224x224")


def _parsed(shape: str) -> list[int]:
    parts = shape.lower().split("x")
    if len(parts) not in (3, 4) or not all(p.isascii() and p.isdigit() and int(p) > 0 for p in parts):
        raise UserError(f"--input is CxHxW or BxCxHxW, as 3x224x224, not {shape!r}")
    sizes = [int(p) for p in parts]
    return sizes if len(sizes) == 4 else [1, *sizes]


def _random(shape: list[int]) -> Example:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return Example(args=(x,), dynamic={0: {0: "batch"}}, units=shape[0])


def _built_by(path: Path, name: str, sizes: dict[str, int]) -> nn.Module:
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    function = getattr(module, name, None)
    if not callable(function):
        raise UserError(f"{path} defines no function {name!r}")
    try:
        made = function(**sizes)
    except TypeError as error:
        raise UserError(f"{path}:{name} must take the arguments {', '.join(sizes) or '(none)'}: {error}") from error
    if not isinstance(made, nn.Module):
        raise UserError(f"{path}:{name} must return a torch.nn.Module, not {type(made).__name__}")
    return made
