"""The candidate contract: a space of networks whose configurations are JSON, and whose latency a table predicts.

`fit` and every search method speak to a space through four questions: what to propose, what a configuration builds, what
it will cost, and which actions shrink it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import nn

Config = Mapping[str, Any]
"""JSON values only; `space` names the space that can build it."""


@dataclass(frozen=True)
class BlockSpec:
    """One timed building block: its kind and every size on which its latency depends, as plain JSON.

    `kind` and `sizes` go to the space's `block(spec) -> (module, input shape)`; `count` copies of it are in the network.
    """

    kind: str
    sizes: tuple[tuple[str, int], ...]
    count: int = 1

    @property
    def key(self) -> str:
        """The entry's name in the table."""
        return self.kind + "(" + ",".join(f"{k}={v}" for k, v in self.sizes) + ")"


@dataclass(frozen=True)
class Action:
    """One way to shrink a configuration: `kind` is depth, mixer, width or resolution; `config` is what is left after it."""

    kind: str
    detail: str
    config: Config


class Table(Protocol):
    """Predicted milliseconds of a network as a sum of measured entries plus a fitted offset."""

    def latency(self, blocks: Iterable[BlockSpec]) -> float:
        """Sum over blocks, entries measured on demand."""
        ...


class Space(Protocol):
    """A family of networks."""

    name: str

    def propose(
        self, *, limit_ms: float, predict: Callable[[Config], float], resolution: int, num_classes: int, in_chans: int
    ) -> list[Config]:
        """Configurations predicted to meet the limit, the most promising first; empty if none does."""
        ...

    def smallest(self, *, resolution: int, num_classes: int, in_chans: int) -> Config:
        """The fastest configuration of the space, for saying how far a budget is out of reach."""
        ...

    def build(self, config: Config) -> nn.Module:
        """The network, freshly initialised."""
        ...

    def blocks(self, config: Config) -> list[BlockSpec]:
        """The network as timed blocks."""
        ...

    def block(self, spec: BlockSpec) -> tuple[nn.Module, tuple[int, ...]]:
        """The module of one block and the shape of its input."""
        ...

    def latency(self, config: Config, table: Table) -> float:
        """Predicted milliseconds."""
        ...

    def actions(self, config: Config) -> list[Action]:
        """Every single step that shrinks the configuration."""
        ...


def canonical(config: Config) -> str:
    """One line of JSON with sorted keys: the identity of a configuration."""
    return json.dumps(config, sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True)
class SlimmingStep:
    """One chosen action of a slimming: what, the accuracy it cost, the milliseconds it saved, and what was considered."""

    action: Action
    accuracy: float
    accuracy_drop: float
    saved_ms: float
    latency_ms: float
    considered: tuple[Mapping[str, Any], ...] = field(default=())
