"""`measure` and `compare` take every figure on the thing that runs, and say why where they cannot."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hollowbone.errors import UserError
from hollowbone.measure import Cost, compare, measure, roofline
from hollowbone.measure.cost import METRICS
from hollowbone.measure.counters import count
from hollowbone.measure.memory import peak_bytes
from hollowbone.runtime import runner
from hollowbone.runtime.base import Example
from hollowbone.runtime.export import export


class Net(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem, self.norm, self.head = nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.stem(x)).relu().mean((2, 3)))

    def encode(self, x: Tensor) -> Tensor:
        return self.stem(x)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "_SECONDS", 0.002)
    monkeypatch.setattr(roofline, "_LARGEST", 2**22)


@pytest.fixture
def example() -> Example:
    return Example(args=(torch.randn(2, 3, 16, 16),), dynamic={0: {0: "batch"}}, units=2)


def test_cost_of_a_module_is_complete(example: Example) -> None:
    model = Net()
    before = torch.get_num_threads()
    cost = measure(model, example)
    counts = count(model, example)
    assert (cost.params, cost.macs, cost.uncounted) == (counts.params, counts.macs, ())
    assert cost.memory == peak_bytes(model, example)
    assert cost.latency is not None
    assert cost.latency.low_ms <= cost.latency.median_ms <= cost.latency.high_ms
    assert cost.efficiency is not None
    assert 0 < cost.efficiency <= 1
    assert cost.intensity == counts.intensity
    assert cost.size is None
    assert "no file" in cost.reasons["size"]
    assert (cost.runtime, cost.device, cost.threads, cost.unit, cost.units) == ("torch", "local", 1, "image", 2)
    assert (cost.energy is None) == ("energy" in cost.reasons)
    assert torch.get_num_threads() == before
    assert model.training
    assert Cost.from_dict(cost.to_dict()) == cost


def test_cost_under_a_runtime_is_of_the_exported_file(example: Example) -> None:
    cost = measure(Net(), example, runtime="onnxruntime")
    assert cost.size is not None
    assert cost.size > 4 * Net().stem.weight.numel()
    assert cost.memory is not None
    assert cost.memory > 0
    assert cost.macs == count(Net(), example).macs
    assert cost.runtime == "onnxruntime"


def test_exported_file_is_measured_by_itself(tmp_path: Path, example: Example) -> None:
    artifact = export(Net().eval(), example, tmp_path / "net.onnx")
    cost = measure(tmp_path / "net.onnx", metrics=["size", "latency", "macs"])
    assert cost.size == artifact.nbytes
    assert cost.latency is not None
    assert cost.macs is None
    assert "measure the model" in cost.reasons["macs"]
    assert cost.memory is None
    with pytest.raises(UserError, match=r"net\.onnx is a file for onnxruntime, not for torch"):
        measure(artifact, runtime="torch")
    with pytest.raises(UserError, match="runs forward for inference"):
        measure(artifact, entry="encode")


def test_training_is_measured_in_torch_alone(example: Example) -> None:
    cost = measure(Net(), example, mode="train", metrics=["latency", "macs", "memory"])
    assert cost.mode == "train"
    assert cost.latency is not None
    assert cost.macs == count(Net(), example, mode="train").macs
    assert cost.memory == peak_bytes(Net(), example, mode="train")
    with pytest.raises(UserError, match="runtime='torch'"):
        measure(Net(), example, mode="train", runtime="onnxruntime")


def test_other_entry_point_has_its_own_cost(example: Example) -> None:
    cost = measure(Net(), example, entry="encode", metrics=["macs"])
    assert (cost.entry, cost.macs) == ("encode", 2 * 8 * 14 * 14 * 27)
    assert cost.reasons["latency"] == "it was not asked for"


def test_meta_model_is_counted_and_not_run(example: Example) -> None:
    cost = measure(Net().to("meta"), example)
    assert cost.macs == count(Net(), example).macs
    assert cost.latency is None
    assert "meta" in cost.reasons["latency"]
    assert cost.efficiency is None


def test_model_that_keeps_a_tensor_from_its_first_call_still_trains(example: Example) -> None:
    class Keeps(Net):
        kept: Tensor | None = None

        def forward(self, x: Tensor) -> Tensor:
            if self.kept is None:
                self.kept = self.head.weight * 2
            return super().forward(x) @ self.kept

    model = Keeps()
    measure(model, example, metrics=["latency"])
    assert model.kept is not None
    assert not model.kept.is_inference()
    model(*example.args).sum().backward()
    assert model.stem.weight.grad is not None


def test_comparison_gives_ratios_to_the_first_with_intervals(example: Example) -> None:
    found = compare({"wide": Net(32), "narrow": Net(8)}, example)
    assert found.baseline == "wide"
    params, latency = found.ratio("narrow", "params"), found.ratio("narrow")
    assert params is not None
    assert params.value == count(Net(8), example).params / count(Net(32), example).params
    assert latency is not None
    assert latency.low <= latency.value <= latency.high
    assert found.ratio("wide", "macs").value == 1.0  # type: ignore[union-attr]
    assert found.ratio("narrow", "size") is None
    assert "narrow" in str(found)
    assert "narrow" in found._repr_html_()
    assert set(found.to_dict()["ratios"]["narrow"]) == set(METRICS)


def test_module_and_file_are_compared_in_one_run(tmp_path: Path, example: Example) -> None:
    model = Net().eval()
    artifact = export(model, example, tmp_path / "net.onnx")
    found = compare([model, artifact], example)
    assert list(found.costs) == ["Net", "net.onnx"]
    assert [cost.runtime for cost in found.costs.values()] == ["torch", "onnxruntime"]
    assert found.ratio("net.onnx") is not None


def test_files_are_compared_on_another_device(tmp_path: Path, example: Example) -> None:
    files = {name: export(Net(w).eval(), example, tmp_path / f"{name}.onnx") for name, w in (("wide", 32), ("narrow", 8))}
    found = compare(files, example, device=f"command:{sys.executable} {runner.__file__}")
    latency = found.ratio("narrow")
    assert latency is not None
    assert latency.low <= latency.value <= latency.high
    assert all(cost.memory is not None and cost.device.startswith("command:") for cost in found.costs.values())
    assert "this machine only" in found.costs["wide"].reasons["energy"]


def test_models_of_one_class_get_names_of_their_own(example: Example) -> None:
    assert list(compare([Net(), Net()], example).costs) == ["Net", "Net (2)"]


def test_cost_shows_itself_and_escapes_html(example: Example) -> None:
    cost = measure(Net(), example, metrics=["params"]).with_(device="<b>")
    html = cost._repr_html_()
    assert "<b>" not in html
    assert "&lt;b&gt;" in html
    assert "latency" not in html


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"metrics": ["lateny"]}, "'latency'"),
        ({"entry": "decode"}, "no entry point named 'decode'"),
        ({"mode": "fast"}, "'infer' or 'train'"),
        ({"runtime": "onnx"}, "'onnxruntime'"),
        ({"device": "phone"}, "no device 'phone'"),
        ({"threads": 0}, "threads must be 1 or more"),
    ],
)
def test_nonsense_is_refused(arguments: dict[str, object], says: str, example: Example) -> None:
    with pytest.raises(UserError, match=says):
        measure(Net(), example, **arguments)  # type: ignore[arg-type]


def test_what_is_no_model_is_refused(example: Example) -> None:
    with pytest.raises(UserError, match="a module, an Artifact or a path"):
        measure(3, example)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="an example"):
        measure(Net())
    with pytest.raises(UserError, match="two or more"):
        compare([Net()], example)
