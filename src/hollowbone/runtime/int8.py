"""int8: static post-training quantisation of an ONNX artifact with onnxruntime's own tools. Nothing is decided here.

Activations are unsigned, weights signed and per output channel, written as QuantizeLinear/DequantizeLinear pairs that
onnxruntime fuses at load. Why this form: time against the float file, interleaved, one thread, onnxruntime 1.32 on an x86
processor with AVX-512 VNNI, MobileNetV2 at 224 pixels: pairs u8/s8 0.51, operator form u8/s8 0.50, pairs s8/s8 0.82, operator
form s8/s8 5.8 times as long; at 32 pixels pairs beat the operator form, 0.69 to 0.76. Why not every operator: EfficientFormer
L1 at 224 pixels takes 0.77 then, 0.51 with the list below, for a quantised GELU or average pooling costs more than it saves.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from hollowbone import files
from hollowbone.errors import UserError
from hollowbone.runtime import onnx as onnx_format
from hollowbone.runtime import runner
from hollowbone.runtime.base import Artifact

OPERATORS = ("Conv", "Gemm", "MatMul", "Add", "Clip", "Relu", "GlobalAveragePool", "MaxPool")
"""What is quantised: the operators with a quicker int8 kernel on a CPU, and those that would otherwise part two of them."""


def quantize_int8(
    artifact: Artifact,
    calibration: Iterable[list[np.ndarray]],
    path: str | Path,
    *,
    per_channel: bool = True,
    facts: Mapping[str, Any] | None = None,
) -> Artifact:
    """Write an int8 form of an ONNX artifact to `path`; ranges are the extremes seen on `calibration`, metadata is kept.

    `calibration` yields inputs as the artifact takes them, real ones. `facts` are those of the device that will run the file
    (default: this machine): an x86 processor without VNNI adds pairs of u8 x s8 products in 16 bits, which saturates, so
    weights get 7 bits there. Raises `UserError` for another format, an empty calibration or one that does not fit, and an
    unwritable path.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    from hollowbone.runtime import trace

    if artifact.format != "onnx":
        raise UserError(f"int8 quantisation takes an ONNX artifact, not {artifact.path.name} in the format {artifact.format}")
    source = onnx_format.read(artifact.path)
    reader = _Reader(artifact, calibration)
    with tempfile.TemporaryDirectory(prefix="hollowbone-int8-") as folder, trace.quiet():
        prepared, quantised = Path(folder, "prepared.onnx"), Path(folder, "quantised.onnx")
        _prepare(artifact.path, prepared)
        quantize_static(
            str(prepared),
            str(quantised),
            reader,
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=per_channel,
            reduce_range=_saturates(facts or runner.facts()),
            op_types_to_quantize=list(OPERATORS),
        )
        proto = onnx_format.read(quantised)
    del proto.graph.value_info[:]
    del proto.metadata_props[:]
    proto.metadata_props.extend(source.metadata_props)
    files.write_bytes(path, proto.SerializeToString())
    return replace(
        onnx_format.describe(Path(path), proto), note=f"int8 form of {artifact.path.name}, {reader.count} calibration inputs"
    )


def _prepare(source: Path, target: Path) -> None:
    """Infer shapes and fold batch normalisation and constants, which the quantiser needs; basic rewrites only, so that the
    file stays standard ONNX."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    try:
        quant_pre_process(str(source), str(target))
    except Exception:  # symbolic inference knows fewer operators than the rest, and raises a bare Exception to say so
        quant_pre_process(str(source), str(target), skip_symbolic_shape=True)


def _saturates(facts: Mapping[str, Any]) -> bool:
    """Whether the device's u8 x s8 kernels add pairs in 16 bits: x86 before VNNI. On ARM products are widened first."""
    return facts["machine"].lower() in ("x86_64", "amd64") and not {"avx512_vnni", "avx_vnni"} & set(facts["flags"])


class _Reader:
    """Calibration inputs as the quantiser asks for them, checked one by one."""

    def __init__(self, artifact: Artifact, calibration: Iterable[list[np.ndarray]]) -> None:
        self.count = 0
        self._specs: list[dict[str, Any]] = [asdict(spec) for spec in artifact.inputs]
        self._rest: Iterator[list[np.ndarray]] = iter(calibration)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next input by name; None after the last."""
        arrays = next(self._rest, None)
        if arrays is None:
            if self.count == 0:
                raise UserError("the calibration holds no input; int8 ranges need some real ones, a hundred or so")
            return None
        try:
            runner.check_inputs(arrays, self._specs)
        except runner.RunnerError as error:
            raise UserError(f"calibration input {self.count}: {error}") from error
        if not all(np.isfinite(a).all() for a in arrays):
            raise UserError(f"calibration input {self.count} holds NaN or infinity; int8 ranges cannot be taken from it")
        self.count += 1
        return {spec["name"]: array for spec, array in zip(self._specs, arrays, strict=True)}
