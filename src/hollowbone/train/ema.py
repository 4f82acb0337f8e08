"""The exponential moving average of the weights (Polyak and Juditsky 1992), with the decay warmed up."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn


def decay_at(decay: float, step: int) -> float:
    """min(decay, (1 + t) / (10 + t)) with t = updates so far: early averages forget the initialisation quickly."""
    return min(decay, (1 + step) / (10 + step))


class Average:
    """A copy of a model whose parameters and floating-point buffers follow the model's: a <- a + (1 - d)(m - a).

    Integer buffers (counters) are copied. `model` is the copy, in evaluation mode.
    """

    def __init__(self, source: nn.Module, decay: float) -> None:
        self.decay, self.updates, self.source = decay, 0, source
        self.model = copy.deepcopy(source).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self) -> None:
        """Take one step towards the source."""
        mine, theirs = _tensors(self.model), _tensors(self.source)
        floating = [(m, t) for m, t in zip(mine, theirs, strict=True) if m.is_floating_point()]
        torch._foreach_lerp_([m for m, _ in floating], [t for _, t in floating], 1 - decay_at(self.decay, self.updates))
        for m, t in zip(mine, theirs, strict=True):
            if not m.is_floating_point():
                m.copy_(t)
        self.updates += 1

    def state_dict(self) -> dict[str, Any]:
        """Weights and the number of updates."""
        return {"model": self.model.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse."""
        self.model.load_state_dict(state["model"])
        self.updates = state["updates"]


def _tensors(model: nn.Module) -> list[Tensor]:
    """Parameters and buffers, each once even where modules share them."""
    return [p.data for p in model.parameters()] + list(model.buffers())
