"""Convolutions padded as PyTorch networks pad them, or as TensorFlow's."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from hollowbone.errors import unknown

PADDINGS = ("symmetric", "same")


class Conv2dSame(nn.Conv2d):
    """A convolution padded like TensorFlow's SAME: output ceil(n / stride), the odd pixel of padding at the end.

    For stride 2 on an even size that is (0, 1), not (1, 1): weights trained there need it.
    """

    affine_in_weight = True  # tells `fold_batchnorm` that a scaled weight scales the output

    def pad(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c i j"]:
        """The input with what this convolution needs around it."""
        (kh, kw), (sh, sw), (dh, dw) = self.kernel_size, self.stride, self.dilation
        high = max((-(-x.shape[-2] // sh) - 1) * sh + (kh - 1) * dh + 1 - x.shape[-2], 0)
        wide = max((-(-x.shape[-1] // sw) - 1) * sw + (kw - 1) * dw + 1 - x.shape[-1], 0)
        return F.pad(x, (wide // 2, wide - wide // 2, high // 2, high - high // 2))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        """Pad, then convolve."""
        return F.conv2d(self.pad(x), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


def conv2d(cin: int, cout: int, kernel_size: int, *, stride: int = 1, groups: int = 1, padding: str = "symmetric") -> nn.Conv2d:
    """A convolution without bias (a norm follows), output ceil(n / stride); `padding` is one of `PADDINGS`."""
    if padding not in PADDINGS:
        raise unknown("padding", str(padding), PADDINGS)
    if padding == "same" and kernel_size > 1:
        return Conv2dSame(cin, cout, kernel_size, stride, groups=groups, bias=False)
    return nn.Conv2d(cin, cout, kernel_size, stride, kernel_size // 2, groups=groups, bias=False)
