"""Counting what a network computes: parameters, multiply-adds, elementwise work, activations and bytes, by module.

Counting runs the entry point once under a dispatch mode and looks at every operator that PyTorch really calls, so that
nothing depends on how the model is written; on the `meta` device nothing is computed and large networks are counted in a
second. What is counted (DESIGN, "What is counted"):

- `macs`: multiply-adds of convolution, linear, matmul, attention, FFT, recurrent layers and operators that registered a
  formula (`formulas.py`). Attention is counted in its unfused form, two products and a softmax, whatever kernel would run,
  so that figures are equal on every device. (Of recurrent layers only the MACs are: a fused kernel writes less in between.)
- `elementwise`: elements written by arithmetic without multiply-adds (activation, addition, norm, pooling, softmax, resizing).
- `activations`: elements written by the operators that count MACs (their first result).
- `bytes_moved`: inputs, weights and outputs of the operators that count MACs, once each for each call, at their own width:
  the compulsory traffic of a runtime that fuses everything else into them.
- `uncounted`: operators that may have work and have no formula; never silently left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hollowbone.measure.formulas import first_tensor, has_formula, macs_of
from hollowbone.measure.operators import family
from hollowbone.measure.subject import call_of, open_attention

BACKWARD = "(backward)"
ROOT = "(top)"


@dataclass(frozen=True)
class ModuleCount:
    """What one module does itself, without its children; `name` is its path, `(top)` the model's own functional work.

    `bytes` is the traffic of operators that count MACs, `other_bytes` that of all others (norms, activations, copies).
    """

    name: str
    type: str
    params: int = 0
    macs: int = 0
    elementwise: int = 0
    activations: int = 0
    bytes: int = 0
    other_bytes: int = 0


@dataclass(frozen=True)
class Counts:
    """The counts of one call; sums of `by_module`, whose rows are in the order in which modules first run."""

    params: int
    buffers: int
    macs: int
    elementwise: int
    activations: int
    bytes_moved: int
    by_module: tuple[ModuleCount, ...]
    uncounted: tuple[str, ...] = ()

    @property
    def intensity(self) -> float | None:
        """Operations (two a MAC) for each byte of compulsory traffic; None where nothing counts MACs."""
        return 2 * self.macs / self.bytes_moved if self.bytes_moved else None


def count(model: nn.Module, example: Any, *, entry: str = "forward", mode: str = "infer") -> Counts:
    """Count one call of an entry point; `train` is forward plus the gradients of all parameters, in one `(backward)` row.

    `example` is an `Example`, a tensor or a tuple of arguments; the model is left as it was. Raises `UserError` for a mode
    or an entry point that does not exist.
    """
    model = getattr(model, "_orig_mod", model)
    with ExitStack() as stack:
        run = stack.enter_context(call_of(model, example, entry=entry, mode=mode))
        stack.enter_context(open_attention())
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        where = stack.enter_context(_current_module(model))
        counter = _Counter(where)
        stack.enter_context(counter)
        run()
    return _assemble(model, counter)


def params_of(model: nn.Module) -> int:
    """Elements of all parameters, shared ones once; packed weights of int8 layers are parameters too."""
    return sum(p.numel() for p in model.parameters()) + sum(_packed(m) for m in model.modules())


@dataclass
class _Tally:
    macs: int = 0
    elementwise: int = 0
    activations: int = 0
    bytes: int = 0
    other_bytes: int = 0


@dataclass
class _Where:
    """The stack of modules whose forward is running."""

    stack: list[nn.Module | None] = field(default_factory=lambda: [None])


class _Counter(TorchDispatchMode):
    def __init__(self, where: _Where) -> None:
        super().__init__()
        self.where = where
        self.tallies: dict[nn.Module | str | None, _Tally] = {}
        self.uncounted: dict[str, None] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not isinstance(func, torch._ops.OpOverload):  # a higher-order operator: its body runs inside it, unseen
            self.uncounted[str(func)] = None
            return func(*args, **kwargs)
        if not has_formula(func):
            with self:  # a composite operator (under inference mode it is seen whole) is counted by its parts
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        out = func(*args, **kwargs)
        if (kind := family(func)) != "view":
            self._count(func, kind, args, kwargs, out)
        return out

    def _count(self, func: torch._ops.OpOverload, kind: str, args: Any, kwargs: Any, out: Any) -> None:
        key = BACKWARD if torch._C._current_autograd_node() is not None else self.where.stack[-1]  # type: ignore[attr-defined]
        tally = self.tallies.setdefault(key, _Tally())
        macs = macs_of(func, args, kwargs, out) if has_formula(func) else None
        written = first_tensor(out)
        elements = 0 if written is None else written.numel()
        moved = _bytes(args, kwargs) + _bytes(out)
        if macs is not None:
            tally.macs += macs
            tally.activations += elements
            tally.bytes += moved
            return
        tally.other_bytes += moved
        if kind == "arithmetic":
            tally.elementwise += elements
        elif kind == "unknown":
            self.uncounted[str(func.overloadpacket)] = None


def _bytes(*values: Any) -> int:
    """Bytes of all tensors in the values, each once; a broadcast view counts what it is stored in."""
    tensors = {id(t): t for t in tree_leaves(values) if isinstance(t, Tensor)}
    return sum(_stored(t) for t in tensors.values())


def _stored(tensor: Tensor) -> int:
    logical = tensor.numel() * tensor.element_size()
    if tensor.layout != torch.strided or 0 not in tensor.stride():
        return logical
    distinct = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        distinct *= size if stride else min(size, 1)
    return distinct * tensor.element_size()


@contextmanager
def _current_module(model: nn.Module) -> Iterator[_Where]:
    where = _Where()

    def enter(module: nn.Module, args: Any) -> None:
        where.stack.append(module)

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        where.stack.pop()

    handles: list[Any] = []
    for module in model.modules():
        handles.append(module.register_forward_pre_hook(enter, prepend=True))
        handles.append(module.register_forward_hook(leave, always_call=True))
    try:
        yield where
    finally:
        for handle in handles:
            handle.remove()


def _packed(module: nn.Module) -> int:
    """Elements of the weight and bias that an int8 layer of torch.ao keeps in an opaque object."""
    if not isinstance(getattr(module, "_packed_params", None), torch.ScriptObject):
        return 0
    return sum(t.numel() for t in module._weight_bias() if t is not None)  # type: ignore[operator]


def _assemble(model: nn.Module, counter: _Counter) -> Counts:
    names = {module: name or ROOT for name, module in model.named_modules()}
    tallies = dict(counter.tallies)
    if None in tallies:  # an entry point other than forward works outside any module's call
        _merge(tallies.setdefault(model, _Tally()), tallies.pop(None))
    seen: set[int] = set()
    rows = []
    order = [*tallies, *(m for m in names if m not in tallies)]
    for key in order:
        own = [] if isinstance(key, str) or key is None else [p for p in key.parameters(recurse=False) if id(p) not in seen]
        seen.update(map(id, own))
        params = sum(p.numel() for p in own) + (_packed(key) if isinstance(key, nn.Module) else 0)
        tally = tallies.get(key)
        if tally is None and not params:
            continue
        name = key if isinstance(key, str) else names[key]  # type: ignore[index]
        kind = "" if isinstance(key, str) else type(key).__name__
        rows.append(ModuleCount(name, kind, params, **vars(tally or _Tally())))
    return Counts(
        params=sum(r.params for r in rows),
        buffers=sum(b.numel() for b in model.buffers()),
        macs=sum(r.macs for r in rows),
        elementwise=sum(r.elementwise for r in rows),
        activations=sum(r.activations for r in rows),
        bytes_moved=sum(r.bytes for r in rows),
        by_module=tuple(rows),
        uncounted=tuple(counter.uncounted),
    )


def _merge(into: _Tally, other: _Tally) -> None:
    for name, value in vars(other).items():
        setattr(into, name, getattr(into, name) + value)
