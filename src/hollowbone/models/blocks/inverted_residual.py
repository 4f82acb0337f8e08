"""The inverted residual of MobileNetV2 (Sandler et al. 2018, arXiv 1801.04381, sections 3.3 and 5).

Thin at both ends and wide in the middle: expand (1x1), filter each channel (3x3), project (1x1) *without* an activation,
and join the thin ends. The two switches are the paper's ablations (section 6.4, figure 6). Since the middle acts on each
channel alone, the block is a sum over groups of inner channels, F(x) = sum_i A_i(N_i(B_i(x))): `chunks` runs it so and the
wide tensor is never whole in memory.
"""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from hollowbone.errors import UserError, unknown
from hollowbone.models.blocks.conv import Conv2dSame, conv2d

BOTTLENECKS = ("linear", "relu6")
RESIDUALS = ("bottleneck", "expansion", "none")


class InvertedResidual(nn.Module):
    """expand - depthwise - project; names of weights are timm's (`conv_pw, conv_dw, conv_pwl`).

    A block with `expansion` 1 has no expanding convolution and timm's other names (`conv_dw, conv_pw`).

    `residual` joins the block's ends ("bottleneck"), its two expanded tensors, before and after the depthwise convolution
    ("expansion"; the paper shows no formula, this is our reading), or nothing ("none"); always where the block keeps its
    shape. `chunks` = k > 1 evaluates in k groups of inner channels in eval mode: the same numbers up to summation order.
    """

    def __init__(
        self,
        cin: int,
        cout: int,
        *,
        stride: int = 1,
        expansion: float = 6,
        bottleneck: str = "linear",
        residual: str = "bottleneck",
        padding: str = "symmetric",
        bn_eps: float = 1e-5,
        chunks: int = 1,
    ) -> None:
        super().__init__()
        if bottleneck not in BOTTLENECKS:
            raise unknown("bottleneck", bottleneck, BOTTLENECKS)
        if residual not in RESIDUALS:
            raise unknown("residual", residual, RESIDUALS)
        if chunks < 1:
            raise UserError(f"chunks must be 1 or more, not {chunks}")
        hidden = round(cin * expansion)
        if hidden < 1:
            raise UserError(f"expansion {expansion} of {cin} channels leaves no channel")
        self.expanded = expansion != 1
        self.chunks = chunks
        self.residual = residual if stride == 1 and cin == cout else "none"
        # Registered in the order in which they run, under timm's names.
        if self.expanded:
            self.conv_pw = conv2d(cin, hidden, 1)
            self.bn1 = nn.BatchNorm2d(hidden, eps=bn_eps)
        self.conv_dw = conv2d(hidden, hidden, 3, stride=stride, groups=hidden, padding=padding)
        filtered = nn.BatchNorm2d(hidden, eps=bn_eps)
        project = conv2d(hidden, cout, 1)
        projected = nn.BatchNorm2d(cout, eps=bn_eps)
        if self.expanded:
            self.bn2, self.conv_pwl, self.bn3 = filtered, project, projected
        else:
            self.bn1, self.conv_pw, self.bn2 = filtered, project, projected
        self.act = nn.ReLU6()
        self.act_out = nn.ReLU6() if bottleneck == "relu6" else nn.Identity()

    def expand(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b e h w"]:
        """The wide tensor before the depthwise convolution; detection heads tap it."""
        return self.act(self.bn1(self.conv_pw(x))) if self.expanded else x

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        """(B, cin, H, W) -> (B, cout, ceil(H / stride), ceil(W / stride))."""
        filtered_norm, project, projected_norm = self._tail()
        if self.chunks > 1 and not self.training:
            out = self._chunked(x)
        else:
            wide = self.expand(x)
            filtered = self.act(filtered_norm(self.conv_dw(wide)))
            out = project(wide + filtered if self.residual == "expansion" else filtered)
        out = self.act_out(projected_norm(out))
        return x + out if self.residual == "bottleneck" else out

    def _tail(self) -> tuple[nn.Module, nn.Conv2d, nn.Module]:
        """The norm after the depthwise convolution, the projection, and its norm."""
        return (self.bn2, self.conv_pwl, self.bn3) if self.expanded else (self.bn1, self.conv_pw, self.bn2)

    def _chunked(self, x: Tensor) -> Tensor:
        project = self._tail()[1]
        hidden = self.conv_dw.out_channels
        bounds = sorted({hidden * i // self.chunks for i in range(self.chunks + 1)})
        first, *others = (slice(low, high) for low, high in pairwise(bounds))
        out = self._piece(x, first)
        for part in others:
            out += self._piece(x, part)
        return out if project.bias is None else out + project.bias[:, None, None]

    def _piece(self, x: Tensor, part: slice) -> Tensor:
        """What some inner channels add to the projection; a function of its own, so that they are freed before the next."""
        filtered_norm, project, _ = self._tail()
        wide = self.act(_norm(self.bn1, _conv(self.conv_pw, x, part), part)) if self.expanded else x[:, part]
        filtered = self.act(_norm(filtered_norm, _conv(self.conv_dw, wide, part), part))
        return F.conv2d(wide + filtered if self.residual == "expansion" else filtered, project.weight[:, part])


def _conv(conv: nn.Conv2d, x: Tensor, part: slice) -> Tensor:
    """Some output channels of a pointwise or depthwise convolution; a depthwise `x` holds the same channels alone."""
    bias = None if conv.bias is None else conv.bias[part]
    groups = 1 if conv.groups == 1 else conv.weight[part].shape[0]
    x = conv.pad(x) if isinstance(conv, Conv2dSame) else x
    return F.conv2d(x, conv.weight[part], bias, conv.stride, conv.padding, conv.dilation, groups)


def _norm(norm: nn.Module, x: Tensor, part: slice) -> Tensor:
    """Some channels of a batch norm in eval mode, or nothing where it has been folded away."""
    if not isinstance(norm, nn.BatchNorm2d):
        return norm(x)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return F.batch_norm(x, norm.running_mean[part], norm.running_var[part], norm.weight[part], norm.bias[part], eps=norm.eps)
