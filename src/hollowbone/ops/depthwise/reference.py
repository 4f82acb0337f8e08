"""What depthwise convolution computes, in plain PyTorch; and its shape, FLOPs and gradient.

One K x K filter a channel, zero padding K // 2, stride 1 or 2, then bias and clamp (Howard et al. 2017, MobileNets,
arXiv:1704.04861, section 3.1; with ReLU6, Sandler et al. 2018, MobileNetV2, arXiv:1801.04381).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

SCHEMA = "(Tensor x, Tensor weight, Tensor? bias, int stride, float? low, float? high) -> Tensor"


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, low: float | None, high: float | None) -> Tensor:
    """x: (n, c, h, w), weight: (c, 1, k, k), bias: (c,) -> (n, c, ceil(h / stride), ceil(w / stride)), contiguous.

    At the limits of the clamp the gradient is 0, as torch's ReLU6 has it.
    """
    y = F.conv2d(x, weight, bias, stride, weight.shape[-1] // 2, 1, weight.shape[0]).contiguous()
    if low is None and high is None:
        return y
    return F.hardtanh(y, -math.inf if low is None else low, math.inf if high is None else high)


def shape(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, low: float | None, high: float | None) -> Tensor:
    """An empty tensor of the result's shape."""
    batch, channels, height, width = x.shape
    return x.new_empty(batch, channels, (height + stride - 1) // stride, (width + stride - 1) // stride)


def flops(
    x_shape: Any, weight_shape: Any, bias_shape: Any, stride: int, low: float | None, high: float | None, **_: Any
) -> int:
    """Two a multiply-add; bias and clamp are elementwise and counted elsewhere."""
    batch, channels, height, width = x_shape
    taps = weight_shape[-1] * weight_shape[-2]
    return 2 * batch * channels * ((height + stride - 1) // stride) * ((width + stride - 1) // stride) * taps


def save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """Keep what the gradient needs: the inputs, and the output if it was clamped."""
    x, weight, bias, ctx.stride, ctx.low, ctx.high = inputs
    clamped = ctx.low is not None or ctx.high is not None
    ctx.bias_sizes = None if bias is None else list(bias.shape)
    ctx.save_for_backward(x, weight, output if clamped else None)


def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients of x, weight and bias; the clamp passes what lies strictly between its limits."""
    x, weight, output = ctx.saved_tensors
    if ctx.low is not None:
        grad = grad * (output > ctx.low)
    if ctx.high is not None:
        grad = grad * (output < ctx.high)
    pad = weight.shape[-1] // 2
    wanted = [ctx.needs_input_grad[0], ctx.needs_input_grad[1], ctx.needs_input_grad[2] and ctx.bias_sizes is not None]
    gradients = torch.ops.aten.convolution_backward(
        grad, x, weight, ctx.bias_sizes, [ctx.stride] * 2, [pad] * 2, [1, 1], False, [0, 0], weight.shape[0], wanted
    )
    return *gradients, None, None, None
