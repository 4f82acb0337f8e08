"""Export: every format computes what PyTorch computes, carries its metadata, and refuses in one sentence."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from hollowbone.errors import NotMeasurable, UserError
from hollowbone.runtime import ExportMismatch, export, load, open_artifact, verify
from hollowbone.runtime import onnx as onnx_format
from hollowbone.runtime.base import Artifact, Example
from hollowbone.runtime.export import difference
from tests.runtime.networks import METADATA, Awkward, awkward_example, convnet, example, pictures


@pytest.mark.parametrize("name", ["shipped", "small"])
def test_onnx_equals_pytorch_at_every_batch(name: str, request: pytest.FixtureRequest) -> None:
    artifact = request.getfixturevalue(name)
    assert artifact.inputs[0].shape == (None, 3, 16, 16)
    assert artifact.outputs[0].shape == (None, 10)
    session, network = load(artifact), convnet().eval()
    for batch in (1, 2, 5):
        x = pictures(batch, seed=batch)
        (found,) = session(x.numpy())
        np.testing.assert_allclose(found, network(x).detach().numpy(), atol=1e-5)


def test_exporting_leaves_the_network_as_it_was(tmp_path: Path) -> None:
    network = convnet().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    onnx_format.export(network, example(), tmp_path / "a.onnx", fast=True)
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_both_onnx_exporters_say_the_same_operators(shipped: Artifact, small: Artifact) -> None:
    kinds = []
    for artifact in (shipped, small):
        operators = [
            node.op_type for node in onnx.load(artifact.path).graph.node if node.op_type not in ("Constant", "Identity")
        ]
        kinds.append(["Flatten" if name == "Reshape" else name for name in operators])  # both move nothing
    assert sorted(kinds[0]) == sorted(kinds[1])


@pytest.mark.parametrize(("axes", "keepdim"), [((2, 3), False), ((-1, -2), True), ((1, 2), True)])
def test_a_mean_over_height_and_width_is_written_as_pooling(tmp_path: Path, axes: tuple[int, int], keepdim: bool) -> None:
    class Mean(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean(axes, keepdim=keepdim)

    artifact = export(Mean(), Example((pictures(2),), dynamic={0: {0: "batch"}}), tmp_path / "a.onnx")
    operators = {node.op_type for node in onnx.load(artifact.path).graph.node}
    assert ("GlobalAveragePool" in operators) == (axes != (1, 2))


def test_onnx_file_is_valid_holds_its_weights_and_names_no_path_of_this_machine(shipped: Artifact) -> None:
    onnx.checker.check_model(str(shipped.path), full_check=True)
    assert list(shipped.path.parent.iterdir()) == [shipped.path]
    content = shipped.path.read_bytes()
    assert b"Traceback" not in content
    assert str(Path(__file__).parent).encode() not in content
    assert b".py" not in content


def test_keywords_lists_constants_and_several_outputs(tmp_path: Path) -> None:
    network = Awkward()
    artifact = export(network, awkward_example(), tmp_path / "a.onnx")
    assert [spec.name for spec in artifact.inputs] == ["x", "pair_0", "pair_1", "shift"]
    assert [spec.name for spec in artifact.outputs] == ["logits", "squared"]
    given = awkward_example(3)
    x, (first, second), shift = given.args[0], given.args[1], given.kwargs["shift"]
    found = load(artifact)(*[t.numpy() for t in (x, first, second, shift)])
    expected = network.eval()(x, [first, second], shift=shift, scale=3.0)
    for a, b in zip(found, expected.values(), strict=True):
        np.testing.assert_allclose(a, b.detach().numpy(), atol=1e-5)


def test_export_is_verified_on_the_example_and_the_samples(shipped: Artifact) -> None:
    assert shipped.verified is not None
    assert shipped.verified.samples == 3
    assert shipped.verified.passed
    assert 0 < shipped.verified.error < 1e-5


class _DependsOnMode(nn.Module):
    """Exported it is wrong: the tracer keeps the branch that the example took."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if torch.compiler.is_exporting() else x


def test_a_file_that_computes_something_else_is_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(b"earlier")
    with pytest.raises(ExportMismatch, match="differs from PyTorch by"):
        export(_DependsOnMode(), example(), path)
    assert path.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_verify_measures_the_distance_between_a_file_and_another_network(small: Artifact) -> None:
    assert verify(small, convnet(), [[pictures()]]).passed
    apart = verify(small, convnet(seed=7), [[pictures()]])
    assert not apart.passed
    assert apart.error > 0.01


@pytest.mark.parametrize(
    ("found", "expected", "error"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([0.0, 0.1], [0.0, 0.0], 0.1),
        ([0.0, 101.0], [0.0, 100.0], 0.01),
        ([np.inf, 1.0], [np.inf, 1.0], 0.0),
        ([np.nan, 1.0], [np.nan, 1.0], 0.0),
    ],
)
def test_difference_is_relative_to_the_largest_output_above_one(found: list, expected: list, error: float) -> None:
    assert difference([np.array(found)], [np.array(expected)]) == pytest.approx(error)


def test_difference_sees_nan_and_wrong_shapes() -> None:
    assert np.isnan(difference([np.array([np.nan]), np.array([5.0])], [np.array([1.0]), np.array([1.0])]))
    assert difference([np.zeros(2)], [np.zeros(3)]) == float("inf")


def test_onnx_metadata_comes_back_from_the_file(shipped: Artifact, tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(shipped.path.read_bytes())
    read = open_artifact(tmp_path / "a.onnx")
    assert read.metadata == METADATA
    assert (read.inputs, read.outputs, read.format) == (shipped.inputs, shipped.outputs, "onnx")
    onnx_format.set_metadata(read.path, {"hollowbone": "1"})
    assert open_artifact(read.path).metadata == {**METADATA, "hollowbone": "1"}


def test_executorch_equals_pytorch_and_carries_metadata(program: Artifact) -> None:
    assert program.verified is not None
    assert program.verified.samples == 2
    assert program.verified.passed
    read = open_artifact(program.path)
    assert read.metadata == METADATA
    assert read.inputs[0].shape == (1, 3, 16, 16)
    assert read.nbytes == program.path.stat().st_size
    x = pictures(seed=3)
    np.testing.assert_allclose(load(read)(x.numpy())[0], convnet().eval()(x).detach().numpy(), atol=1e-5)


def test_executorch_really_runs_in_xnnpack(program: Artifact) -> None:
    assert b"XnnpackBackend" in program.path.read_bytes()


def test_executorch_outputs_stay_after_the_next_call(program: Artifact) -> None:
    session = load(program)
    (first,) = session(pictures(seed=1).numpy())
    kept = first.copy()
    session(pictures(seed=2).numpy())
    np.testing.assert_array_equal(first, kept)


def test_coreml_package_is_written_and_marked(tmp_path: Path) -> None:
    written = export(convnet(), example(), tmp_path / "a.mlpackage", format="coreml", metadata=METADATA)
    assert written.verified is None
    assert written.note == "not verified, not timed here"
    assert written.nbytes > 4 * 16 * 64
    read = open_artifact(tmp_path / "a.mlpackage")
    assert METADATA.items() <= read.metadata.items()
    assert read.inputs[0].shape == (None, 3, 16, 16)
    with pytest.raises(NotMeasurable, match="on a Mac"):
        load(read)


def test_pt2_is_written_described_and_never_loaded(tmp_path: Path) -> None:
    network = convnet()
    written = export(network, example(), tmp_path / "a.pt2", format="torch.export", metadata=METADATA)
    assert written.verified is None
    assert written.note.startswith("not verified, not timed here")
    read = open_artifact(tmp_path / "a.pt2")
    assert read == written
    assert read.inputs[0].shape == (None, 3, 16, 16)
    assert read.outputs[0].shape == (None, 10)
    with pytest.raises(UserError, match="can execute code"):
        load(read)
    (found,) = torch.export.load(tmp_path / "a.pt2").module()(pictures(4))  # a test may: it wrote the file
    torch.testing.assert_close(found, network.eval()(pictures(4)))


def test_every_format_is_opened_by_its_ending_alone(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"must end in one of \.onnx, \.pte, \.mlpackage, \.pt2"):
        open_artifact(tmp_path / "a.tflite")


@pytest.mark.parametrize("ending", ["onnx", "pte", "mlpackage", "pt2"])
@pytest.mark.parametrize("content", [None, b"", b"no model", b"PK\x03\x04 nor an archive"])
def test_a_file_that_is_no_artifact_is_refused_in_a_sentence(tmp_path: Path, ending: str, content: bytes | None) -> None:
    path = tmp_path / f"a.{ending}"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=f"a.{ending}"):
        open_artifact(path)


def test_a_pt2_archive_of_others_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pt2", "w") as archive:
        archive.writestr("a/data.pkl", b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(UserError, match=r"is not a \.pt2 archive written by hollowbone"):
        open_artifact(tmp_path / "a.pt2")


@pytest.mark.parametrize("format", ["onnx", "executorch", "coreml", "torch.export"])
def test_unwritable_folder_is_a_user_error(tmp_path: Path, format: str) -> None:
    (tmp_path / "file").write_text("not a folder")
    ending = {"onnx": "onnx", "executorch": "pte", "coreml": "mlpackage", "torch.export": "pt2"}[format]
    with pytest.raises(UserError, match="cannot write"):
        export(convnet(), example(), tmp_path / "file" / f"a.{ending}", format=format)


def test_unwritable_folder_is_a_user_error_of_the_onnx_writer_itself(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match="cannot write"):
        onnx_format.export(convnet(), example(), tmp_path / "file" / "a.onnx", fast=True)


def test_unknown_format_and_wrong_ending_name_what_would_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the nearest is 'onnx'"):
        export(convnet(), example(), tmp_path / "a.onnx", format="onx")
    with pytest.raises(UserError, match=r"ends in \.pte, not 'a\.onnx'"):
        export(convnet(), example(), tmp_path / "a.onnx", format="executorch")


def test_an_example_that_does_not_fit_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Sequential does not accept the example \(tensors of shape \(1, 4, 16, 16\)\)"):
        export(convnet(), Example((torch.zeros(1, 4, 16, 16),)), tmp_path / "a.onnx")
    with pytest.raises(UserError, match="has no such argument"):
        export(convnet(), Example((pictures(),), dynamic={"y": {0: "batch"}}), tmp_path / "a.onnx")
    with pytest.raises(UserError, match="holds no tensor"):
        export(convnet(), Example(), tmp_path / "a.onnx")


class _Untraceable(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if float(x.sum()) > 0 else x[::2]


def test_a_network_that_cannot_be_exported_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="_Untraceable cannot be exported to onnx: "):
        export(_Untraceable(), example(), tmp_path / "a.onnx")


def test_arrays_that_do_not_fit_are_named(tmp_path: Path) -> None:
    session = load(onnx_format.export(convnet(), example(), tmp_path / "a.onnx", fast=True))
    with pytest.raises(UserError, match=r"'input' must be float32 of shape \(any, 3, 16, 16\), not float64 of shape"):
        session(pictures().double().numpy())
    with pytest.raises(UserError, match="takes 1 inputs"):
        session()
    with pytest.raises(UserError, match="threads must be 1 or more"):
        load(session.artifact, threads=0)


def test_exporting_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for format, ending in (("onnx", "onnx"), ("executorch", "pte"), ("coreml", "mlpackage"), ("torch.export", "pt2")):
        export(convnet(), example(), tmp_path / f"a.{ending}", format=format)
    assert capfd.readouterr() == ("", "")
