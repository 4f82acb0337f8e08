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
from hollowbone.measure import count
from hollowbone.models.fold import fold
from hollowbone.runtime import onnx, verify
from hollowbone.runtime.base import Artifact, Device, Example, Timing
from hollowbone.tasks import get_task
from hollowbone.tasks.base import Data
from hollowbone.train import Recipe, evaluate, train

Shape = tuple[int, ...]


@lru_cache(maxsize=1)
def read_data(name: str, seed: int) -> Data:
    """A bundled dataset; the seed decides the splits, so that an interval over seeds covers them too."""
    return get_task("classification").read(name, seed=seed)


def trained_figures(network: nn.Module, data: Data, recipe: Recipe, device: Device, *, threads: int = 1) -> dict[str, Any]:
    """Train `network` by `recipe` and return the figures of its exported file.

    The last epoch's weights are taken: nothing is chosen, so *select* decides nothing, and *report* is touched once.
    """
    trained = train(network, data, recipe=recipe, select_every=0, progress=False)
    x = picture(shape_of(data))
    with TemporaryDirectory(prefix="hollowbone-study-") as folder:
        artifact = shipped(trained.model, x, Path(folder) / "model.onnx")
        reached = evaluate(artifact, data, "report", threads=threads)
        timing = device.time(artifact, [x], threads=threads, fresh=True)
    return {
        "accuracy": reached.value,
        "samples": reached.n,
        "latency_ms": timing.median_ms,
        "latency": timing.to_dict(),
        **counted(network, x),
        "steps": trained.steps,
        "data": data.digest,
    }


def counted(network: nn.Module, x: np.ndarray) -> dict[str, int]:
    """Parameters and MACs of one call."""
    counts = count(network.eval(), torch.from_numpy(x))
    return {"params": counts.params, "macs": counts.macs}


def shipped(network: nn.Module, x: np.ndarray, path: Path) -> Artifact:
    """The network as it ships for one picture at a time: folded, exported, verified against the unfolded one."""
    artifact = onnx.export(fold(network), Example(args=(torch.from_numpy(x),)), path, fast=True)
    result = verify(artifact, network, [[x]])
    if not result.passed:
        raise HollowboneError(f"the exported file differs from the network by {result.error:.2g}")
    return artifact


def shape_of(data: Data) -> Shape:
    """(1, C, H, W) of one picture."""
    return (1, data.preprocessing.in_chans, *data.preprocessing.resolution)


def picture(shape: Shape) -> np.ndarray:
    """One random input, the same for every timing of a shape."""
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def paired_times(
    a: nn.Module, b: nn.Module, shape: Shape, device: Device, *, threads: int = 1, **clock: Any
) -> tuple[Timing, Timing]:
    """Two untrained networks as they ship, timed in turn; weights do not change the time."""
    x = picture(shape)
    with TemporaryDirectory(prefix="hollowbone-pair-") as folder:
        first, second = (shipped(net.eval(), x, Path(folder) / f"{name}.onnx") for name, net in (("a", a), ("b", b)))
        return device.time_pair(first, second, [x], threads=threads, clock=clock)


def ratio(a: Timing, b: Timing) -> tuple[float, float, float]:
    """Median of `a` over that of `b`, and an interval: the medians' own, divided end by end, so wider than need be."""
    return a.median_ms / b.median_ms, a.low_ms / b.high_ms, a.high_ms / b.low_ms
