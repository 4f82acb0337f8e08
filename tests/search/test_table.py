"""The latency table: entries are differences in context, measured once, kept, journaled, and add up to whole networks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hollowbone import files
from hollowbone.errors import UserError
from hollowbone.fit.journal import Journal
from hollowbone.runtime import get_device
from hollowbone.search.efficientformer_space import GRID, EfficientFormerSpace
from hollowbone.search.mobilenetv2_space import MobileNetV2Space
from hollowbone.search.table import LatencyTable
from tests.search.costs import AddingTimer, NoDevice, cost

SIZES = {"resolution": 32, "num_classes": 7, "in_chans": 3}
SPACE = EfficientFormerSpace()


def fake(timer: AddingTimer | None = None, *, device: NoDevice | None = None, **options) -> LatencyTable:
    return LatencyTable(SPACE, device or NoDevice(), timer=timer or AddingTimer(), **{"cache": False, **options})


@pytest.mark.parametrize("vit_num", [0, 1, 2, 4])
def test_entries_add_up_to_the_whole_network_where_costs_add_up(vit_num):
    config = SPACE.config((16, 32, 48, 64), (1, 2, 3, 2), vit_num, **SIZES)
    assert set(config["widths"]) <= set(GRID)
    table = fake(AddingTimer())
    for spec in SPACE.blocks(config):
        if spec.kind in ("4d", "3d", "stem"):
            assert table.block(spec) == pytest.approx(cost(SPACE.block(spec)[0]), rel=1e-6)
    assert SPACE.latency(config, table) == pytest.approx(cost(SPACE.build(config)), rel=0.01)


def test_what_a_session_costs_is_counted_once():
    config = SPACE.config((16, 16, 16, 16), (2, 2, 2, 2), 2, **SIZES)
    with_overhead = SPACE.latency(config, fake(AddingTimer(overhead=0.5)))
    assert with_overhead == pytest.approx(SPACE.latency(config, fake()) + 0.5)


def test_widths_between_the_measured_ones_are_interpolated():
    table = fake()
    config = SPACE.config((16, 80, 160, 320), (1, 1, 2, 2), 2, **SIZES)
    assert SPACE.latency(config, table) == pytest.approx(cost(SPACE.build(config)), rel=0.1)
    assert "4d(c=80,r=4)" not in table.entries()["entries"]


def test_the_offset_is_fitted_on_whole_networks():
    config = SPACE.config((32, 64, 96, 128), (2, 2, 3, 3), 0, **SIZES)
    table = fake(AddingTimer(overhead=0.05, scale=1.2))
    offset = table.calibrate(SPACE.calibration(config))
    assert offset.networks == len(SPACE.calibration(config)) >= 4
    assert offset.scale == pytest.approx(1.2, rel=0.05)
    unseen = SPACE.config((32, 48, 64, 128), (1, 2, 1, 3), 2, **SIZES)
    assert SPACE.latency(unseen, table) == pytest.approx(0.05 + 1.2 * cost(SPACE.build(unseen)), rel=0.03)


def test_an_entry_is_measured_once_and_kept_for_the_device():
    config = SPACE.smallest(**SIZES)
    timer = AddingTimer()
    first = fake(timer, cache=True, device=NoDevice("a" * 8))
    value, timed = SPACE.latency(config, first), timer.timed
    assert SPACE.latency(config, first) == value
    assert SPACE.latency(config, fake(timer, cache=True, device=NoDevice("a" * 8))) == value
    assert timer.timed == timed
    SPACE.latency(config, fake(timer, cache=True, device=NoDevice("b" * 8)))
    SPACE.latency(config, fake(timer, cache=True, device=NoDevice("a" * 8), threads=2))
    assert timer.timed == 3 * timed


def test_a_torn_cache_is_measured_anew():
    device = NoDevice("c" * 8)
    value = SPACE.latency(SPACE.smallest(**SIZES), fake(cache=True, device=device))
    (path,) = (files.cache_dir() / "tables" / device.fingerprint()).glob("*.json")
    path.write_text(path.read_text()[:50])
    timer = AddingTimer()
    assert SPACE.latency(SPACE.smallest(**SIZES), fake(timer, cache=True, device=device)) == value
    assert timer.timed > 0
    assert json.loads(path.read_text())["entries"]


def test_a_journal_is_asked_before_anything_is_measured(tmp_path: Path):
    config = SPACE.smallest(**SIZES)
    journal = Journal(tmp_path / "journal.jsonl")
    value = SPACE.latency(config, fake(record=journal.clock))
    assert len(journal.keys()) == len(set(journal.keys())) > 5
    timer = AddingTimer(overhead=9.0)
    replayed = Journal(tmp_path / "replay.jsonl", source=tmp_path / "journal.jsonl")
    assert SPACE.latency(config, fake(timer, record=replayed.clock)) == value
    assert timer.timed == 0


def test_entries_travel_as_json():
    table = fake(AddingTimer(overhead=0.01))
    table.calibrate(SPACE.calibration(SPACE.config((16, 32, 32, 32), (1, 2, 2, 2), 0, **SIZES)))
    timer = AddingTimer()
    other = fake(timer)
    other.load_entries(json.loads(json.dumps(table.entries())))
    config = SPACE.smallest(**SIZES)
    assert SPACE.latency(config, other) == SPACE.latency(config, table)
    assert timer.timed == 0
    with pytest.raises(UserError, match="version"):
        other.load_entries({**table.entries(), "version": 99})


def test_a_whole_network_is_timed_alone():
    space = MobileNetV2Space()
    timer = AddingTimer(overhead=0.25)
    table = LatencyTable(space, NoDevice(), timer=timer, cache=False)
    config = space.config(0.35, **SIZES)
    assert space.latency(config, table) == pytest.approx(0.25 + cost(space.build(config)))
    assert timer.timed == 1


def test_wrong_options_are_refused_at_the_door():
    with pytest.raises(UserError, match="onnxruntime"):
        fake(runtime="onnxruntim")
    with pytest.raises(UserError, match="threads"):
        fake(threads=0)


def test_measured_table_ranks_networks_as_they_are_measured():
    """On the real runtime: four networks that are far apart, so that a busy machine does not change their order."""
    sizes = {"resolution": 32, "num_classes": 10, "in_chans": 1}
    table = LatencyTable(SPACE, get_device("local"), cache=False)
    shapes = [
        ((16,) * 4, (1, 1, 1, 1), 0),
        ((64,) * 4, (1, 1, 1, 1), 0),
        ((64,) * 4, (2, 3, 3, 3), 0),
        ((64,) * 4, (5, 5, 5, 5), 4),
    ]
    configs = [SPACE.config(*shape, **sizes) for shape in shapes]
    predicted = [SPACE.latency(config, table) for config in configs]
    measured = [table.network(config) for config in configs]
    assert np.argsort(predicted).tolist() == np.argsort(measured).tolist() == [0, 1, 2, 3]
    assert 0.5 < predicted[-1] / measured[-1] < 2
