"""Channel counts that hardware likes."""

from __future__ import annotations


def make_divisible(value: float, divisor: int = 8) -> int:
    """The multiple of `divisor` nearest to `value`, at least `divisor`, never less than 90% of `value`.

    MobileNetV2's rule (slim and torchvision alike).

    >>> make_divisible(32 * 0.35), make_divisible(24 * 1.4), make_divisible(1)
    (16, 32, 8)
    """
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * value else rounded + divisor
