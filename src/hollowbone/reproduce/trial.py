"""One run of a study: train from scratch, export what ships, and judge the file: accuracy on *report*, time, counts."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import nn

from hollowbone.errors import HollowboneError
from hollowbone.models.fold import fold
from hollowbone.runtime import onnx, verify
from hollowbone.runtime.base import Artifact, Device, Example
from hollowbone.tasks import get_task
from hollowbone.tasks.base import Data
from hollowbone.train import Recipe, evaluate, train


@lru_cache(maxsize=1)
def read_data(name: str, seed: int) -> Data:
    """A bundled dataset; the seed decides the splits, so that an interval over seeds covers them too."""
    return get_task("classification").read(name, seed=seed)


def trained_figures(network: nn.Module, data: Data, recipe: Recipe, device: Device, *, threads: int = 1) -> dict[str, Any]:
    """Train `network` by `recipe` and return the figures of its exported file.

    The last epoch's weights are taken: nothing is chosen, so *select* is not needed, and *report* is touched once.
    """
    trained = train(network, data, recipe=recipe, select_every=0, progress=False)
    with TemporaryDirectory(prefix="hollowbone-study-") as folder:
        artifact = shipped(trained.model, data, Path(folder) / "model.onnx")
        found = evaluate(artifact, data, "report", threads=threads)
        timing = device.time(artifact, [picture(data)], threads=threads, fresh=True)
    figures = {"accuracy": found.value, "latency_ms": timing.median_ms, "latency": timing.to_dict()}
    return {**figures, **counted(network, data), "steps": trained.steps, "data": data.digest, "samples": found.n}


def counted(network: nn.Module, data: Data) -> dict[str, int]:
    """Parameters and MACs of one picture."""
    from hollowbone.measure import count

    counts = count(network.eval(), torch.from_numpy(picture(data)))
    return {"params": counts.params, "macs": counts.macs}


def shipped(network: nn.Module, data: Data, path: Path) -> Artifact:
    """The network as it ships: folded, exported with an open batch, and verified against the unfolded one."""
    x = torch.from_numpy(picture(data))
    artifact = onnx.export(fold(network), Example(args=(x,), dynamic={0: {0: "batch"}}), path, fast=True)
    result = verify(artifact, network, [[x]])
    if not result.passed:
        raise HollowboneError(f"the exported file differs from the network by {result.error:.2g}")
    return artifact


def picture(data: Data) -> np.ndarray:
    """One random input (1, C, H, W), the same for every timing."""
    shape = (1, data.preprocessing.in_chans, *data.preprocessing.resolution)
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
