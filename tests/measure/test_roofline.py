"""Peaks are measured once and kept; the waterline adds up as its definition says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from hollowbone.errors import NotMeasurable
from hollowbone.measure import roofline
from hollowbone.measure.counters import count
from hollowbone.measure.roofline import Peaks, measure_peaks, peaks
from hollowbone.measure.table import as_text, waterline_table
from hollowbone.measure.waterlines import LayerRow, efficiency, sequence_bound, waterline

MACHINE = Peaks(gflops=100.0, gbps=10.0, threads=1, levels=((1000, 50.0), (10**6, 20.0), (10**9, 10.0)))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache of its own, and probes short enough for a test."""
    monkeypatch.setenv("HOLLOWBONE_CACHE", str(tmp_path))
    monkeypatch.setattr(roofline, "_SECONDS", 0.002)
    monkeypatch.setattr(roofline, "_LARGEST", 2**22)
    return tmp_path


def test_machine_has_a_peak_and_caches_are_never_slower_than_memory(quick: Path) -> None:
    found = measure_peaks(1)
    assert found.gflops > 0.1
    assert found.gbps > 0.1
    speeds = [gbps for _, gbps in found.levels]
    assert speeds == sorted(speeds, reverse=True)
    assert found.gbps == speeds[-1]
    assert found.balance == found.gflops / found.gbps


def test_peaks_are_measured_once_for_each_number_of_threads(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []

    def measured(threads: int) -> Peaks:
        taken.append(threads)
        assert torch.get_num_threads() == threads
        return Peaks(10.0 * len(taken), 5.0, threads, ((100, 7.5),))

    monkeypatch.setattr(roofline, "measure_peaks", measured)
    before = torch.get_num_threads()
    first = peaks(threads=1)
    assert peaks(threads=1) == first
    assert peaks(threads=2).threads == 2
    assert taken == [1, 2]
    assert torch.get_num_threads() == before
    assert peaks(threads=1, fresh=True).gflops == 30.0
    assert peaks(threads=2).gflops == 20.0


def test_cache_shares_its_file_and_survives_a_broken_one(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "measure_peaks", lambda threads: Peaks(1.0, 2.0, threads))
    peaks()
    (path,) = (quick / "devices").glob("*.json")
    path.write_text(json.dumps({"other": [1], "peaks": {"1": {"gflops": "?"}}}))
    assert peaks() == Peaks(1.0, 2.0, 1)
    assert json.loads(path.read_text())["other"] == [1]
    path.write_text("{ half a fi")
    assert peaks() == Peaks(1.0, 2.0, 1)


def test_remote_device_has_no_peaks_of_ours() -> None:
    with pytest.raises(NotMeasurable, match="this machine only"):
        peaks("command:ssh pi")


def test_bandwidth_is_that_of_the_smallest_level_that_holds_the_layer() -> None:
    assert [MACHINE.gbps_at(n) for n in (1, 1000, 1001, 10**7, 10**12)] == [50.0, 50.0, 20.0, 10.0, 10.0]
    assert MACHINE.attainable_ms(10**6, 10) == MACHINE.ideal_ms(10**6) == 0.02
    assert MACHINE.attainable_ms(0, 10**9) == 100.0


layer = st.tuples(st.integers(0, 10**9), st.integers(1, 10**8))


@given(st.lists(layer, min_size=1, max_size=8))
def test_bound_of_a_sequence_is_never_above_the_roofline_of_its_totals(layers: list[tuple[int, int]]) -> None:
    machine = Peaks(100.0, 10.0, 1)
    rows = [
        LayerRow("x", "X", macs, 0, size, machine.ideal_ms(macs), machine.attainable_ms(macs, size), 1.0, machine.balance)
        for macs, size in layers
    ]
    macs, size = sum(m for m, _ in layers), sum(b for _, b in layers)
    totals = machine.ideal_ms(macs) / machine.attainable_ms(macs, size)
    assert sequence_bound(rows) <= totals * (1 + 1e-9)
    if len({row.memory_bound for row in rows}) == 1:
        assert sequence_bound(rows) == pytest.approx(totals)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)

    def twice(self, x: Tensor) -> Tensor:
        return self.forward(self.conv(x)) * 2


def test_waterline_has_a_row_for_every_layer_with_work() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), Residual(), nn.Flatten(), nn.Linear(8 * 14 * 14, 4))
    x = torch.randn(2, 3, 16, 16)
    rows = waterline(model, x, machine=MACHINE, runs=3)
    assert [row.name for row in rows] == ["0", "1", "2.conv", "2", "4"]
    assert sum(row.macs for row in rows) == count(model, x).macs
    assert all(row.measured_ms > 0 for row in rows)
    assert all(row.ideal_ms <= row.attainable_ms for row in rows)
    assert all(0 < row.share <= 1 for row in rows)
    assert rows[0].bytes == 4 * (2 * 3 * 256 + 8 * 27 + 8 + 2 * 8 * 196)
    assert rows[1].memory_bound
    assert rows[1].macs == 0
    assert efficiency(rows) > 0
    assert 0 < sequence_bound(rows) <= 1
    assert "2.conv" in as_text(waterline_table(rows))
    assert rows[0].to_dict()["intensity"] == rows[0].intensity
    assert all(not m._forward_hooks for m in model.modules())


def test_waterline_of_another_entry_point_has_its_own_work_on_top() -> None:
    rows = waterline(Residual(), torch.randn(1, 8, 6, 6), entry="twice", machine=MACHINE, runs=3)
    assert {row.name for row in rows} == {"conv", "(top)"}
    assert all(row.measured_ms > 0 for row in rows)


def test_waterline_needs_numbers() -> None:
    with pytest.raises(NotMeasurable, match="on meta"):
        waterline(Residual().to("meta"), torch.randn(1, 8, 6, 6), machine=MACHINE)
