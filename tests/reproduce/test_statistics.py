"""Intervals over seeds, and the verdicts that follow from them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hollowbone.reproduce.base import FAILS, HOLDS, PARTLY, UNKNOWN
from hollowbone.reproduce.statistics import (
    judge_bound,
    judge_exact,
    judge_gain,
    rank_correlation,
    t_interval,
    t_quantile,
)


@pytest.mark.parametrize(("df", "t"), [(1, 12.7062), (2, 4.3027), (4, 2.7764), (7, 2.3646), (30, 2.0423), (1000, 1.9623)])
def test_t_quantile_is_the_printed_table(df: int, t: float) -> None:
    assert t_quantile(df) == pytest.approx(t, abs=1e-4)


def test_t_quantile_equals_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    for df in (1, 2, 3, 5, 8, 17, 64):
        for confidence in (0.5, 0.9, 0.95, 0.99):
            assert t_quantile(df, confidence) == pytest.approx(stats.t.ppf((1 + confidence) / 2, df), rel=1e-9)


def test_interval_of_a_mean_by_hand() -> None:
    mean, low, high = t_interval([1.0, 2.0, 3.0])
    assert mean == 2.0
    assert high - mean == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert mean - low == pytest.approx(high - mean)


def test_one_value_has_no_interval() -> None:
    with pytest.raises(ValueError, match="no interval"):
        t_interval([0.5])


@pytest.mark.parametrize(
    ("figures", "stated", "verdict"),
    [
        ((0.06, 0.04, 0.08), 0.05, HOLDS),
        ((0.05, 0.04, 0.06), 0.05, HOLDS),
        ((0.03, 0.01, 0.05), 0.05, PARTLY),
        ((0.03, 0.01, 0.05), None, HOLDS),
        ((0.06, -0.01, 0.13), 0.05, UNKNOWN),
        ((0.06, 0.0, 0.12), 0.05, UNKNOWN),
        ((0.0, 0.0, 0.0), None, UNKNOWN),
        ((-0.01, -0.02, 0.0), 0.05, UNKNOWN),
        ((-0.03, -0.05, -0.01), 0.05, FAILS),
        ((-0.03, -0.05, -0.01), None, FAILS),
    ],
)
def test_verdict_on_a_gain(figures: tuple[float, float, float], stated: float | None, verdict: str) -> None:
    assert judge_gain(*figures, stated) == verdict


@given(st.lists(st.floats(-1, 1), min_size=3, max_size=12), st.floats(0, 0.5))
def test_a_gain_and_its_mirror_image_never_both_hold(gains: list[float], stated: float) -> None:
    there = judge_gain(*t_interval(gains), stated)
    back = judge_gain(*t_interval([-g for g in gains]), stated)
    assert (there == UNKNOWN) == (back == UNKNOWN)
    assert {there, back} in ({UNKNOWN}, {HOLDS, FAILS}, {PARTLY, FAILS})


def test_bound_within_the_interval_cannot_be_told() -> None:
    assert judge_bound(0.8, 0.95, 1.0) == HOLDS
    assert judge_bound(0.9, 1.0, 1.0) == HOLDS
    assert judge_bound(0.9, 1.1, 1.0) == UNKNOWN
    assert judge_bound(1.01, 1.2, 1.0) == FAILS


def test_count_is_equal_or_within_the_rounding() -> None:
    assert judge_exact(3_504_872, 3_504_872) == HOLDS
    assert judge_exact(3_504_873, 3_504_872) == FAILS
    assert judge_exact(300_774_272, 300e6, 0.01) == HOLDS
    assert judge_exact(3_504_872, 3.4e6, 0.01) == FAILS


def test_rank_correlation_of_orders() -> None:
    assert rank_correlation([1, 2, 3, 4], [10, 20, 30, 40]) == 1
    assert rank_correlation([1, 2, 3, 4], [4, 3, 2, 1]) == -1
    assert rank_correlation([1.0, 2.0, 3.0], [1.0, 3.0, 2.0]) == pytest.approx(0.5)
