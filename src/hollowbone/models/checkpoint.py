"""Checkpoints: read without executing anything, brought into our names, checked tensor by tensor.

Files are read as safetensors or by `torch.load(weights_only=True)` alone; what these refuse is refused here. Names of other
code bases are translated by the functions in `ModelCard.keys`; which of them applies is found by trying each.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hollowbone.errors import UserError
from hollowbone.files import write_with
from hollowbone.models.base import ModelCard
from hollowbone.models.hub import Download, download, is_hub_id

# Where training scripts put the weights in their dict; an average comes before what it averages.
_WRAPPERS = ("model_ema", "state_dict_ema", "state_dict", "model", "model_state_dict")
_PREFIXES = ("module.", "_orig_mod.")


@dataclass(frozen=True)
class Loaded:
    """What `load_checkpoint` did: from which layout, which tensors were left fresh, under which licence."""

    layout: str
    fresh: tuple[str, ...] = ()
    licence: str = ""


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint file by name, on the CPU, unwrapped and without `module.` prefixes.

    Raises `UserError` where there is no such file, it is damaged, holds anything else than tensors and plain values (then
    nothing of it has been executed), or holds no tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no checkpoint file {path}" + ("; it is a folder" if path.is_dir() else ""))
    with open(path, "rb") as handle:
        start = handle.read(16)
    # safetensors begins with the length of a JSON header; torch files are zip archives or pickles.
    content = _read_safetensors(path) if start[8:9] == b"{" or path.suffix == ".safetensors" else _read_torch(path)
    while isinstance(content, Mapping) and (inner := next((k for k in _WRAPPERS if isinstance(content.get(k), Mapping)), None)):
        content = content[inner]
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__}, not a dict of tensors by name")
    state = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if not state:
        raise UserError(f"{path} holds no tensors by name; a checkpoint is a state dict, or a dict with one under {_WRAPPERS}")
    for prefix in _PREFIXES:
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _read_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} is damaged or is not a safetensors file ({error})") from error


def _read_torch(path: Path) -> Any:
    import pickle

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except pickle.UnpicklingError as error:
        if "Unsupported global" in str(error) or "WeightsUnpickler" in str(error):
            raise UserError(
                f"{path} is refused: it holds Python objects other than tensors, which could run code when loaded; nothing "
                "of it was executed; ask for the weights as safetensors, or save the state dict alone"
            ) from error
        raise UserError(f"{path} is damaged or is not a PyTorch checkpoint") from error
    except Exception as error:  # a damaged file can make the unpickler fail in any way
        raise UserError(f"{path} is damaged or is not a PyTorch checkpoint ({type(error).__name__})") from error


def load_checkpoint(model: nn.Module, card: ModelCard | None, source: str | Path) -> Loaded:
    """Fill `model` from a file or from a hub id (`hub:ORG/NAME[@REVISION]`), whatever the layout.

    Heads (`model.heads`) of another class count are left fresh, with a message; so is the first convolution summed over the
    colours where the model takes gray pictures. A network with `adapt_state_dict` may bring
    the tensors into its own form (tables of another resolution, two heads into one). Raises `UserError` that names the first
    tensors that do not match when the checkpoint is of another model; the model is then unchanged.
    """
    found = download(str(source).removeprefix("hub:")) if is_hub_id(source) else Download(Path(source))
    loaded = load_state_dict(model, read_state_dict(found.weights), layouts=card.keys if card else {}, source=str(source))
    return Loaded(loaded.layout, loaded.fresh, found.licence)


def load_state_dict(
    model: nn.Module, state: dict[str, Tensor], *, layouts: Mapping[str, Callable] | None = None, source: str = "the checkpoint"
) -> Loaded:
    """Like `load_checkpoint`, from tensors in memory."""
    own = model.state_dict()
    forms = {"hollowbone": state} | {name: translate(dict(state)) for name, translate in (layouts or {}).items()}
    layout = max(forms, key=lambda name: _matching(forms[name], own))
    state = forms[layout]
    if adapt := getattr(model, "adapt_state_dict", None):
        state = adapt(state)
    state, summed = _for_gray(state, own) if getattr(model, "in_chans", None) == 1 else (state, None)
    heads = tuple(f"{head}." for head in getattr(model, "heads", ()))
    fresh = tuple(k for k in state if k.startswith(heads) and k in own and state[k].shape != own[k].shape) if heads else ()
    if fresh and any(state[k].shape[1:] != own[k].shape[1:] for k in fresh):
        fresh = ()  # not another number of classes but another network
    else:
        # A head of a network without classes has nowhere to go.
        dropped = {k for k in state if heads and k.startswith(heads) and k not in own and not getattr(model, "num_classes", 1)}
        state = {k: v for k, v in state.items() if k not in fresh and k not in dropped}
    # BatchNorm's counter matters for training without momentum alone, and old files lack it.
    expected = {k for k in own if k not in fresh and not k.endswith("num_batches_tracked")}
    wrong = [
        f"{k} is {tuple(state[k].shape)}, not {tuple(own[k].shape)}"
        for k in own
        if k in state and state[k].shape != own[k].shape
    ]
    wrong += [f"{k} is missing" for k in own if k in expected and k not in state]
    wrong += [f"{k} is unknown" for k in state if k not in own]
    if wrong:
        more = f" (and {len(wrong) - 3} more)" if len(wrong) > 3 else ""
        raise UserError(
            f"{source} is not a checkpoint of {type(model).__name__} with these sizes: {'; '.join(wrong[:3])}{more}"
        )
    model.load_state_dict(state, strict=False)
    if summed:
        print(f"{source} takes colour pictures, the model gray ones: {summed} is summed over the colours", file=sys.stderr)
    if fresh:
        classes = forms[layout][fresh[0]].shape[0]
        print(f"{source} has {classes} classes, the model {own[fresh[0]].shape[0]}: its head starts fresh", file=sys.stderr)
    return Loaded(layout, fresh)


def _for_gray(state: dict[str, Tensor], own: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str | None]:
    """The first convolution for one channel, by its sum over three: the same output for pictures whose colours are equal."""
    for key, value in own.items():
        given = state.get(key)
        if given is not None and given.ndim == 4 and given.shape[1] == 3 and value.shape == (len(given), 1, *given.shape[2:]):
            return {**state, key: given.sum(dim=1, keepdim=True)}, key
    return state, None


def _matching(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> tuple[int, int]:
    """How many tensors fit, and (negative) how many belong nowhere."""
    fitting = sum(key in own and value.shape == own[key].shape for key, value in state.items())
    return fitting, -sum(key not in own for key in state)


def save_checkpoint(model: nn.Module, path: str | Path, *, metadata: Mapping[str, Any] | None = None) -> None:
    """Write all parameters and stored buffers as safetensors; metadata values are stored as JSON."""
    from safetensors.torch import save_file

    state = {key: value.detach().contiguous() for key, value in model.state_dict().items()}
    notes = {key: json.dumps(value) for key, value in (metadata or {}).items()}
    write_with(path, lambda temporary: save_file(state, temporary, metadata={"format": "pt", **notes}))
