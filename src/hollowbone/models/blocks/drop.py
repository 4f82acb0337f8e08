"""Stochastic depth (Huang et al. 2016, arXiv 1603.09382)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn


class DropPath(nn.Module):
    """In training, zero a sample's whole branch with probability `rate` and divide the others by what is kept."""

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        """The branch, dropped by sample."""
        if not self.training or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        return x * x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep).div_(keep)

    def extra_repr(self) -> str:
        """The rate."""
        return f"{self.rate:g}"


def linear_rates(rate: float, depths: tuple[int, ...]) -> list[list[float]]:
    """`rate` growing linearly over the blocks of all stages, from 0 at the first to `rate` at the last."""
    last = max(sum(depths) - 1, 1)
    starts = [sum(depths[:i]) for i in range(len(depths))]
    return [[rate * (start + i) / last for i in range(depth)] for start, depth in zip(starts, depths, strict=True)]
