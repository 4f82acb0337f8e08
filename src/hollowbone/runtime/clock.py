"""The clock: repeat a call until its median is known well enough, and say how many runs that took.

The median is taken because a shared machine only ever adds time, and its 95% interval from order statistics, because that
needs no distribution: with n independent runs, the k-th smallest and the k-th largest enclose the median with a
probability that is the binomial's alone. Runs that drift together are not independent, which is why two things that are to
be compared are timed interleaved. The loop itself is in `runner.py`, the one file that is copied to other machines, so that
every figure, here or there, comes from the same clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from hollowbone.runtime.base import Timing
from hollowbone.runtime.runner import measure


def time_calls_interleaved(
    fns: Sequence[Callable[[], Any]],
    *,
    warmup_seconds: float = 0.05,
    min_runs: int = 30,
    min_seconds: float = 0.05,
    max_seconds: float = 2.0,
    rel_interval: float = 0.02,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> list[Timing]:
    """Time functions in turn (A B A B ...), so that a drift of the machine falls on all of them alike.

    Every call is timed by itself; the overhead is some 0.1 microseconds. Ends when each median's 95% interval lies within
    `rel_interval` of it, after at least `min_runs` runs and `min_seconds` of each, or after `max_seconds` for each. `clock`
    returns nanoseconds.
    """
    timings = measure(
        fns,
        warmup_seconds=warmup_seconds,
        min_runs=min_runs,
        min_seconds=min_seconds,
        max_seconds=max_seconds,
        rel_interval=rel_interval,
        clock=clock,
    )
    return [Timing(**timing) for timing in timings]


def time_call(fn: Callable[[], Any], **options: Any) -> Timing:
    """Time one function of no arguments; options as in `time_calls_interleaved`."""
    return time_calls_interleaved([fn], **options)[0]
