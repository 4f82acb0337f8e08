"""Depthwise convolution with bias and clamp in one pass: `depthwise_conv2d`.

The kernel is native/depthwise/; it takes contiguous float32 on a CPU. All else runs the reference.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hollowbone.errors import UserError
from hollowbone.ops import native
from hollowbone.ops.base import Operator, register
from hollowbone.ops.depthwise import reference


def depthwise_conv2d(
    x: Float[Tensor, "n c h w"],
    weight: Float[Tensor, "c 1 k k"],
    bias: Float[Tensor, " c"] | None = None,
    *,
    stride: int = 1,
    clamp: tuple[float | None, float | None] | None = None,
) -> Float[Tensor, "n c h_out w_out"]:
    """Convolve every channel with its own k x k filter, k in {3, 5, 7}; padding k // 2, stride 1 or 2.

    `clamp=(low, high)` limits the output; ReLU6 is `(0, 6)`, ReLU `(0, None)`, and the gradient at a limit is 0 as in these.
    On a CPU in float32 it runs the native kernel with `torch.get_num_threads()` threads; the result does not depend on their
    number. Memory layout: the result is contiguous, and so is made what comes in.

    Raises `UserError` for shapes that do not fit, differing dtypes, or limits in the wrong order.
    """
    _check(x, weight, bias, stride)
    low, high = clamp or (None, None)
    if any(limit is not None and math.isnan(limit) for limit in (low, high)) or (
        low is not None and high is not None and low > high
    ):
        raise UserError(f"clamp={clamp} must be two numbers in rising order, None for no limit; (0, 6) is ReLU6")
    return torch.ops.hollowbone.depthwise_conv2d(x, weight, bias, stride, low, high)


def _check(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> None:
    if x.ndim != 4:
        raise UserError(f"x has shape {tuple(x.shape)}; (batch, channels, height, width) would do")
    channels, kernel = x.shape[1], weight.shape[-1] if weight.ndim == 4 else 0
    if kernel not in (3, 5, 7) or tuple(weight.shape) != (channels, 1, kernel, kernel):
        raise UserError(
            f"weight has shape {tuple(weight.shape)}; for {channels} channels ({channels}, 1, k, k) with k in 3, 5, 7 would do"
        )
    if bias is not None and tuple(bias.shape) != (channels,):
        raise UserError(f"bias has shape {tuple(bias.shape)}; for {channels} channels ({channels},) would do")
    if stride not in (1, 2):
        raise UserError(f"stride={stride}; 1 or 2 would do")
    if x.shape[2] < 1 or x.shape[3] < 1:
        raise UserError(f"x has shape {tuple(x.shape)}; it needs at least one pixel")
    tensors = [x, weight] if bias is None else [x, weight, bias]
    if not all(t.is_floating_point() for t in tensors):
        raise UserError(f"depthwise_conv2d needs floating-point tensors, not {', '.join(str(t.dtype) for t in tensors)}")
    if len({t.dtype for t in tensors}) > 1 and not torch.is_autocast_enabled(x.device.type):
        raise UserError(f"x, weight and bias must have one dtype, not {', '.join(str(t.dtype) for t in tensors)}")


def _cpu(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, low: float | None, high: float | None) -> Tensor:
    module = native.kernels()
    if module is None or x.dtype != torch.float32:
        return reference.forward(x, weight, bias, stride, low, high)
    y = reference.shape(x, weight, bias, stride, low, high)
    module.depthwise(
        _buffer(x),
        _buffer(weight),
        None if bias is None else _buffer(bias),
        y.numpy(),
        stride,
        -math.inf if low is None else low,
        math.inf if high is None else high,
        torch.get_num_threads(),
    )
    return y


def _buffer(tensor: Tensor) -> Any:
    # numpy's view crosses to the kernel several times faster than a tensor, which would go by DLPack. `force` takes tensors
    # that require a gradient, and copies nothing that is dense already.
    return (tensor if tensor.is_contiguous() else tensor.contiguous()).numpy(force=True)


def _samples() -> Iterator[tuple[Any, ...]]:
    draw = torch.Generator().manual_seed(0)
    for kernel, stride, low, high in [(3, 1, 0.0, 6.0), (3, 2, None, None), (5, 1, None, 0.5), (7, 2, -0.5, None)]:
        x, weight = torch.randn(2, 3, 9, 8, generator=draw), torch.randn(3, 1, kernel, kernel, generator=draw)
        yield x, weight, torch.randn(3, generator=draw), stride, low, high
    yield torch.randn(1, 5, 1, 3, generator=draw), torch.randn(5, 1, 3, 3, generator=draw), None, 1, None, None


OPERATOR = register(
    Operator(
        name="depthwise_conv2d",
        schema=reference.SCHEMA,
        reference=reference.forward,
        cpu=_cpu,
        shape=reference.shape,
        flops=reference.flops,
        save=reference.save,
        backward=reference.backward,
        samples=_samples,
    )
)
