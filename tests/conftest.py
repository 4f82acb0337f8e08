"""Shared fixtures, and the two declarations that let torchvision's Python parts import beside a CPU torch."""

from __future__ import annotations

import os

import pytest
import torch

_torchvision = torch.library.Library("torchvision", "DEF")
_torchvision.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
_torchvision.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

os.environ.setdefault("HF_HUB_OFFLINE", "1")
torch.set_num_threads(1)  # a second thread spins more than it works in tests this small


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test writes to a cache of the session's own, never to the user's."""
    monkeypatch.setenv("HOLLOWBONE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
