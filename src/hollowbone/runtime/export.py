"""The verb `export`: write a network in a format, run the file beside PyTorch on real inputs, keep it if they agree."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hollowbone.errors import HollowboneError, UserError, unknown
from hollowbone.runtime.base import Artifact, Example, Verification
from hollowbone.runtime.session import LocalSession

if TYPE_CHECKING:
    from torch import nn

    from hollowbone.runtime.trace import Flattened

FORMATS: dict[str, str] = {
    "onnx": "onnx",
    "executorch": "executorch",
    "coreml": "coreml",
    "torch.export": "torch_export",
    "pt2": "torch_export",
}
"""The formats by name, and the module of this package that writes each; `pt2` is short for `torch.export`."""

TOLERANCE = 1e-4
"""Largest max|a-b| / max(1, max|b|) at which a float32 export passes: reordered sums differ by this much in deep networks."""


class ExportMismatch(HollowboneError):
    """The exported file computes something else than the network; nothing was kept."""


def format_module(name: str) -> Any:
    """The module that writes and loads a format; `UserError` names the known ones."""
    if name not in FORMATS:
        raise unknown("format", name, FORMATS)
    return import_module(f"hollowbone.runtime.{FORMATS[name]}")


def export(
    model: nn.Module,
    example: Example,
    path: str | Path,
    *,
    format: str = "onnx",
    metadata: Mapping[str, str] | None = None,
    samples: Sequence[Sequence[Any]] | None = None,
    tolerance: float | None = None,
    verify: bool = True,
) -> Artifact:
    """Write `model` (evaluation mode, float32, CPU) to `path`, checked against PyTorch on the example and on `samples`.

    A sample is a list of tensors or arrays in the order of the example's tensors. What does not agree within `tolerance`
    raises `ExportMismatch`, and whatever lay at `path` before is still there. Formats that cannot be run here come back
    with `verified` None and a note. Raises `UserError` for an unknown format, a path with another ending, an example that
    the network does not accept, a network that the format cannot express, and an unwritable path.
    """
    from hollowbone.runtime import trace

    module = format_module(format)
    path = Path(path)
    if path.suffix != module.SUFFIX:
        raise UserError(f"a file in the format {format} ends in {module.SUFFIX}, not {path.name!r}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{path.stem}-", dir=path.parent))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    try:
        artifact = module.export(model, example, scratch / path.name, metadata=metadata)
        if verify and not artifact.note:
            flat = trace.flatten(model, example)
            result = _compare(artifact, flat, [flat.tensors, *(samples or ())], tolerance)
            if not result.passed:
                raise ExportMismatch(
                    f"the {format} export of {type(model).__name__} differs from PyTorch by {result.error:.2g} "
                    f"(tolerance {result.tolerance:g}, {result.samples} inputs); nothing was written to {path}"
                )
            artifact = replace(artifact, verified=result)
        for made in sorted(scratch.iterdir()):
            _move(made, path.parent / made.name)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return replace(artifact, path=path, note=artifact.note or ("" if verify else "not verified"))


def verify(
    artifact: Artifact,
    model: nn.Module,
    inputs: Sequence[Sequence[Any]],
    *,
    example: Example | None = None,
    tolerance: float | None = None,
) -> Verification:
    """Run the file and the network (a copy: evaluation mode, CPU) on `inputs` and compare all outputs.

    One of `inputs` is a list of tensors or arrays; `example` says how the network is called where that is not `model(*one)`.
    """
    import torch

    from hollowbone.runtime import trace

    if not inputs:
        raise UserError("there is nothing to verify on: give at least one input")
    example = example or Example(args=tuple(torch.as_tensor(x) for x in inputs[0]))
    return _compare(artifact, trace.flatten(model, example), inputs, tolerance)


def _compare(artifact: Artifact, flat: Flattened, inputs: Sequence[Sequence[Any]], tolerance: float | None) -> Verification:
    import torch

    from hollowbone.runtime import trace

    session = LocalSession(artifact)
    error = 0.0
    for one in inputs:
        tensors = [torch.as_tensor(x) for x in one]
        found = session(*trace.as_arrays(tensors))
        with torch.no_grad():
            expected = trace.as_arrays(flat.module(*tensors))
        error = max(error, difference(found, expected), key=_nan_last)
    return Verification(error, TOLERANCE if tolerance is None else tolerance, len(inputs))


def difference(found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
    """max|a-b| / max(1, max|b|) over the worst output; infinite where shapes differ, NaN where a NaN has no partner."""
    if [a.shape for a in found] != [b.shape for b in expected]:
        return float("inf")
    errors = [0.0]
    for a, b in zip(found, expected, strict=True):
        a, b = a.astype(np.float64), b.astype(np.float64)
        same = (a == b) | (np.isnan(a) & np.isnan(b))  # equal infinities and NaN on both sides are no difference
        if not same.all():
            scale = max(1.0, float(np.abs(b[np.isfinite(b)]).max(initial=0.0)))
            errors.append(float(np.abs(a - b)[~same].max()) / scale)
    return max(errors, key=_nan_last)


def _nan_last(error: float) -> float:
    """NaN is worse than any number: `max` alone would lose it."""
    return float("inf") if np.isnan(error) else error


def _move(source: Path, target: Path) -> None:
    try:
        if target.is_dir():
            shutil.rmtree(target)
        source.replace(target)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}") from error


def open_artifact(path: str | Path) -> Artifact:
    """The artifact of a file, with the specs and metadata that it holds; `UserError` if its format is not known."""
    path = Path(path)
    for name in FORMATS:
        module = format_module(name)
        if path.suffix == module.SUFFIX:
            return module.open_file(path)
    endings = ", ".join(dict.fromkeys(format_module(name).SUFFIX for name in FORMATS))
    raise UserError(f"{path} is no artifact: its name must end in one of {endings}")


def load(artifact: Artifact | str | Path, threads: int = 1) -> LocalSession:
    """An artifact or file in its runtime, ready to be called.

    Raises `UserError` for a file that its runtime refuses and for `.pt2` archives, `NotMeasurable` for a format that does not
    run here.
    """
    opened = artifact if isinstance(artifact, Artifact) else open_artifact(artifact)
    return format_module(opened.format).load(opened, threads)
