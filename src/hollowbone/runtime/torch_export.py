"""torch.export: a `.pt2` archive, written for those who go on with PyTorch's compilers. Never loaded from a user's file."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from hollowbone import files
from hollowbone.errors import UserError
from hollowbone.runtime import description
from hollowbone.runtime.base import Artifact, Example, TensorSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

SUFFIX = ".pt2"
NOTE = "not verified, not timed here: written only, for its loader can execute code"
_EXTRA = "hollowbone.json"


def export(model: nn.Module, example: Example, path: str | Path, *, metadata: Mapping[str, str] | None = None) -> Artifact:
    """Write `model` in evaluation mode as a `torch.export` archive that takes the example's tensors, axes open as it says.

    Specs and metadata are stored inside. Raises `UserError` for an example that does not fit or an unwritable path.
    """
    import torch

    from hollowbone.runtime import trace

    flat = trace.flatten(model, example)
    path = Path(path)
    with trace.exporting(model, "torch.export"), torch.no_grad():
        program = torch.export.export(flat.module, flat.trace_tensors, dynamic_shapes=(flat.dynamic_shapes(),))
    values = {node.name: node.meta["val"] for node in program.graph.nodes if "val" in node.meta}
    inputs = _specs(flat.input_names, [values[name] for name in program.graph_signature.user_inputs])
    outputs = _specs(flat.output_names, [values[name] for name in program.graph_signature.user_outputs])
    artifact = Artifact(path, "torch.export", inputs, outputs, dict(metadata or {}), note=NOTE)
    with trace.quiet(), files.replacing(path) as temporary, open(temporary, "wb") as handle:
        torch.export.save(program, handle, extra_files={_EXTRA: json.dumps(description.to_dict(artifact))})
    return artifact


def _specs(names: Sequence[str], values: Sequence[Tensor]) -> tuple[TensorSpec, ...]:
    """Specs of symbolic tensors: a length that is no plain integer is open."""
    return tuple(
        TensorSpec(name, tuple(n if type(n) is int else None for n in value.shape), str(value.dtype).removeprefix("torch."))
        for name, value in zip(names, values, strict=True)
    )


def load(artifact: Artifact | str | Path, threads: int = 1) -> NoReturn:
    """Refused with the reason, always."""
    path = artifact.path if isinstance(artifact, Artifact) else artifact
    raise UserError(
        f"{path} is not loaded: the loader of .pt2 archives can execute code that is in the file; "
        "export the network as onnx or executorch to run it here, or load the file with torch.export.load if you trust it"
    )


def open_file(path: str | Path) -> Artifact:
    """Specs and metadata, read from the archive as data; `UserError` if it is none of ours."""
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(n for n in archive.namelist() if n.endswith(f"/{_EXTRA}"))
            value = json.loads(archive.read(name))
        return description.from_dict(path, value, note=NOTE)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except (zipfile.BadZipFile, StopIteration, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a .pt2 archive written by hollowbone") from error
