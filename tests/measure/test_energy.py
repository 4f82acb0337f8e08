"""Energy is read from the machine's counters where it has them, and refused with the reason where it has none."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from hollowbone.errors import NotMeasurable, UserError
from hollowbone.measure import energy
from hollowbone.measure.budget import Budget
from hollowbone.measure.energy import Rapl, energy_available, joules, measure_energy, rapl
from hollowbone.measure.measurable import require_measurable


def domain(root: Path, name: str, kind: str, microjoules: int | str = 0, wraps: int = 1_000_000) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{kind}\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text(f"{wraps}\n")
    return folder / "energy_uj"


def device(name: str = "local") -> SimpleNamespace:
    return SimpleNamespace(name=name)


def test_packages_and_their_memory_are_added_and_nothing_twice(tmp_path: Path) -> None:
    package = domain(tmp_path, "intel-rapl:0", "package-0", 5_000_000)
    other = domain(tmp_path, "intel-rapl:1", "package-1", 1_000_000)
    domain(tmp_path, "intel-rapl:0:0", "core", 7)
    dram = domain(tmp_path, "intel-rapl:0:1", "dram", 2_000_000)
    domain(tmp_path, "intel-rapl:2", "psys", 7)
    domain(tmp_path, "intel-rapl-mmio:0", "package-0", 7)
    meter = rapl(tmp_path)
    assert isinstance(meter, Rapl)
    assert [path for path, _ in meter.domains] == [package, other, dram]
    assert meter.read() == [5.0, 1.0, 2.0]
    assert energy_available(tmp_path) == (True, "")


def test_counter_that_starts_again_is_put_right(tmp_path: Path) -> None:
    domain(tmp_path, "intel-rapl:0", "package-0", wraps=10_000_000)
    meter = rapl(tmp_path)
    assert isinstance(meter, Rapl)
    assert meter.between([2.0], [5.0]) == 3.0
    assert meter.between([9.0], [1.0]) == 2.0


def test_energy_of_a_call_is_the_difference_over_the_number_of_calls(tmp_path: Path) -> None:
    counter = domain(tmp_path, "intel-rapl:0", "package-0", 0, wraps=10**12)
    meter = rapl(tmp_path)
    assert isinstance(meter, Rapl)

    def spend() -> None:
        counter.write_text(str(int(counter.read_text()) + 2500))

    assert joules(spend, meter, seconds=0.01) == pytest.approx(0.0025)


def test_machine_without_a_counter_says_so(tmp_path: Path) -> None:
    available, reason = energy_available(tmp_path)
    assert not available
    assert "no energy counter" in reason
    figure, why = measure_energy(device(), None, [], root=tmp_path)  # type: ignore[arg-type]
    assert figure is None
    assert why == reason


def test_unreadable_counter_says_who_may_read_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    domain(tmp_path, "intel-rapl:0", "package-0")
    read = Path.read_text

    def forbidden(self: Path, *args: object, **kwargs: object) -> str:
        if self.name == "energy_uj":
            raise PermissionError(13, "Permission denied")
        return read(self)

    monkeypatch.setattr(Path, "read_text", forbidden)
    assert "sudo chmod" in str(rapl(tmp_path))
    monkeypatch.undo()
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("broken")
    assert "cannot be read" in str(rapl(tmp_path))


def test_gpu_counter_is_read_in_joules(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([1000, 3000, 8000])  # millijoules
    fake = SimpleNamespace(
        NVMLError=RuntimeError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda index: f"gpu{index}",
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: next(readings),
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    meter = energy.nvml(1)
    assert isinstance(meter, energy.Nvml)
    assert meter.handle == "gpu1"
    before = meter.read()
    assert meter.between(before, meter.read()) == 5.0
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert "not installed" in str(energy.nvml())


def test_energy_of_a_remote_device_is_not_guessed() -> None:
    figure, reason = measure_energy(device("command:ssh pi"), None, [])  # type: ignore[arg-type]
    assert figure is None
    assert "this machine only" in reason


@pytest.mark.parametrize(
    ("budget", "machine", "runtime", "format", "says"),
    [
        ("energy<=1J", "local", "onnxruntime", "onnx", "no energy counter"),
        ("energy<=1J", "command:ssh pi", "onnxruntime", "onnx", "this machine only"),
        ("latency<=1ms", "local", "onnxruntime", "coreml", "not run"),
        ("train.memory<=1GB", "local", "onnxruntime", "onnx", "training"),
        ("prefill.latency<=1s", "local", "onnxruntime", "onnx", "prefill"),
        ("latency<=1ms", "command:ssh pi", "torch", "onnx", "no PyTorch"),
    ],
)
def test_what_cannot_be_measured_is_refused_at_the_door(
    budget: str, machine: str, runtime: str, format: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hollowbone.measure.measurable.energy_available", lambda: energy_available(tmp_path))
    with pytest.raises(NotMeasurable, match=says):
        require_measurable(Budget(budget), device(machine), runtime, format)


def test_what_can_be_measured_passes_the_door() -> None:
    budget = Budget("latency<=1ms, size<=1MB, params<=1M, macs<=1G, memory<=1GB")
    require_measurable(budget, device(), "onnxruntime", "onnx")
    require_measurable(budget, device("command:ssh pi"), "executorch", "executorch")
    require_measurable(Budget("size<=1MB"), device(), "onnxruntime", "coreml")


def test_runtime_and_format_must_go_together() -> None:
    with pytest.raises(UserError, match="does not run the format executorch"):
        require_measurable(Budget("latency<=1ms"), device(), "onnxruntime", "executorch")
    with pytest.raises(UserError, match="'onnxruntime'"):
        require_measurable(Budget("latency<=1ms"), device(), "onnxruntim", "onnx")
