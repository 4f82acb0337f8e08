"""The form in which a network ships: what training needs and inference does not is computed away.

`fold_batchnorm` works on any module. A batch norm in evaluation mode is a scale and a shift of every channel, so where its
only input is a convolution or a linear layer whose output nobody else reads, it becomes part of that layer's weight and
bias. Who reads what is found by tracing (torch.fx): the whole network where that is possible, else every submodule in
which it is. `fold` also asks each block for its own leaner form (`folded`).
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, fx, nn

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_AFFINE = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, *_TRANSPOSED)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_NOTHING = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)


@runtime_checkable
class Foldable(Protocol):
    """A block with a leaner form for inference."""

    def folded(self) -> nn.Module:
        """That form, equal in evaluation mode to rounding; may change and return the block itself, which is a copy by then."""
        ...


def fold(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode as it ships: batch norms folded, then every block that is `Foldable` in its folded form."""
    return _folded_blocks(fold_batchnorm(model), {})


def fold_batchnorm(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode in which every batch norm that can be is part of the layer before it.

    Folded: Conv, ConvTranspose (any groups, dilation, bias or none) and Linear over (B, C), also with dropouts between.
    Left alone: norms without running statistics, layers that are shared, hooked or parametrised, subclasses whose weight is
    not what they multiply by (a subclass may say that it is, by a class attribute `affine_in_weight = True`).
    """
    model = copy.deepcopy(model).eval()
    blocked = _blocked(model)
    for root, graph in _graphs(model, set()):
        for layer, norm in _pairs(root, graph):
            affine, batchnorm = root.get_submodule(layer), root.get_submodule(norm)
            if affine in blocked or batchnorm in blocked:
                continue
            _absorb(affine, batchnorm)
            root.set_submodule(norm, _rest(batchnorm))
    return model


def _folded_blocks(module: nn.Module, done: dict[nn.Module, nn.Module]) -> nn.Module:
    """Children first; a block that is used in several places is folded once."""
    if module not in done:
        for name, child in module._modules.items():
            if child is not None:
                module._modules[name] = _folded_blocks(child, done)
        done[module] = module.folded() if isinstance(module, Foldable) else module
    return done[module]


class _Tracer(fx.Tracer):
    """Takes layers, norms and modules that cannot be traced as they are, and looks into everything else."""

    def __init__(self, opaque: set[nn.Module]) -> None:
        super().__init__()
        self.opaque = opaque

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether to record a call and not look inside."""
        return m in self.opaque or isinstance(m, _AFFINE + _NORMS) or super().is_leaf_module(m, module_qualified_name)


def _graphs(module: nn.Module, opaque: set[nn.Module]) -> Iterator[tuple[nn.Module, fx.Graph]]:
    """The graph of a module, or of the largest parts of it that can be traced, then of the whole around the other parts."""
    if (graph := _graph(module, opaque)) is not None:
        yield module, graph
        return
    for child in module.children():
        if not isinstance(child, _AFFINE + _NORMS):
            yield from _graphs(child, opaque)
    if list(module.children()) and (graph := _graph(module, opaque)) is not None:
        yield module, graph
    else:
        opaque.add(module)


def _graph(module: nn.Module, opaque: set[nn.Module]) -> fx.Graph | None:
    try:
        return _Tracer(opaque).trace(module)
    except Exception:  # a forward may fail in any way when its input is a symbol
        return None


def _pairs(root: nn.Module, graph: fx.Graph) -> Iterator[tuple[str, str]]:
    """Names of (layer, norm) where the norm reads nothing but the layer and nothing else reads the layer."""
    called = [node for node in graph.nodes if node.op == "call_module"]
    uses = Counter(root.get_submodule(str(node.target)) for node in called)
    for node in called:
        norm = root.get_submodule(str(node.target))
        if not (type(norm) in _NORMS or _is_norm_act(norm)) or uses[norm] > 1:
            continue
        before = node.args[0] if node.args else None
        while _is_call(before, root, _NOTHING) and len(before.users) == 1:  # type: ignore[union-attr]
            before = before.args[0]  # type: ignore[union-attr]
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) != 1:
            continue
        layer = root.get_submodule(str(before.target))
        if uses[layer] == 1 and (type(layer) in _AFFINE or getattr(type(layer), "affine_in_weight", False)):
            yield str(before.target), str(node.target)


def _is_norm_act(module: nn.Module) -> bool:
    """timm's batch norm with the activation inside."""
    return type(module).__name__ == "BatchNormAct2d" and type(module).__module__.startswith("timm.")


def _rest(norm: nn.Module) -> nn.Module:
    """What is left to do when the scale and shift of a norm are gone."""
    return nn.Sequential(norm.drop, norm.act) if _is_norm_act(norm) else nn.Identity()  # type: ignore[arg-type]


def _is_call(node: object, root: nn.Module, kinds: tuple[type, ...]) -> bool:
    return isinstance(node, fx.Node) and node.op == "call_module" and isinstance(root.get_submodule(str(node.target)), kinds)


def _blocked(model: nn.Module) -> set[nn.Module]:
    """Modules that are shared, hooked, or share a parameter, and norms whose statistics are the batch's own."""
    modules = [m for _, m in model.named_modules(remove_duplicate=False)]
    places = Counter(modules)
    tensors = Counter(id(p) for m in places for p in m.parameters(recurse=False))
    return {
        m
        for m in places
        if places[m] > 1
        or m._forward_hooks
        or m._forward_pre_hooks
        or any(tensors[id(p)] > 1 for p in m.parameters(recurse=False))
        or (isinstance(m, _NORMS) and m.running_var is None)
    }


@torch.no_grad()
def _absorb(layer: nn.Module, norm: nn.Module) -> None:
    """Fold the norm's scale and shift into the layer, computed in double precision."""
    mean, variance = norm.running_mean.double(), norm.running_var.double()  # type: ignore[operator, union-attr]
    scale = (variance + norm.eps).rsqrt()  # type: ignore[operator]
    if norm.weight is not None:
        scale = scale * norm.weight.double()  # type: ignore[operator]
    shift = -mean * scale + (norm.bias.double() if norm.bias is not None else 0.0)  # type: ignore[operator]
    weight: Tensor = layer.weight  # type: ignore[assignment]
    if layer.bias is not None:
        shift = shift + layer.bias.double() * scale  # type: ignore[operator]
    scaled = scale_outputs(layer, weight.double(), scale)
    layer.weight = nn.Parameter(scaled.to(weight.dtype), requires_grad=weight.requires_grad)
    layer.bias = nn.Parameter(shift.to(weight.dtype), requires_grad=weight.requires_grad)


def scale_outputs(layer: nn.Module, weight: Tensor, scale: Tensor) -> Tensor:
    """The weight of `layer` with each output channel multiplied; transposed convolutions have those second, by groups."""
    if isinstance(layer, _TRANSPOSED):
        grouped = weight.unflatten(0, (layer.groups, -1))
        return (grouped * scale.view(layer.groups, 1, -1, *(1,) * (weight.ndim - 2))).flatten(0, 1)
    return weight * scale.view(-1, *(1,) * (weight.ndim - 1))
