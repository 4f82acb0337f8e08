"""The network contract: a `ModelCard` for every variant, a registry, and the plumbing that every backbone shares.

A *network* is any `nn.Module` with a card. A *backbone* is a network that subclasses `Backbone`: it lists its stages and
gets `forward_features`, `feature_maps`, `feature_info` and `reset_classifier` from here, so that a model file holds its
blocks, its table of variants and its forward, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from hollowbone.errors import UserError, unknown
from hollowbone.runtime.base import Example


@dataclass(frozen=True)
class FeatureInfo:
    """One feature map of a backbone: channels, stride against the input (`reduction`), name of the module that makes it."""

    num_chs: int
    reduction: int
    module: str


class Backbone(nn.Module):
    """A network that classifies and whose features any task head can use. Names and meanings are timm's.

    Subclasses set `num_classes`, `in_chans`, `num_features` (channels that reach the head) and `feature_info`, and define
    `feature_maps` (finest first), `forward_features` (the tensor that the head pools) and `forward_head`.
    """

    num_classes: int
    in_chans: int
    num_features: int
    feature_info: tuple[FeatureInfo, ...]
    heads: tuple[str, ...] = ()
    """Names of the submodules that depend on the number of classes."""

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        """Maps (B, C_i, H_i, W_i) at the strides of `feature_info`, finest first."""
        raise NotImplementedError

    def forward_features(self, x: Tensor) -> Tensor:
        """The last features before pooling."""
        raise NotImplementedError

    def forward_head(self, x: Tensor) -> Any:
        """Pool and classify what `forward_features` returned."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Any:
        """Logits (B, num_classes); what a network returns in training mode is in its own docstring."""
        return self.forward_head(self.forward_features(x))

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the head by a fresh one; 0 classes leave the pooled features."""
        raise NotImplementedError


@dataclass(frozen=True)
class ModelCard:
    """What is known about a variant before it is built.

    `build(**overrides)` makes it; `sizes` are the default arguments of `example`. `params` and `macs` are the published or
    measured exact counts at `input_size`; `reference_params` is set where the published code counts parameters that no
    output depends on, and `note` says which. `dead` names parameters (glob patterns) that get no gradient in training.
    `keys` maps the name of a foreign checkpoint layout ("official", "timm", "torchvision") to a function from that layout's
    state dict to ours. `hub` is the Hugging Face id of the weights that `pretrained=True` reads, empty where there are none.
    """

    name: str
    system: str
    build: Callable[..., nn.Module]
    tiny_overrides: Mapping[str, Any]
    task: str = "classification"
    input_size: tuple[int, int, int] = (3, 224, 224)
    params: int | None = None
    macs: int | None = None
    reference_params: int | None = None
    published: Mapping[str, Any] = field(default_factory=dict)
    keys: Mapping[str, Callable[[dict[str, Tensor]], dict[str, Tensor]]] = field(default_factory=dict)
    entries: tuple[str, ...] = ("forward",)
    dead: tuple[str, ...] = ()
    tiny_size: tuple[int, int, int] = (3, 64, 64)
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    note: str = ""
    hub: str = ""

    def tiny(self, **overrides: Any) -> nn.Module:
        """The same code with small numbers, for tests."""
        return self.build(**{**self.tiny_overrides, **overrides})

    def example(
        self, *, batch: int = 1, in_chans: int | None = None, resolution: int | tuple[int, int] | None = None, seed: int = 0
    ) -> Example:
        """Random inputs (B, C, H, W) at the card's size, or the size given."""
        channels, height, width = self.input_size
        if resolution is not None:
            height, width = (resolution, resolution) if isinstance(resolution, int) else resolution
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(batch, in_chans or channels, height, width, generator=generator)
        return Example(args=(x,), dynamic={0: {0: "batch"}}, unit="image", units=batch)


_REGISTRY: dict[str, ModelCard] = {}

FAMILIES: tuple[str, ...] = ("efficientformer", "mobilenetv2")
"""Modules of this package that register cards; one line a paper."""


def register(*cards: ModelCard) -> None:
    """Add variants to the registry; a name is registered once."""
    for card in cards:
        if card.name in _REGISTRY:
            raise ValueError(f"the model {card.name!r} is registered twice")
        _REGISTRY[card.name] = card


@cache
def _load_families() -> None:
    for family in FAMILIES:
        import_module(f"hollowbone.models.{family}")


def cards() -> dict[str, ModelCard]:
    """Every registered variant by name."""
    _load_families()
    return dict(sorted(_REGISTRY.items()))


def card(name: str) -> ModelCard:
    """The card of a variant; `UserError` names the nearest if there is none."""
    known = cards()
    if name not in known:
        raise unknown("model", name, known)
    return known[name]


def list_models(pattern: str = "*", *, task: str | None = None) -> list[str]:
    """Names of registered variants that match a glob pattern, optionally for one task."""
    return [name for name, c in cards().items() if fnmatchcase(name, pattern) and task in (None, c.task)]


def check_sizes(*, num_classes: int, in_chans: int) -> None:
    """Raise `UserError` unless both are usable."""
    if num_classes < 0:
        raise UserError(f"num_classes must be 0 (features only) or more, not {num_classes}")
    if in_chans < 1:
        raise UserError(f"in_chans must be 1 or more, not {in_chans}")
