"""From a supernet and a selection to a plain EfficientFormer that carries the supernet's weights, sliced.

What is kept at a width follows from the supernet's weights alone: the channels of largest |gamma| in the norm of the stage's
embedding (first stage: the stem's second), the stem's half width by its first norm, and of every MLP the hidden units
of largest |gamma| (attention blocks: of the largest row norm of fc1). So narrower sets are subsets of wider ones, and a
configuration with the positions that are left says everything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hollowbone.models.blocks.metaformer import Meta3D, Meta4D
from hollowbone.search.base import Config
from hollowbone.search.efficientformer_space import EfficientFormerSpace, stage_kinds
from hollowbone.search.supernet import Supernet

RATIO = 4
"""Hidden units of an MLP over its width."""


@dataclass(frozen=True)
class Selection:
    """What is left of a supernet: `positions[stage]` are the places that still hold a block, in order."""

    config: Config
    positions: tuple[tuple[int, ...], ...]

    def kinds(self) -> list[list[str]]:
        """The kind of every remaining block."""
        return stage_kinds(self.config)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"config": dict(self.config), "positions": [list(kept) for kept in self.positions]}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Selection:
        """The inverse of `to_dict`."""
        return cls(dict(value["config"]), tuple(tuple(kept) for kept in value["positions"]))


@torch.no_grad()
def extract(supernet: Supernet, selection: Selection) -> nn.Module:
    """The selected network with the supernet's weights; the supernet stays as it is."""
    config = selection.config
    network: Any = EfficientFormerSpace().build(config)
    stem: Any = supernet.stem
    embeddings: Any = supernet.embeddings
    width = config["widths"][0]
    half, channels = top(stem.norm1.weight, width // 2), top(stem.norm2.weight, width)
    for number, rows, columns in ((1, half, None), (2, channels, half)):
        take(getattr(network.stem, f"conv{number}"), getattr(stem, f"conv{number}"), rows, columns)
        take(getattr(network.stem, f"norm{number}"), getattr(stem, f"norm{number}"), rows)
    for i, (stage, paths) in enumerate(zip(network.stages, supernet.by_stage(), strict=True)):
        if i:
            before, embedding = channels, embeddings[i - 1]
            channels = top(embedding.norm.weight, config["widths"][i])
            take(stage.downsample.conv, embedding.conv, channels, before)
            take(stage.downsample.norm, embedding.norm, channels)
        blocks = [block for block in stage.blocks if isinstance(block, Meta4D | Meta3D)]
        for block, position in zip(blocks, selection.positions[i], strict=True):
            path = paths[position]
            if isinstance(block, Meta4D):
                _take_4d(block, path.four, channels)
            else:
                _take_3d(block, path.three, channels)
    take(network.norm, supernet.norm, channels)
    take(network.head, supernet.head, None, channels)
    return network.train(supernet.training)


def _take_4d(block: Any, source: Any, channels: Tensor) -> None:
    hidden = top(source.mlp.norm1.weight, RATIO * len(channels))
    _take_mlp(block.mlp, source.mlp, channels, hidden)
    take(block.mlp.norm1, source.mlp.norm1, hidden)
    for name in ("mlp.norm2", "ls1", "ls2"):
        take(block.get_submodule(name), source.get_submodule(name), channels)


def _take_3d(block: Any, source: Any, channels: Tensor) -> None:
    hidden = top(source.mlp.fc1.weight.norm(dim=1), RATIO * len(channels))
    _take_mlp(block.mlp, source.mlp, channels, hidden)
    take(block.token_mixer.qkv, source.token_mixer.qkv, None, channels)
    take(block.token_mixer.proj, source.token_mixer.proj, channels)
    block.token_mixer.attention_biases.copy_(source.token_mixer.attention_biases)
    for name in ("norm1", "norm2", "ls1", "ls2"):
        take(block.get_submodule(name), source.get_submodule(name), channels)


def _take_mlp(mlp: Any, source: Any, channels: Tensor, hidden: Tensor) -> None:
    take(mlp.fc1, source.fc1, hidden, channels)
    take(mlp.fc2, source.fc2, channels, hidden)


def take(module: nn.Module, source: nn.Module, rows: Tensor | None, columns: Tensor | None = None) -> None:
    """Copy every parameter and buffer: `rows` of its first dimension, `columns` of its second (where it has one)."""
    wanted = source.state_dict()
    for name, tensor in module.state_dict().items():
        value = wanted[name]
        if rows is not None and value.ndim > 0:
            value = value[rows]
        if columns is not None and value.ndim > 1:
            value = value[:, columns]
        tensor.copy_(value)


def top(weight: Tensor, count: int) -> Tensor:
    """Ascending places of the `count` values of largest magnitude; of equal ones the first."""
    return weight.abs().argsort(descending=True, stable=True)[:count].sort().values
