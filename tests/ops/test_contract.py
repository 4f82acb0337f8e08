"""What every registered operator promises to torch; a new operator needs no test of its own for this."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.library import opcheck
from torch.utils.flop_counter import FlopCounterMode

import hollowbone.ops.depthwise  # noqa: F401  registers
from hollowbone.ops import dense_forms, native
from hollowbone.ops.base import OPERATORS, Operator

EVERY_ISA = (*native.available(), native.REFERENCE)

operators = pytest.mark.parametrize("operator", OPERATORS.values(), ids=lambda operator: operator.name)


class Call(torch.nn.Module):
    """A call of an operator with its last arguments fixed and its tensors given."""

    def __init__(self, operator: Operator, sample: tuple[Any, ...]) -> None:
        super().__init__()
        self.overload = operator.overload
        self.rest = [a for a in sample if not isinstance(a, torch.Tensor)]

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        return self.overload(*tensors, *self.rest)


def tensors(sample: tuple[Any, ...]) -> tuple[torch.Tensor, ...]:
    return tuple(a for a in sample if isinstance(a, torch.Tensor))


@operators
@pytest.mark.parametrize("isa", EVERY_ISA)
def test_operator_equals_its_reference(operator: Operator, isa: str) -> None:
    with native.using(isa):
        for sample in operator.samples():
            torch.testing.assert_close(operator.overload(*sample), operator.reference(*sample), rtol=1e-5, atol=1e-5)


@operators
def test_torch_accepts_schema_shape_inference_and_gradient(operator: Operator) -> None:
    for sample in operator.samples():
        opcheck(operator.overload, tuple(a.requires_grad_() if isinstance(a, torch.Tensor) else a for a in sample))


@operators
@pytest.mark.parametrize("isa", {native.isa(), native.REFERENCE})
def test_gradients_equal_those_of_the_reference(operator: Operator, isa: str) -> None:
    for sample in operator.samples():
        inputs = tensors(sample)
        for x in inputs:
            x.requires_grad_()
        weights = torch.randn_like(operator.reference(*sample), requires_grad=False)
        with native.using(isa):
            ours = torch.autograd.grad((operator.overload(*sample) * weights).sum(), inputs)
        theirs = torch.autograd.grad((operator.reference(*sample) * weights).sum(), inputs)
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@operators
def test_gradients_equal_finite_differences(operator: Operator) -> None:
    sample = next(iter(operator.samples()))
    double = tuple(a.double().requires_grad_() if isinstance(a, torch.Tensor) else a for a in sample)
    assert torch.autograd.gradcheck(operator.overload, double, fast_mode=True)


@operators
def test_exported_program_holds_one_node_and_its_dense_form_none(operator: Operator) -> None:
    sample = next(iter(operator.samples()))
    program = torch.export.export(Call(operator, sample), tensors(sample))
    assert [n.target for n in program.graph.nodes if n.op == "call_function"] == [operator.overload]
    dense = program.run_decompositions(dense_forms())
    assert operator.overload not in {n.target for n in dense.graph.nodes}
    for form in (program, dense):
        torch.testing.assert_close(form.module()(*tensors(sample)), operator.reference(*sample), rtol=1e-5, atol=1e-5)


@operators
def test_compiles_without_a_graph_break(operator: Operator) -> None:
    sample = next(iter(operator.samples()))
    compiled = torch.compile(Call(operator, sample), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(*tensors(sample)), operator.reference(*sample), rtol=1e-5, atol=1e-5)


@operators
def test_flops_are_those_of_the_reference(operator: Operator) -> None:
    for sample in operator.samples():
        ours, theirs = FlopCounterMode(display=False), FlopCounterMode(display=False)
        with ours:
            operator.overload(*sample)
        with theirs:
            operator.reference(*sample)
        assert ours.get_total_flops() == theirs.get_total_flops() > 0


@operators
def test_mixed_precision_computes_in_float32(operator: Operator) -> None:
    sample = next(iter(operator.samples()))
    half = tuple(a.bfloat16() if isinstance(a, torch.Tensor) else a for a in sample)
    assert operator.overload(*half).dtype is torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        assert operator.overload(*half).dtype is torch.float32
