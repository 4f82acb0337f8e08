"""A made-up device on which a network costs what its layers cost, exactly."""

from __future__ import annotations

import torch
from torch import nn

from hollowbone.runtime.base import Example


def cost(module: nn.Module) -> float:
    """Milliseconds: something for every layer with weights, and more the larger they are."""
    layers = [m for m in module.modules() if any(True for _ in m.parameters(recurse=False))]
    return sum(1e-4 + 1e-7 * sum(p.numel() for p in m.parameters(recurse=False)) for m in layers)


class AddingTimer:
    """Every session costs `overhead`; the layers of a whole network cost `scale` times what they cost in a chain."""

    def __init__(self, *, overhead: float = 0.0, scale: float = 1.0) -> None:
        self.overhead, self.scale = overhead, scale
        self.timed = 0

    def pair(self, a: nn.Module, b: nn.Module, shape: tuple[int, ...]) -> tuple[float, float]:
        with torch.no_grad():
            a.eval()(torch.zeros(shape)), b.eval()(torch.zeros(shape))  # chains must run
        self.timed += 2
        return self.overhead + cost(a), self.overhead + cost(b)

    def one(self, module: nn.Module, shape: tuple[int, ...]) -> float:
        self.timed += 1
        return self.overhead + self.scale * cost(module)


class NoDevice:
    """Has a name and a fingerprint, and cannot time."""

    def __init__(self, fingerprint: str = "0" * 8) -> None:
        self.name, self._fingerprint = "nowhere", fingerprint

    def fingerprint(self) -> str:
        return self._fingerprint


def example(config: dict) -> Example:
    return Example(args=(torch.randn(1, config["in_chans"], config["resolution"], config["resolution"]),))
