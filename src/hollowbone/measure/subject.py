"""What is measured: a model's entry point called on an example, in inference or training, leaving no trace in the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from hollowbone.errors import UserError
from hollowbone.runtime.base import Example

Mode = Literal["infer", "train"]


def as_example(example: Example | Tensor | tuple[Any, ...] | None) -> Example:
    """An `Example` from what a user passes: an Example, one tensor, or a tuple of arguments."""
    if isinstance(example, Example):
        return example
    if isinstance(example, Tensor):
        return Example(args=(example,), units=example.shape[0] if example.dim() > 1 else 1)
    if isinstance(example, tuple):
        first = next((a for a in example if isinstance(a, Tensor)), None)
        return Example(args=example, units=1 if first is None or first.dim() < 2 else first.shape[0])
    raise UserError(
        f"a model is measured on an example: a tensor, a tuple of arguments or an Example, not {type(example).__name__}"
    )


def home(model: nn.Module) -> torch.device:
    """Where the model's first parameter or buffer is; the CPU if it has none."""
    tensors = (t for some in (model.parameters(), model.buffers()) for t in some)
    return next((t.device for t in tensors), torch.device("cpu"))


def placed(example: Any, model: nn.Module) -> Example:
    """The example with its tensors where the model is, on the `meta` device too."""
    example, device = as_example(example), home(model)
    args, kwargs = tree_map(lambda x: x.to(device) if isinstance(x, Tensor) else x, (example.args, example.kwargs))
    return replace(example, args=args, kwargs=kwargs)


def check_mode(mode: str) -> None:
    """Raise `UserError` unless the mode is one of the two that a `Cost` knows."""
    if mode not in ("infer", "train"):
        raise UserError(f"mode is 'infer' or 'train', not {mode!r}")


def entry_point(model: nn.Module, entry: str) -> Callable[..., Any]:
    """The callable named `entry`; `forward` is the model itself, so that its hooks run."""
    if entry == "forward":
        return model
    function = getattr(model, entry, None)
    if not callable(function):
        raise UserError(f"{type(model).__name__} has no entry point named {entry!r}; its forward is called 'forward'")
    return function


@contextmanager
def call_of(model: nn.Module, example: Any, *, entry: str = "forward", mode: str = "infer") -> Iterator[Callable[[], Any]]:
    """A function of no arguments that does the work once: forward, or forward and backward to every parameter.

    Inside, the model is in evaluation or training mode; afterwards its modes, buffers, gradients and the random state
    are as before. Tensors of the example are moved to where the model is (the `meta` device too). Gradients are those of
    the sum of all floating-point outputs; the optimiser's step is not part of it.
    """
    check_mode(mode)
    model = getattr(model, "_orig_mod", model)  # the module inside torch.compile's wrapper
    example = placed(example, model)
    args, kwargs = example.args, example.kwargs
    function = entry_point(model, entry)
    modes = {module: module.training for module in model.modules()}

    def infer() -> Any:
        return function(*args, **kwargs)

    def train() -> Any:
        outputs = [t for t in tree_leaves(function(*args, **kwargs)) if isinstance(t, Tensor) and t.requires_grad]
        if not outputs:
            raise UserError(
                f"{type(model).__name__}.{entry} returns nothing that can be trained: no output depends on a parameter"
            )
        wanted = [p for p in model.parameters() if p.requires_grad]
        return torch.autograd.grad(outputs, wanted, [torch.ones_like(t) for t in outputs], allow_unused=True)

    training = mode == "train"
    buffers = {name: b.detach().clone() for name, b in model.named_buffers()} if training else {}
    model.train(training)
    try:
        with torch.random.fork_rng(devices=[]), torch.set_grad_enabled(training):
            yield train if training else infer
    finally:
        for module, before in modes.items():
            module.training = before
        with torch.no_grad():
            for name, value in buffers.items():
                model.get_buffer(name).copy_(value)


@contextmanager
def open_attention() -> Iterator[None]:
    """`nn.MultiheadAttention` by its ordinary operators: its fused path hides products and memory in one opaque call."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def pinned_threads(threads: int) -> Iterator[None]:
    """PyTorch's intra-op threads set to a number, and set back."""
    if threads < 1:
        raise UserError(f"threads must be 1 or more, not {threads}")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
