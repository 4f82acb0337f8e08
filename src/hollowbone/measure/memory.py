"""Peak memory of a call in PyTorch, exactly and repeatably: bytes of all tensors alive at the worst moment.

Every storage that an operator returns is followed until Python and autograd let go of it. Parameters, buffers and inputs
are alive from the start. What a kernel allocates and frees inside one operator (a packed copy of a weight, a patch matrix)
is not seen, nor is the allocator's rounding; the peak of an exported file, which is a process's resident memory, has both.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hollowbone.measure.subject import call_of, open_attention, placed


class _Live(TorchDispatchMode):
    """Bytes of living storages, now and at the most."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.peak = 0
        self._known: dict[int, tuple[weakref.ref[Any], int]] = {}

    def follow(self, value: Any) -> None:
        """Count the storages of all tensors in the value, until they are freed."""
        for tensor in tree_leaves(value):
            if isinstance(tensor, Tensor):
                for part in _plain_tensors(tensor):
                    self._follow(part.untyped_storage())
        self.peak = max(self.peak, self.now)

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        known = self._known.get(key)
        if known is None:
            self._known[key] = (weakref.ref(storage, lambda _: self._forget(key)), size)
            self.now += size
        elif known[1] != size:  # `resize_` has made it grow or shrink
            self._known[key] = (known[0], size)
            self.now += size - known[1]

    def _forget(self, key: int) -> None:
        self.now -= self._known.pop(key)[1]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.follow(out)
        return out


def _plain_tensors(tensor: Tensor) -> list[Tensor]:
    """The tensors that hold the data: itself, or the parts of a packed or sparse tensor."""
    if hasattr(tensor, "__tensor_flatten__"):
        names, _ = tensor.__tensor_flatten__()
        return [part for name in names for part in _plain_tensors(getattr(tensor, name))]
    if tensor.layout == torch.sparse_coo:
        return [tensor._indices(), tensor._values()]
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    return [] if tensor.layout != torch.strided else [tensor]


def peak_bytes(model: nn.Module, example: Any, *, entry: str = "forward", mode: str = "infer") -> int:
    """Peak bytes of living tensors during one call, weights and inputs included.

    In `train` mode that is forward and backward with the gradients of all parameters; the optimiser's state is not in it.
    """
    live, example = _Live(), placed(example, model)
    with call_of(model, example, entry=entry, mode=mode) as run, open_attention():
        live.follow([*model.parameters(), *model.buffers(), example.args, example.kwargs])
        with live:
            result = run()
    del result
    return live.peak
