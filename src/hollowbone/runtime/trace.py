"""What the exporters share: a network seen as a function from flat tensors to flat tensors, and quiet around their chatter.

A network may take keyword arguments, nested inputs and constants and return a dict; a file has a list of named inputs and
one of named outputs. `flatten` makes one into the other, once, for every format.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from hollowbone.errors import UserError
from hollowbone.runtime.base import Example, TensorSpec


class Flat(nn.Module):
    """`forward(*tensors) -> tuple of tensors` of a network called with the structure and constants of an example."""

    def __init__(self, network: nn.Module, leaves: Sequence[Any], spec: pytree.TreeSpec) -> None:
        super().__init__()
        self.network = network
        self._constants = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self._places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        self._spec = spec

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The network's tensors in the order of its output's structure."""
        leaves = list(self._constants)
        for place, tensor in zip(self._places, tensors, strict=True):
            leaves[place] = tensor
        args, kwargs = pytree.tree_unflatten(leaves, self._spec)
        return tuple(leaf for leaf in pytree.tree_leaves(self.network(*args, **kwargs)) if isinstance(leaf, Tensor))


@dataclass(frozen=True)
class Flattened:
    """A network ready for export: on the CPU, in evaluation mode, a copy of the user's.

    `tensors` are the example's; `trace_tensors` are the same with open axes of length 1 doubled, since tracers take a
    length of 1 for a constant. `dynamic[i]` names the open axes of input i. `outputs` are the network's, for `tensors`.
    """

    module: Flat
    tensors: tuple[Tensor, ...]
    trace_tensors: tuple[Tensor, ...]
    dynamic: tuple[dict[int, str], ...]
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    outputs: tuple[Tensor, ...]

    def fixed_specs(self) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        """Inputs and outputs with the shapes of the example, for formats that leave no axis open."""
        return specs_of(self.input_names, self.tensors), specs_of(self.output_names, self.outputs)

    def dynamic_shapes(self) -> tuple[dict[int, Any], ...]:
        """The open axes as `torch.export` takes them: the same `Dim` wherever they share a name."""
        dims = {name: torch.export.Dim(name) for axes in self.dynamic for name in axes.values()}
        return tuple({axis: dims[name] for axis, name in axes.items()} for axes in self.dynamic)


def specs_of(names: Sequence[str], tensors: Sequence[Tensor]) -> tuple[TensorSpec, ...]:
    """Specs with the shapes that these tensors have."""
    return tuple(
        TensorSpec(name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
        for name, tensor in zip(names, tensors, strict=True)
    )


def flatten(model: nn.Module, example: Example) -> Flattened:
    """The network as a function of flat tensors; the user's module is left as it is.

    Raises `UserError` if the network does not accept the example or returns no tensor.
    """
    network = copy.deepcopy(model).to("cpu").eval()
    arguments = ([_on_cpu(a) for a in example.args], {k: _on_cpu(v) for k, v in example.kwargs.items()})
    leaves, spec = pytree.tree_flatten((tuple(arguments[0]), arguments[1]))
    tensors = tuple(leaf for leaf in leaves if isinstance(leaf, Tensor))
    if not tensors:
        raise UserError("the example holds no tensor; a network is exported as a function of its tensors")
    module = Flat(network, leaves, spec).eval()
    names, dynamic = _names_and_axes(network, example)
    try:
        with torch.no_grad():
            result = network(*arguments[0], **arguments[1])
    except (TypeError, RuntimeError, ValueError) as error:
        shapes = ", ".join(str(tuple(t.shape)) for t in tensors)
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{type(model).__name__} does not accept the example (tensors of shape {shapes}): {reason}") from error
    outputs = tuple(leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor))
    if not outputs:
        raise UserError(f"{type(model).__name__} returned no tensor but {type(result).__name__}; there is nothing to export")
    return Flattened(module, tensors, _widen(tensors, dynamic), dynamic, names, _output_names(result, outputs, names), outputs)


def _on_cpu(value: Any) -> Any:
    return pytree.tree_map(lambda leaf: leaf.detach().cpu() if isinstance(leaf, Tensor) else leaf, value)


def _names_and_axes(network: nn.Module, example: Example) -> tuple[tuple[str, ...], tuple[dict[int, str], ...]]:
    """A name and the open axes for every tensor of the example: the argument's name, numbered where it holds several."""
    parameters = [p for p in inspect.signature(network.forward).parameters.values() if p.kind != p.VAR_KEYWORD]
    positional = [p.name for p in parameters if p.kind not in (p.KEYWORD_ONLY, p.VAR_POSITIONAL)]
    names: list[str] = []
    axes: list[dict[int, str]] = []
    arguments: list[tuple[int | str, Any]] = [*enumerate(example.args), *example.kwargs.items()]
    for key, value in arguments:
        name = key if isinstance(key, str) else positional[key] if key < len(positional) else f"input_{key}"
        count = sum(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(value))
        names += [name] if count == 1 else [f"{name}_{i}" for i in range(count)]
        axes += [dict(example.dynamic.get(key, {}))] * count
    for key in example.dynamic:
        if (isinstance(key, int) and key >= len(example.args)) or (isinstance(key, str) and key not in example.kwargs):
            raise UserError(f"the example leaves axes of argument {key!r} open but has no such argument")
    return tuple(names), tuple(axes)


def _output_names(result: Any, outputs: Sequence[Tensor], taken: Sequence[str]) -> tuple[str, ...]:
    if isinstance(result, Mapping) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in result.items()):
        names = list(result)
    elif len(outputs) == 1:
        names = ["output"]
    else:
        names = [f"output_{i}" for i in range(len(outputs))]
    return tuple(f"{name}_out" if name in taken else name for name in names)


def _widen(tensors: Sequence[Tensor], dynamic: Sequence[Mapping[int, str]]) -> tuple[Tensor, ...]:
    """Double open axes of length 1, everywhere at once where they share a name."""
    ones = {n for t, axes in zip(tensors, dynamic, strict=True) for a, n in axes.items() if t.shape[a] == 1}
    wide = []
    for tensor, axes in zip(tensors, dynamic, strict=True):
        for axis, name in axes.items():
            if name in ones:
                tensor = torch.cat([tensor] * 2, axis)
        wide.append(tensor)
    return tuple(wide)


def as_arrays(inputs: Sequence[Any]) -> list[np.ndarray]:
    """Tensors or arrays as contiguous numpy arrays."""
    return [np.asarray(x.detach().cpu().numpy() if isinstance(x, Tensor) else x, order="C") for x in inputs]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep exporters' warnings, log lines and progress bars from the user; their exceptions come through."""
    previous = logging.root.manager.disable
    sink = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(previous)


@contextlib.contextmanager
def exporting(model: nn.Module, format: str) -> Iterator[None]:
    """Quiet, and whatever an exporter raises becomes one sentence that names the network and the format."""
    try:
        with quiet():
            yield
    except Exception as error:  # exporters raise anything: the user's module is what they could not follow
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(f"{type(model).__name__} cannot be exported to {format}: {reason}") from error
