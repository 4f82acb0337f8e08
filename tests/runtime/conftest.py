"""Artifacts that several runtime tests read; none writes to them."""

from __future__ import annotations

import pytest

from hollowbone.runtime import export
from hollowbone.runtime import onnx as onnx_format
from hollowbone.runtime.base import Artifact
from tests.runtime.networks import METADATA, convnet, example, pictures


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """`convnet` as ONNX."""
    return onnx_format.export(convnet(), example(), tmp_path_factory.mktemp("artifacts") / "small.onnx", fast=True)


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Another `convnet` as ONNX."""
    return onnx_format.export(convnet(seed=3), example(), tmp_path_factory.mktemp("artifacts") / "other.onnx", fast=True)


@pytest.fixture(scope="session")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """`convnet` as `export` writes it, verified on two samples."""
    path = tmp_path_factory.mktemp("artifacts") / "shipped.onnx"
    return export(convnet(), example(), path, metadata=METADATA, samples=[[pictures(4)], [pictures(2).numpy()]])


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """`convnet` as an ExecuTorch program, verified on a sample."""
    path = tmp_path_factory.mktemp("artifacts") / "program.pte"
    return export(convnet(), example(), path, format="executorch", metadata=METADATA, samples=[[pictures(seed=9)]])
