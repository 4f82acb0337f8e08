"""ONNX: the format that ships by default. Written by PyTorch's exporters, run by onnxruntime's CPU provider."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from hollowbone import files
from hollowbone.errors import UserError
from hollowbone.runtime.base import Artifact, Example, TensorSpec
from hollowbone.runtime.session import LocalSession

if TYPE_CHECKING:
    import onnx
    from torch import nn

    from hollowbone.runtime.trace import Flattened

SUFFIX = ".onnx"
_LIMIT = 2**31 - 2**20  # a protobuf message holds 2 GiB; a MiB is left for the graph itself


def export(
    model: nn.Module, example: Example, path: str | Path, *, metadata: Mapping[str, str] | None = None, fast: bool = False
) -> Artifact:
    """Write `model` in evaluation mode to one ONNX file, weights inside, with the open axes of `example.dynamic`.

    `fast` takes PyTorch's older exporter, some thirty times quicker, for latency tables that export hundreds of blocks; it
    is used where torch still has it and it knows the operators, else the default one is. Nothing is verified here: that
    is `runtime.export`. Raises `UserError` for an example that does not fit, a network beyond 2 GiB or an unwritable path.
    """
    from hollowbone.runtime import trace

    flat = trace.flatten(model, example)
    size = sum(t.nbytes for t in [*flat.module.parameters(), *flat.module.buffers()])
    if size > _LIMIT:
        raise UserError(f"{type(model).__name__} holds {size / 2**30:.1f} GiB of weights; one ONNX file holds 2 GiB at most")
    with trace.exporting(model, "onnx"):
        proto = (fast and _traced(flat)) or _exported(flat)
    _pool_where_averaged(proto)
    _strip(proto)
    _set_metadata(proto, metadata or {})
    files.write_bytes(path, proto.SerializeToString())
    return describe(Path(path), proto)


def _exported(flat: Flattened) -> onnx.ModelProto:
    """By way of `torch.export`: whole-graph, keeps symbolic shapes."""
    import torch

    program = torch.onnx.export(
        flat.module,
        flat.trace_tensors,
        dynamo=True,
        dynamic_shapes=(flat.dynamic_shapes(),),
        input_names=list(flat.input_names),
        output_names=list(flat.output_names),
        optimize=True,
        verbose=False,
    )
    assert program is not None
    return program.model_proto


def _traced(flat: Flattened) -> onnx.ModelProto | None:
    """By way of TorchScript; None where torch has no such exporter any more or it lacks an operator."""
    import io

    import onnx
    import torch

    axes = {name: axes for name, axes in zip(flat.input_names, flat.dynamic, strict=True) if axes}
    buffer = io.BytesIO()
    try:
        torch.onnx.export(
            flat.module,
            flat.trace_tensors,
            buffer,  # type: ignore[arg-type]  # a stream is taken as well, and nothing else writes no file
            dynamo=False,
            dynamic_axes=axes,
            input_names=list(flat.input_names),
            output_names=list(flat.output_names),
        )
    except (TypeError, ImportError, torch.onnx.errors.OnnxExporterError):
        return None
    return onnx.load_model_from_string(buffer.getvalue())


def _pool_where_averaged(proto: onnx.ModelProto) -> None:
    """Say `GlobalAveragePool` where the default exporter says `ReduceMean` over height and width.

    The values are the same; but onnxruntime keeps its blocked channel layout through the pooling and not through the mean,
    for which it reorders the feature map first (3% of a MobileNetV2 at 32 pixels, measured), and the older exporter, with
    which latency tables are made, writes the pooling.
    """
    import onnx

    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    freed = set()
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in [*proto.graph.input, *proto.graph.value_info]}
    rewritten = []
    for node in proto.graph.node:
        rewritten.append(node)
        if (
            node.op_type != "ReduceMean"
            or len(node.input) != 2
            or node.input[1] not in constants
            or ranks.get(node.input[0]) != 4
        ):
            continue
        if {int(axis) % 4 for axis in onnx.numpy_helper.to_array(constants[node.input[1]])} != {2, 3}:
            continue
        freed.add(node.input[1])
        keeps = all(a.i == 1 for a in node.attribute if a.name == "keepdims")
        result = node.output[0] if keeps else f"{node.output[0]}_pooled"
        rewritten[-1] = onnx.helper.make_node("GlobalAveragePool", [node.input[0]], [result], name=node.name)
        if not keeps:
            rewritten.append(onnx.helper.make_node("Flatten", [result], [node.output[0]], name=f"{node.name}_flat", axis=1))
    del proto.graph.node[:]
    proto.graph.node.extend(rewritten)
    for name in freed - {name for node in rewritten for name in node.input}:
        proto.graph.initializer.remove(constants[name])


def _strip(proto: onnx.ModelProto) -> None:
    """Take out what exporters leave for debugging: often larger than a small network, and it names paths of this machine."""
    for node in proto.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in [*proto.graph.input, *proto.graph.output, *proto.graph.initializer]:
        del value.metadata_props[:]
        value.doc_string = ""
    del proto.graph.value_info[:]
    del proto.graph.metadata_props[:]
    del proto.metadata_props[:]
    proto.doc_string = proto.graph.doc_string = ""


def load(artifact: Artifact | str | Path, threads: int = 1) -> LocalSession:
    """Load an artifact or a file for running; `UserError` if it is no ONNX file."""
    return LocalSession(artifact if isinstance(artifact, Artifact) else open_file(artifact), threads)


def open_file(path: str | Path) -> Artifact:
    """Specs and metadata of an ONNX file; `UserError` if it is none."""
    return describe(Path(path), read(path))


def read(path: str | Path) -> onnx.ModelProto:
    """The parsed file; `UserError` if it is missing or no ONNX file."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        proto = onnx.load(str(path), load_external_data=False)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except DecodeError as error:
        raise UserError(f"{path} is not an ONNX file") from error
    if not proto.graph.node or not proto.opset_import:
        raise UserError(f"{path} is not an ONNX file: it holds no graph")
    return proto


def set_metadata(path: str | Path, metadata: Mapping[str, str]) -> None:
    """Put `metadata` into the file, in place of what it held under the same keys."""
    proto = read(path)
    _set_metadata(proto, metadata)
    files.write_bytes(path, proto.SerializeToString())


def _set_metadata(proto: onnx.ModelProto, metadata: Mapping[str, str]) -> None:
    import onnx

    onnx.helper.set_model_props(proto, {**{p.key: p.value for p in proto.metadata_props}, **metadata})


def describe(path: Path, proto: onnx.ModelProto) -> Artifact:
    """The artifact of a parsed file; initialisers that older files list among the inputs are left out."""
    weights = {tensor.name for tensor in proto.graph.initializer}
    return Artifact(
        path=path,
        format="onnx",
        inputs=tuple(_spec(value) for value in proto.graph.input if value.name not in weights),
        outputs=tuple(_spec(value) for value in proto.graph.output),
        metadata={prop.key: prop.value for prop in proto.metadata_props},
    )


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    import onnx

    tensor = value.type.tensor_type
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim)
    return TensorSpec(value.name, shape, str(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)))
