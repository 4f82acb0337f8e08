"""`create_model`: any network of the catalogue, or of timm where that is installed, by name, with or without weights."""

from __future__ import annotations

import inspect
import sys
from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn

from hollowbone.errors import UserError, unknown
from hollowbone.models import base
from hollowbone.models.base import ModelCard
from hollowbone.models.checkpoint import load_checkpoint
from hollowbone.models.hub import download, is_hub_id


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    in_chans: int | None = None,
    pretrained: bool = False,
    checkpoint: str | None = None,
    **overrides: Any,
) -> nn.Module:
    """Build a network with its card as `.card`; where weights were loaded, `.loaded` says how and `.licence` (hub) under which.

    `name` is a name of `list_models`, `NAME@FILE` or `NAME@hub:ORG/NAME` (with weights), a hub id `hub:ORG/NAME[@REVISION]`
    (the hub's `config.json` says which network), or `timm:NAME`. `checkpoint` is a file or a hub id; `pretrained` reads the
    card's own hub id. Other arguments are the network's constructor's. Classes default to the card's (1000), channels to 3.

    Raises `UserError` for an unknown name or argument, a value out of range, and weights that cannot be read or do not fit.
    """
    if is_hub_id(name):
        checkpoint = _once(checkpoint, name)
        found = download(name)
        if not found.architecture:
            raise UserError(f"{name} does not say which network it is; give its name too: NAME@{_prefixed(name)}")
        name, num_classes = found.architecture, found.num_classes if num_classes is None else num_classes
    elif "@" in name:
        name, given = name.split("@", 1)
        checkpoint = _once(checkpoint, given)
    card = timm_card(name.removeprefix("timm:")) if name.startswith("timm:") else base.card(name)
    if pretrained:
        checkpoint = _once(checkpoint, _weights_of(card))
    sizes = {"num_classes": num_classes, "in_chans": in_chans}
    arguments = {key: value for key, value in sizes.items() if value is not None} | overrides
    _check_overrides(card, arguments)
    model = card.build(**arguments)
    model.card = card  # type: ignore[assignment]
    if checkpoint:
        loaded = load_checkpoint(model, card, checkpoint)
        model.loaded = loaded  # type: ignore[assignment]
        if is_hub_id(checkpoint):
            model.licence = loaded.licence or "not stated"  # type: ignore[assignment]
            print(f"weights of {checkpoint.removeprefix('hub:')}: licence {model.licence}", file=sys.stderr)
    return model


def timm_card(name: str) -> ModelCard:
    """A card for a network of timm, which must be installed; sizes and preprocessing are timm's own."""
    timm = _timm()
    if not timm.is_model(name.split(".")[0]):
        raise unknown("timm model", name, timm.list_models())
    facts = timm.get_pretrained_cfg(name, allow_unregistered=False)
    card = ModelCard(name=f"timm:{name}", system="timm", build=partial(_build_timm, name), tiny_overrides={})
    if facts is None:
        return card
    hub = facts.hf_hub_id or ""
    return replace(card, input_size=tuple(facts.input_size), mean=tuple(facts.mean), std=tuple(facts.std), hub=hub)


def _build_timm(name: str, **arguments: Any) -> nn.Module:
    try:
        model = _timm().create_model(name, pretrained=False, **arguments)
    except TypeError as error:
        raise UserError(f"timm's {name} does not take these arguments: {error}") from error
    if not hasattr(model, "heads"):  # what depends on the number of classes, as our own networks say it
        named = (getattr(model, "pretrained_cfg", None) or {}).get("classifier") or ()
        model.heads = (named,) if isinstance(named, str) else tuple(named)
    return model


def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise UserError("timm:NAME needs timm: pip install timm") from error
    return timm


def _check_overrides(card: ModelCard, arguments: dict[str, Any]) -> None:
    parameters = inspect.signature(card.build).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    for key in arguments:
        if key not in parameters:
            raise unknown(f"argument of {card.name}", key, parameters)


def _once(checkpoint: str | None, other: str) -> str:
    if checkpoint and checkpoint != other:
        raise UserError(f"weights are given twice: {checkpoint} and {other}; leave one out")
    return other


def _weights_of(card: ModelCard) -> str:
    if not card.hub:
        raise UserError(f"no weights of {card.name} are published; give your own with checkpoint=FILE, or train it")
    return _prefixed(card.hub)


def _prefixed(hub_id: str) -> str:
    return hub_id if hub_id.startswith("hub:") else f"hub:{hub_id}"
