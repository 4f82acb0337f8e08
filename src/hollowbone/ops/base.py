"""What an operator is: one function defined by plain PyTorch, with a faster implementation where there is one.

`register(Operator(...))` makes it known to torch as `torch.ops.hollowbone.NAME`, with shape inference, gradient, autocast and
a FLOP formula, so that `torch.compile`, `torch.export` and counters see one operator and need not know how it is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

NAMESPACE = "hollowbone"


@dataclass(frozen=True)
class Operator:
    """An operator and all that torch must know of it.

    `schema` is what follows the name in torch's own notation: `"(Tensor x, int stride) -> Tensor"`. `reference` takes these
    arguments and defines what is right, on every device and dtype. `cpu` may compute it otherwise. `shape` gives an empty
    result, `flops` the count from the arguments with shapes in place of tensors (as torch's counter has it), `save` and
    `backward` are torch's `setup_context` and backward, and `samples` arguments for tests that run over all operators.
    """

    name: str
    schema: str
    reference: Callable[..., torch.Tensor]
    cpu: Callable[..., torch.Tensor]
    shape: Callable[..., torch.Tensor]
    flops: Callable[..., int]
    save: Callable[[Any, tuple[Any, ...], torch.Tensor], None]
    backward: Callable[..., Any]
    samples: Callable[[], Iterable[tuple[Any, ...]]]

    @property
    def overload(self) -> Any:
        """The torch operator, `torch.ops.hollowbone.NAME.default`."""
        return getattr(torch.ops.hollowbone, self.name).default


OPERATORS: dict[str, Operator] = {}
"""Every registered operator by name."""


def register(operator: Operator) -> Operator:
    """Make `operator` known to torch; once a process."""
    name = f"{NAMESPACE}::{operator.name}"
    torch.library.define(name, operator.schema)
    torch.library.impl(name, "CompositeExplicitAutograd", operator.reference)
    torch.library.impl(name, "CPU", operator.cpu)
    torch.library.register_fake(name, operator.shape)
    torch.library.register_autograd(name, operator.backward, setup_context=operator.save)
    for device in ("cpu", "cuda"):
        torch.library.register_autocast(name, device, torch.float32)
    register_flop_formula(getattr(torch.ops.hollowbone, operator.name))(operator.flops)
    OPERATORS[operator.name] = operator
    return operator


def dense_forms() -> dict[Any, Callable[..., torch.Tensor]]:
    """A decomposition table for `ExportedProgram.run_decompositions`: every operator as torch's own.

    This is how a program with our operators goes to a runtime that does not have them.
    """
    return {operator.overload: operator.reference for operator in OPERATORS.values()}
