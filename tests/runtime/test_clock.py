"""The clock, on a clock of the tests' own: nothing here depends on how fast the machine is."""

from __future__ import annotations

import gc
import itertools
import math
from collections.abc import Callable, Iterator

import pytest

from hollowbone.runtime.clock import time_call, time_calls_interleaved
from hollowbone.runtime.runner import median_ranks, summarise

MS = 1_000_000


class FakeClock:
    """Time that passes only where a test says so."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now

    def taking(self, durations: Iterator[float]) -> Callable[[], None]:
        """A function whose calls take these milliseconds, one after the other."""

        def call() -> None:
            self.now += round(next(durations) * MS)

        return call


def coverage(n: int, low: int) -> float:
    """Probability that the median lies between order statistics `low` and `n - 1 - low` (from 0) of `n` runs."""
    return 1 - 2 * sum(math.comb(n, i) for i in range(low + 1)) / 2**n


@pytest.mark.parametrize("n", [*range(6, 60), 100, 399, 400, 401, 402, 1000])
def test_interval_covers_the_median_with_95_percent_and_no_rank_more(n: int) -> None:
    low, high = median_ranks(n)
    assert high == n - 1 - low
    assert coverage(n, low) >= 0.95
    slack = 1 if n <= 400 else 2
    assert coverage(n, low + slack) < 0.95


@pytest.mark.parametrize("n", range(1, 6))
def test_fewer_than_six_runs_give_their_extremes(n: int) -> None:
    assert median_ranks(n) == (0, n - 1)


def test_summary_of_known_runs() -> None:
    timing = summarise([i * MS for i in range(1, 101)])
    assert timing == {"median_ms": 50.5, "p95_ms": 95.0, "low_ms": 40.0, "high_ms": 61.0, "runs": 100}


def test_steady_call_stops_at_the_fewest_runs() -> None:
    clock = FakeClock()
    timing = time_call(clock.taking(itertools.repeat(5.0)), clock=clock, min_runs=30)
    assert (timing.median_ms, timing.low_ms, timing.high_ms, timing.p95_ms) == (5.0, 5.0, 5.0, 5.0)
    assert timing.runs == 30


def test_short_call_is_watched_for_a_while() -> None:
    clock = FakeClock()
    timing = time_call(clock.taking(itertools.repeat(0.01)), clock=clock, min_seconds=0.05)
    assert timing.runs >= 5000


def test_runs_go_on_until_the_interval_is_tight() -> None:
    clock = FakeClock()
    noisy = itertools.cycle([1.0, 1.3, 1.1, 1.5, 1.2, 0.9, 1.4])
    wide = time_call(clock.taking(noisy), clock=clock, rel_interval=0.2, max_seconds=60)
    tight = time_call(clock.taking(noisy), clock=clock, rel_interval=0.02, max_seconds=60)
    assert tight.runs > wide.runs
    assert tight.low_ms <= tight.median_ms <= tight.high_ms
    assert tight.high_ms - tight.median_ms <= 0.02 * tight.median_ms
    assert tight.median_ms - tight.low_ms <= 0.02 * tight.median_ms


def test_a_call_that_never_settles_ends_with_the_time_allowed() -> None:
    clock = FakeClock()
    timing = time_call(clock.taking(itertools.cycle([1.0, 100.0])), clock=clock, max_seconds=2.0, warmup_seconds=0.0)
    assert 2.0 <= clock.now / 1e9 < 2.5
    assert timing.low_ms == 1.0
    assert timing.high_ms == 100.0


def test_a_slow_call_says_how_few_runs_it_had() -> None:
    clock = FakeClock()
    timing = time_call(clock.taking(itertools.repeat(900.0)), clock=clock, max_seconds=2.0)
    assert timing.runs == 3


def test_warm_up_is_not_counted() -> None:
    clock = FakeClock()
    timing = time_call(clock.taking(itertools.chain([500.0] * 2, itertools.repeat(2.0))), clock=clock, warmup_seconds=0.6)
    assert timing.p95_ms == 2.0


def test_interleaved_drift_falls_on_both_alike() -> None:
    clock = FakeClock()

    def call() -> None:  # the machine slows down to a third within the measurement
        clock.now += round(0.1 * MS * (1 + 2 * min(clock.now / 1e9, 1)))

    first, second = time_calls_interleaved([call, call], clock=clock, rel_interval=0.0, max_seconds=0.5, warmup_seconds=0.0)
    assert first.median_ms == pytest.approx(second.median_ms, rel=0.02)


def test_interleaved_calls_take_turns_and_the_call_after_a_change_is_not_counted() -> None:
    clock = FakeClock()
    order: list[str] = []

    def cold_after_change(name: str, warm: float) -> Callable[[], None]:
        def call() -> None:
            clock.now += round((warm if order and order[-1] == name else 10.0) * MS)
            order.append(name)

        return call

    a, b = time_calls_interleaved([cold_after_change("a", 1.0), cold_after_change("b", 2.0)], clock=clock, min_runs=30)
    assert (a.median_ms, a.p95_ms) == (1.0, 1.0)
    assert (b.median_ms, b.p95_ms) == (2.0, 2.0)
    turns = [name for name, _ in itertools.groupby(order)]
    assert len(turns) > 10


def test_the_garbage_collector_is_on_again_after_a_failure() -> None:
    calls = itertools.count()

    def fails_later() -> None:
        if next(calls) > 50:
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011  (the function's own)
        time_call(fails_later, warmup_seconds=0.0)
    assert gc.isenabled()
