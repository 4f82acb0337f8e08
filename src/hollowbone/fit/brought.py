"""Models that the user brings (`--start`, `--teacher`): tried at the door, and kept in the run's folder by their content.

From there on a run knows such a model by its network's name and by the SHA-256 of its weights, never by a path: so a resume
notices that a file has changed, and a replay into another folder decides the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from hollowbone.errors import UserError
from hollowbone.fit.folder import RunFolder
from hollowbone.fit.journal import Journal
from hollowbone.fit.settings import Settings
from hollowbone.fit.trial import keep_weights
from hollowbone.models.efficientformer import EfficientFormer
from hollowbone.search.base import Config
from hollowbone.tasks.base import Data


@dataclass(frozen=True)
class Brought:
    """An opened model: its configuration, and its weights where it comes with some (else it is trained from scratch)."""

    config: Config
    weights: Mapping[str, Tensor] | None = field(default=None, repr=False)


def open_all(settings: Settings, data: Data) -> dict[str, Brought]:
    """The models of `--start` and `--teacher`, as far as they are given, by role."""
    given = {"start": settings.start, "teacher": settings.teacher}
    return {role: open_model(name, data, role=role, seed=settings.seed) for role, name in given.items() if name}


def keep_all(opened: Mapping[str, Brought], folder: RunFolder, journal: Journal) -> dict[str, Config]:
    """Configurations by role, which name weights (`init_sha`) that the folder now keeps.

    Raises `UserError` for weights that are not those with which the folder's run began.
    """
    return {role: _kept(role, model, folder, journal) for role, model in opened.items()}


def open_model(given: str, data: Data, *, role: str, seed: int) -> Brought:
    """The network of that name for the data's classes and channels.

    Where its weights are of another number of classes the head is fresh (drawn from the seed). An EfficientFormer is brought
    to the data's resolution: its tables of biases are interpolated, and its two heads become one. Raises `UserError` for what
    `models.given.network` refuses, a network that cannot take the data's pictures, and a teacher without weights or with
    another number of classes.
    """
    from hollowbone.models.given import network

    sizes: dict[str, Any] = {"num_classes": len(data.classes), "in_chans": data.preprocessing.in_chans}
    torch.manual_seed(seed)
    model: Any = network(_ours(given), **sizes)
    loaded: Any = getattr(model, "loaded", None)
    own = not hasattr(model, "card")  # the user's function, which may know where its weights are
    if role == "teacher" and loaded is None and not own:
        raise UserError(f"--teacher {given} has no weights, so it has nothing to teach; give NAME@FILE or a hub id")
    if role == "teacher" and loaded is not None and loaded.fresh:
        raise UserError(f"--teacher {given} was trained for other classes than the {len(data.classes)} of the data")
    resolution = data.preprocessing.resolution
    config: dict[str, Any] = {
        "space": "model",
        "name": given.partition("@")[0] if own else model.card.name,
        **sizes,
        "resolution": list(resolution),
    }
    if isinstance(model, EfficientFormer) and resolution[0] == resolution[1]:
        model, config = _at_resolution(model, resolution[0], sizes)
    _try(model.eval(), given, role, data)
    weights = loaded is not None or (role == "teacher" and own)
    return Brought(config, model.state_dict() if weights else None)


def _kept(role: str, model: Brought, folder: RunFolder, journal: Journal) -> Config:
    if model.weights is None:
        return model.config
    sha = keep_weights(model.weights, folder)
    if journal.result(f"{role}/weights", lambda: sha) != sha:
        raise UserError(f"the weights of --{role} are not those of the run in {folder.path}; give another --out")
    return {**model.config, "init_sha": sha}


def _ours(given: str) -> str:
    """The name under which hollowbone itself has a network of timm's: such a one can be slimmed."""
    from hollowbone.models.base import cards

    name, at, weights = given.partition("@")
    own = name.removeprefix("timm:").split(".")[0]
    return own + at + weights if name.startswith("timm:") and own in cards() else given


def _at_resolution(model: EfficientFormer, resolution: int, sizes: dict[str, int]) -> tuple[nn.Module, dict[str, Any]]:
    """The network as a member of the search space, which computes the same at this resolution."""
    from hollowbone.models.checkpoint import load_state_dict
    from hollowbone.search.efficientformer_space import EfficientFormerSpace
    from hollowbone.search.transplant import former_config

    config = former_config(model, resolution=resolution, **sizes)
    network = EfficientFormerSpace().build(config)
    load_state_dict(network, model.state_dict())
    return network, dict(config)


def _try(model: nn.Module, given: str, role: str, data: Data) -> None:
    """A blank picture through the network: it must take the data's size and give a logit a class."""
    height, width = data.preprocessing.resolution
    channels = data.preprocessing.in_chans
    try:
        with torch.inference_mode():
            out = model(torch.zeros(1, channels, height, width))
    except Exception as error:  # a foreign network may refuse a size in any way
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"--{role} {given} cannot take pictures of {channels}x{height}x{width}: {first}") from error
    out = out[0] if isinstance(out, tuple | list) else out
    if not isinstance(out, torch.Tensor) or out.shape != (1, len(data.classes)):
        raise UserError(f"--{role} {given} does not classify: it must return one logit for each of {len(data.classes)} classes")
