"""CoreML: an `.mlpackage` for Apple's devices, converted by coremltools. Written here, run on a Mac or an iPhone only."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from hollowbone.errors import NotMeasurable, UserError
from hollowbone.runtime.base import Artifact, Example, TensorSpec

if TYPE_CHECKING:
    from torch import nn

SUFFIX = ".mlpackage"
NOTE = "not verified, not timed here"
_LARGEST = 1024  # CoreML wants a bound for an open axis


def export(model: nn.Module, example: Example, path: str | Path, *, metadata: Mapping[str, str] | None = None) -> Artifact:
    """Write `model` in evaluation mode as an ML program (iOS 16, macOS 13 and later) that computes in half precision.

    Open axes of the example take lengths from 1 to 1024. Raises `UserError` for an example that does not fit, an operator
    that coremltools lacks, or an unwritable path; `NotMeasurable` without coremltools.
    """
    import numpy as np
    import torch

    from hollowbone.runtime import trace

    ct = _coremltools()
    flat = trace.flatten(model, example)
    inputs = []
    for name, tensor, axes in zip(flat.input_names, flat.trace_tensors, flat.dynamic, strict=True):
        shape = [ct.RangeDim(1, _LARGEST, n) if i in axes else n for i, n in enumerate(tensor.shape)]
        inputs.append(ct.TensorType(name, shape=shape, dtype=np.float32 if tensor.is_floating_point() else np.int32))
    outputs = [
        ct.TensorType(n, dtype=np.float32) if t.is_floating_point() else ct.TensorType(n)
        for n, t in zip(flat.output_names, flat.outputs, strict=True)
    ]
    with trace.exporting(model, "coreml"), torch.no_grad():
        traced = torch.jit.trace(flat.module, flat.trace_tensors)
        package = ct.convert(
            traced,
            inputs=inputs,
            outputs=outputs,
            convert_to="mlprogram",
            minimum_deployment_target=ct.target.iOS16,
            skip_model_load=True,
        )
    package.user_defined_metadata.update(metadata or {})
    path = Path(path)
    _replace_folder(path, package.save)
    return open_file(path)


def _replace_folder(path: Path, save: Any) -> None:
    """Let `save` write a folder beside `path`, then put it in its place."""
    from hollowbone.runtime import trace

    temporary = path.with_name(f".{path.stem}.tmp{SUFFIX}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with trace.quiet():
            save(str(temporary))
        if path.exists():
            shutil.rmtree(path)
        temporary.rename(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def load(artifact: Artifact | str | Path, threads: int = 1) -> NoReturn:
    """Refused: CoreML runs on Apple's systems, and we have not tested it there."""
    path = artifact.path if isinstance(artifact, Artifact) else artifact
    raise NotMeasurable(
        f"{path} is a CoreML package, which hollowbone writes but does not run; open it with coremltools or Xcode on a Mac"
    )


def open_file(path: str | Path) -> Artifact:
    """Specs and metadata of a package; `UserError` if it is none."""
    path = Path(path)
    if not (path / "Manifest.json").is_file():
        raise UserError(f"{path} is not a CoreML package")
    try:
        description = _coremltools().models.utils.load_spec(str(path)).description
    except NotMeasurable:
        raise
    except Exception as error:  # a parser of foreign files may raise anything
        raise UserError(f"{path} is not a CoreML package that coremltools can read: {error}") from error
    return Artifact(
        path=path,
        format="coreml",
        inputs=tuple(_spec(feature) for feature in description.input),
        outputs=tuple(_spec(feature) for feature in description.output),
        metadata=dict(description.metadata.userDefined),
        note=NOTE,
    )


def _spec(feature: Any) -> TensorSpec:
    """Name, shape (None where a range was given) and type; outputs often have no shape in the file: it is left empty."""
    from coremltools.proto import FeatureTypes_pb2

    array = feature.type.multiArrayType
    shape: tuple[int | None, ...] = tuple(array.shape)
    ranges = array.shapeRange.sizeRanges
    if ranges:
        shape = tuple(r.lowerBound if r.lowerBound == r.upperBound else None for r in ranges)
    names = {"FLOAT16": "float16", "FLOAT32": "float32", "DOUBLE": "float64", "INT32": "int32"}
    return TensorSpec(feature.name, shape, names[FeatureTypes_pb2.ArrayFeatureType.ArrayDataType.Name(array.dataType)])


def _coremltools() -> Any:
    from hollowbone.runtime import trace

    try:
        with trace.quiet():
            import coremltools
    except ImportError as error:
        raise NotMeasurable("coremltools is not installed; install it with: pip install 'hollowbone[coreml]'") from error
    return coremltools
