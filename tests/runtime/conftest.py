"""Artifacts that several runtime tests read; none writes to them."""

from __future__ import annotations

import pytest

from hollowbone.runtime import onnx as onnx_format
from hollowbone.runtime.base import Artifact
from tests.runtime.networks import convnet, example


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """`convnet` as ONNX."""
    return onnx_format.export(convnet(), example(), tmp_path_factory.mktemp("artifacts") / "small.onnx", fast=True)


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Another `convnet` as ONNX."""
    return onnx_format.export(convnet(seed=3), example(), tmp_path_factory.mktemp("artifacts") / "other.onnx", fast=True)
