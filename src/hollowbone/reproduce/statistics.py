"""What is said of a few seeds: the t interval of a mean, and the verdicts that follow from an interval.

With n paired differences of mean m and standard deviation s the 95% interval is m +- t(n-1) s / sqrt(n) (Student 1908). The
distribution of t is computed from the finite sums for whole degrees of freedom (Abramowitz and Stegun 1964, 26.7.3-4).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev

from hollowbone.reproduce.base import FAILS, HOLDS, PARTLY, UNKNOWN


def t_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float, float]:
    """Mean and interval (low, high) of two or more values."""
    if len(values) < 2:
        raise ValueError("one value has no interval")
    mean = fmean(values)
    half = t_quantile(len(values) - 1, confidence) * stdev(values) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def t_quantile(df: int, confidence: float = 0.95) -> float:
    """The t that |T| stays below with this probability, for `df` degrees of freedom."""
    low, high = 0.0, 1.0
    while _within(high, df) < confidence:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, df) < confidence else (low, middle)
    return (low + high) / 2


def _within(t: float, df: int) -> float:
    """P(|T| <= t)."""
    angle = math.atan(t / math.sqrt(df))
    sine, square = math.sin(angle), math.cos(angle) ** 2
    if df % 2:
        term, total = math.cos(angle), 0.0
        for k in range(1, df - 1, 2):
            total += term
            term *= square * (k + 1) / (k + 2)
        return 2 / math.pi * (angle + sine * total)
    term, total = 1.0, 0.0
    for k in range(0, df - 1, 2):
        total += term
        term *= square * (k + 1) / (k + 2)
    return sine * total


def judge_gain(gain: float, low: float, high: float, stated: float | None = None) -> str:
    """The verdict on "A is better than B, by `stated`" from the mean gain and its interval."""
    if low <= 0 <= high:
        return UNKNOWN
    if gain < 0:
        return FAILS
    return HOLDS if stated is None or gain >= stated else PARTLY


def judge_bound(low: float, high: float, bound: float) -> str:
    """The verdict on "at most `bound`" from an interval; one that contains the bound cannot tell."""
    if high <= bound:
        return HOLDS
    return FAILS if low > bound else UNKNOWN


def judge_exact(counted: float, stated: float, within: float = 0.0) -> str:
    """The verdict on a count: equal to what is stated, or `within` this share of it."""
    return HOLDS if abs(counted - stated) <= within * abs(stated) else FAILS


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's rank correlation of two lists without ties."""
    ranks = [[sorted(values).index(v) for v in values] for values in (a, b)]
    n = len(a)
    return 1 - 6 * sum((x - y) ** 2 for x, y in zip(*ranks, strict=True)) / (n * (n * n - 1))
