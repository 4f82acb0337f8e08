"""ExecuTorch: a `.pte` program lowered to XNNPACK, run by executorch's own Python runtime. Shapes are those of the example.

A `.pte` file has no place for metadata: specs and metadata lie beside it in `NAME.pte.json`, which is not counted as shipped
bytes, since the program runs without it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from hollowbone import files
from hollowbone.errors import NotMeasurable, UserError
from hollowbone.runtime import description
from hollowbone.runtime.base import Artifact, Example
from hollowbone.runtime.session import LocalSession

if TYPE_CHECKING:
    from torch import nn

SUFFIX = ".pte"


def export(model: nn.Module, example: Example, path: str | Path, *, metadata: Mapping[str, str] | None = None) -> Artifact:
    """Write `model` in evaluation mode as an ExecuTorch program with the weights inside.

    Open axes of the example are fixed to its lengths: a program plans its memory ahead. Raises `UserError` for an example that
    does not fit, an operator that cannot be lowered, or an unwritable path; `NotMeasurable` without executorch.
    """
    import torch

    from hollowbone.runtime import trace

    try:
        with trace.quiet():
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
            from executorch.exir import to_edge_transform_and_lower
    except ImportError as error:
        raise NotMeasurable("executorch is not installed; install it with: pip install 'hollowbone[executorch]'") from error
    flat = trace.flatten(model, example)
    with trace.exporting(model, "executorch"), torch.no_grad():
        program = torch.export.export(flat.module, flat.tensors)
        lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch()
    inputs, outputs = flat.fixed_specs()
    path = Path(path)
    artifact = Artifact(path, "executorch", inputs, outputs, dict(metadata or {}))
    files.write_json(sidecar(path), description.to_dict(artifact))
    files.write_bytes(path, lowered.buffer)
    return artifact


def sidecar(path: Path) -> Path:
    """Where the specs and metadata of a program lie."""
    return path.with_name(path.name + ".json")


def load(artifact: Artifact | str | Path, threads: int = 1) -> LocalSession:
    """Load an artifact or a file for running. The thread pool is the process's: the last `threads` holds for all programs."""
    return LocalSession(artifact if isinstance(artifact, Artifact) else open_file(artifact), threads)


def open_file(path: str | Path) -> Artifact:
    """Specs and metadata of a program, from the file beside it; `UserError` if either is missing or is none."""
    path = Path(path)
    beside = sidecar(path)
    try:
        with open(path, "rb") as handle:
            head = handle.read(8)
        artifact = description.from_dict(path, json.loads(beside.read_text(encoding="utf-8")))
    except OSError as error:
        raise UserError(f"cannot read {error.filename or path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{beside} does not describe an ExecuTorch program") from error
    if head[4:6] != b"ET":  # the flatbuffer identifier is ET and a version
        raise UserError(f"{path} is not an ExecuTorch program")
    return artifact
