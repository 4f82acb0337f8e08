"""One arm of each system from search to figures, on pictures small and few enough for a test."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hollowbone.reproduce import efficientformer, mobilenetv2
from hollowbone.reproduce.ledger import Ledger
from hollowbone.runtime.base import Timing
from hollowbone.search.efficientformer_space import check
from hollowbone.search.table import LatencyTable
from hollowbone.tasks.base import Data, DataReport, Preprocessing
from hollowbone.tasks.classification.splits import MemorySplit
from tests.reproduce.made_up import HereDevice


class NoClock(HereDevice):
    """Every file takes a millisecond."""

    def time(self, artifact: Any, inputs: Any, *, threads: int = 1, fresh: bool = False, clock: Any = None) -> Timing:
        assert fresh
        assert artifact.path.exists()
        return Timing(1.0, 1.0, 1.0, 1.0, 30)


class ByParameters:
    """A timer to which a parameter is 0.1 microseconds."""

    def pair(self, a: nn.Module, b: nn.Module, shape: tuple[int, ...]) -> tuple[float, float]:
        return self.one(a, shape), self.one(b, shape)

    def one(self, module: nn.Module, shape: tuple[int, ...]) -> float:
        return 1e-7 * sum(p.numel() for p in module.parameters())


def two_colours(name: str, seed: int) -> Data:
    draw = torch.Generator().manual_seed(seed)
    splits = []
    for size in (48, 24, 32):
        labels = torch.randint(0, 2, (size,), generator=draw)
        images = torch.randint(0, 100, (size, 3, 32, 32), generator=draw) + 100 * labels.view(-1, 1, 1, 1)
        splits.append(MemorySplit(images.to(torch.uint8), labels, [str(i) for i in range(size)]))
    shown = Preprocessing((32, 32), 3, (0.4,) * 3, (0.2,) * 3)
    return Data(name, *splits, ("dark", "light"), shown, DataReport(), digest=f"{name}-{seed}")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (efficientformer, mobilenetv2):
        monkeypatch.setattr(module, "read_data", two_colours)
    monkeypatch.setattr(mobilenetv2, "RECIPE", mobilenetv2.RECIPE.with_(epochs=1, batch_size=16))
    for name in ("SEARCH", "FINAL"):
        monkeypatch.setattr(efficientformer, name, getattr(efficientformer, name).with_(epochs=1, batch_size=16))
    monkeypatch.setattr(efficientformer, "LatencyTable", partial(LatencyTable, timer=ByParameters()))


@pytest.mark.usefixtures("small")
def test_mobilenetv2_run_gives_figures_of_the_exported_file(tmp_path: Path) -> None:
    kept = Ledger(tmp_path / "l", "a")
    figures = [mobilenetv2.run(arm, 0, kept, NoClock()) for arm in ("linear", "relu6", "linear")]
    for found in figures:
        assert 0 <= found["accuracy"] <= 1
        assert (found["samples"], found["latency_ms"], found["steps"], found["data"]) == (32, 1.0, 3, "photo_patches-0")
    assert figures[0] == figures[2]
    assert (figures[0]["params"], figures[0]["macs"]) == (figures[1]["params"], figures[1]["macs"])
    json.dumps(figures, allow_nan=False)


@pytest.mark.usefixtures("small")
def test_efficientformer_arms_share_a_search_and_are_within_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Ledger(tmp_path / "l", "a")
    found = kept.once("search/0", lambda: efficientformer.search(0, kept, NoClock()))
    monkeypatch.setattr(efficientformer, "search", None)  # asked a second time, this would fail
    assert set(found["arms"]) == {arm.name for arm in efficientformer.REPRODUCTION.arms}
    tables = {s.name: LatencyTable(s, HereDevice(), cache=False, timer=ByParameters()) for s in spaces()}
    for arm in found["arms"].values():
        limit, ms = found["limit_ms"], tables[arm["config"]["space"]].network(arm["config"])
        assert 0.5 * limit < ms <= limit
        assert arm["ms"] > 0
        if arm["config"]["space"] == "efficientformer":
            check(arm["config"])
    assert len(found["slimming"]) >= 3
    assert all(step["saved_ms"] > 0 for step in found["slimming"])
    assert np.all(np.diff([step["predicted_ms"] for step in found["slimming"]]) < 0)
    figures = efficientformer.run("slimmed", 0, kept, NoClock())
    assert figures["config"] == found["arms"]["slimmed"]["config"]
    assert figures["latency_ms"] == found["arms"]["slimmed"]["ms"]
    assert figures["fresh_ms"] == 1.0
    assert figures["slimming"] == found["slimming"]
    assert "slimming" not in efficientformer.run("uniform", 0, kept, NoClock())


def spaces() -> list[Any]:
    return [efficientformer.EfficientFormerSpace(), efficientformer.MobileNetV2Space()]
