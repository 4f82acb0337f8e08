"""int8: smaller, close, its metadata kept, and weights one bit shorter where the processor's products saturate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from hollowbone.errors import UserError
from hollowbone.runtime import load, open_artifact
from hollowbone.runtime import onnx as onnx_format
from hollowbone.runtime.base import Artifact
from hollowbone.runtime.int8 import quantize_int8
from tests.runtime.networks import convnet, example, pictures

CALIBRATION = [[pictures(seed=i).numpy()] for i in range(16)]
VNNI = {"machine": "x86_64", "flags": ["avx512_vnni"]}
AVX2 = {"machine": "x86_64", "flags": ["avx2"]}
ARM = {"machine": "aarch64", "flags": ["asimd"]}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    path = tmp_path_factory.mktemp("int8") / "plain.onnx"
    return onnx_format.export(convnet(width=64), example(), path, metadata={"classes": "[1, 2]"})


@pytest.fixture(scope="module")
def quantised(plain: Artifact) -> Artifact:
    return quantize_int8(plain, iter(CALIBRATION), plain.path.with_name("int8.onnx"))


def test_int8_file_is_less_than_half_and_its_outputs_are_close(plain: Artifact, quantised: Artifact) -> None:
    assert quantised.nbytes < 0.5 * plain.nbytes
    x = pictures(32, seed=99).numpy()
    a, b = load(quantised)(x)[0].ravel(), load(plain)(x)[0].ravel()
    assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) > 0.99
    assert not np.array_equal(a, b)


def test_int8_file_keeps_metadata_names_and_open_axes(plain: Artifact, quantised: Artifact) -> None:
    read = open_artifact(quantised.path)
    assert read.metadata == {"classes": "[1, 2]"}
    assert (read.inputs, read.outputs) == (plain.inputs, plain.outputs)
    assert quantised.verified is None
    assert quantised.note == "int8 form of plain.onnx, 16 calibration inputs"
    onnx.checker.check_model(str(quantised.path), full_check=True)


def _largest_weight(artifact: Artifact) -> int:
    tensors = onnx.load(artifact.path).graph.initializer
    weights = [onnx.numpy_helper.to_array(t) for t in tensors if t.data_type == onnx.TensorProto.INT8]
    return max(int(np.abs(w.astype(int)).max()) for w in weights if w.ndim > 1)


@pytest.mark.parametrize(("facts", "largest"), [(VNNI, 127), (ARM, 127), (AVX2, 64)])
def test_weights_are_a_bit_shorter_where_products_saturate(plain: Artifact, tmp_path: Path, facts: dict, largest: int) -> None:
    artifact = quantize_int8(plain, CALIBRATION, tmp_path / "a.onnx", facts=facts)
    assert largest - 1 <= _largest_weight(artifact) <= largest


def test_per_channel_scales_are_one_for_each_output_channel(plain: Artifact, quantised: Artifact, tmp_path: Path) -> None:
    whole = quantize_int8(plain, CALIBRATION, tmp_path / "a.onnx", per_channel=False)

    def lengths(artifact: Artifact) -> set[int]:
        return {int(np.prod(t.dims)) for t in onnx.load(artifact.path).graph.initializer if "weight_scale" in t.name}

    assert lengths(quantised) == {64, 256, 10}
    assert lengths(whole) == {1}


@pytest.mark.parametrize(
    ("calibration", "words"),
    [
        ([], "the calibration holds no input"),
        ([[np.zeros((1, 4, 16, 16), np.float32)]], r"calibration input 0: input 'input' must be float32 of shape"),
        ([CALIBRATION[0], []], "calibration input 1: the model takes 1 inputs"),
        ([[np.full((1, 3, 16, 16), np.nan, np.float32)]], "calibration input 0 holds NaN"),
    ],
)
def test_a_calibration_that_does_not_do_is_a_sentence(plain: Artifact, tmp_path: Path, calibration: list, words: str) -> None:
    with pytest.raises(UserError, match=words):
        quantize_int8(plain, calibration, tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


def test_other_formats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"takes an ONNX artifact, not a\.pte"):
        quantize_int8(Artifact(tmp_path / "a.pte", "executorch", (), ()), CALIBRATION, tmp_path / "b.onnx")


def test_quantising_prints_nothing(plain: Artifact, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    quantize_int8(plain, CALIBRATION, tmp_path / "a.onnx")
    assert capfd.readouterr() == ("", "")
