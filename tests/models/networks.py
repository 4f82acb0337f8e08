"""What the tests of networks share: shaken networks, the error measure, and which cards the costly checks run on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hollowbone.models.base import ModelCard, cards

CARDS = tuple(cards().values())
_FIRST = {card.system: card for card in reversed(CARDS)}
ONE_A_SYSTEM = tuple(card if _FIRST[card.system] is card else pytest.param(card, marks=pytest.mark.slow) for card in CARDS)
"""Every card; variants of a system beyond its first, whose tiny forms run the same code, are marked slow."""

_SORTED = sorted(_FIRST.values(), key=lambda card: card.params or 0)
SMALLEST = (_SORTED[0], *(pytest.param(card, marks=pytest.mark.slow) for card in _SORTED[1:]))
"""The first card of every system; all but the smallest network are marked slow."""


def name_of(card: ModelCard) -> str:
    return card.name


def shaken(model: nn.Module, seed: int = 0) -> nn.Module:
    """Norms, scales and biases away from their neutral initial values, where a missing one would not show; eval mode."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.2, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.empty_like(parameter).normal_(0, 0.3, generator=generator))
            elif bool((parameter == 0).all()):
                parameter.normal_(0, 0.5, generator=generator)
    return model.eval()


def tiny(card: ModelCard, **overrides: object) -> nn.Module:
    torch.manual_seed(0)
    return shaken(card.tiny(**overrides))


def pictures(card: ModelCard, batch: int = 2, *, in_chans: int = 3, size: tuple[int, int] | None = None) -> Tensor:
    height, width = size or card.tiny_size[1:]
    return torch.randn(batch, in_chans, height, width, generator=torch.Generator().manual_seed(1))


def error(a: Tensor, b: Tensor) -> float:
    """max|a-b| / max(1, max|b|)."""
    assert a.shape == b.shape
    a, b = a.detach(), b.detach()
    return float((a - b).abs().max() / b.abs().max().clamp(min=1.0))
