"""A budget reads what people type, refuses the rest in one sentence, and prints as what one would type."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hollowbone.errors import NotMeasurable, UserError
from hollowbone.measure.budget import Budget, Limit
from hollowbone.measure.cost import METRICS, Cost
from hollowbone.measure.units import UNITS, human, shortest
from hollowbone.runtime.base import Timing


def timing(median: float, p95: float | None = None) -> Timing:
    return Timing(median, p95 or median, median, median, 10)


@pytest.mark.parametrize(
    ("text", "metric", "number"),
    [
        ("latency<=3ms", "latency", 3.0),
        ("latency <= 100 us", "latency", 0.1),
        ("latency≤100µs", "latency", 0.1),
        ("latency<=1.5s", "latency", 1500.0),
        ("size<=2MB", "size", 2e6),
        ("size<=2KB", "size", 2e3),
        ("size<=2kB", "size", 2e3),
        ("memory<=2MiB", "memory", 2 * 2**20),
        ("memory<=1GiB", "memory", 2.0**30),
        ("size<=512B", "size", 512.0),
        ("params<=3.5M", "params", 3.5e6),
        ("params<=3504872", "params", 3504872.0),
        ("macs<=1.3G", "macs", 1.3e9),
        ("macs<=3e8", "macs", 3e8),
        ("energy<=5mJ", "energy", 0.005),
        ("energy<=7uJ", "energy", 7e-6),
    ],
)
def test_limit_is_held_in_the_base_unit_of_its_metric(text: str, metric: str, number: float) -> None:
    assert Budget(text).limits == (Limit(metric, number),)


def test_limits_name_entry_points_training_and_the_95th_percentile() -> None:
    budget = Budget("latency.p95<=4ms, prefill.latency<=0.5x, train.memory<=2GB")
    assert budget.limits == (
        Limit("latency", 4.0, stat="p95"),
        Limit("latency", 0.5, relative=True, entry="prefill"),
        Limit("memory", 2e9, mode="train"),
    )
    assert budget.relative
    assert budget.limit("memory", mode="train") == budget.limits[2]
    assert budget.limit("energy") is None


def test_budget_prints_as_what_one_would_type() -> None:
    assert repr(Budget("latency <= 0.003 s,size<=2000kB ,params≤3500k")) == 'Budget("latency<=3ms, size<=2MB, params<=3.5M")'
    assert str(Budget("forward.macs<=300774272")) == "macs<=300774272"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "at least one limit"),
        ("  ", "at least one limit"),
        ("latency<=0ms", "more than 0"),
        ("latency<=-3ms", "more than 0"),
        ("latency<=1e999ms", "finite"),
        ("latency<=1e-999ms", "more than 0"),
        ("latency<=fast", "'fast' is not a number"),
        ("latency<=nan", "'nan' is not a number"),
        ("latency<=inf ms", "'inf ms' is not a number"),
        ("latency<=", "not a number"),
        ("latency<=3", "needs a unit: ms, us, s"),
        ("latency<=3parsec", "no unit 'parsec' of latency; latency takes ms, us, s"),
        ("latency<=3MB", "MB is a unit of size and memory, not of latency"),
        ("size<=2mb", "did you mean MB?"),
        ("lateny<=3ms", "'latency'"),
        ("latency<=3ms, latency<=5ms", "limited twice, by 3ms and by 5ms"),
        ("latency<=3ms, size<=1MB, latency<=0.5x", "limited twice"),
        ("latency>=3ms", "write 'latency<=3ms' instead of 'latency>=3ms'"),
        ("latency<3ms", "write 'latency<=3ms'"),
        ("latency=3ms", "write 'latency<=3ms'"),
        ("latency", "cannot read 'latency' as a limit"),
        ("latency<=3ms,", "cannot read ''"),
        ("latency<=3ms size<=2MB", "cannot read"),
        ("size.p95<=2MB", "size has no p95"),
        ("latency.p99<=2ms", "no statistic 'p99'"),
        ("train.size<=2MB", "belongs to the whole model"),
        ("a.b.macs<=3M", "not the name of an entry point"),
    ],
)
def test_nonsense_is_refused_in_one_sentence_that_says_what_would_do(text: str, says: str) -> None:
    with pytest.raises(UserError) as caught:
        Budget(text)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def limits() -> st.SearchStrategy[Limit]:
    numbers = st.floats(min_value=5e-324, max_value=sys.float_info.max, allow_nan=False)
    entries = st.sampled_from([("forward", "infer"), ("forward", "train"), ("decode", "infer")])

    def limit(metric: str, number: float, relative: bool, p95: bool, where: tuple[str, str]) -> Limit:
        entry, mode = ("forward", "infer") if metric in ("size", "params") else where
        return Limit(metric, number, relative, "p95" if p95 and metric == "latency" else "median", entry, mode)

    return st.builds(limit, st.sampled_from(sorted(METRICS)), numbers, st.booleans(), st.booleans(), entries)


@given(st.lists(limits(), min_size=1, max_size=5, unique_by=lambda x: (x.metric, x.entry, x.mode)))
def test_printed_budget_reads_back_as_itself(some: list[Limit]) -> None:
    budget = Budget.of(*some)
    assert Budget(str(budget)) == budget
    assert eval(repr(budget), {"Budget": Budget}) == budget


@given(
    st.sampled_from(sorted(METRICS)).flatmap(lambda m: st.tuples(st.just(m), st.sampled_from(sorted(UNITS[m])))),
    st.integers(1, 10**6),
    st.integers(0, 6),
)
def test_any_decimal_and_unit_survives_a_round_trip(metric_unit: tuple[str, str], digits: int, places: int) -> None:
    metric, unit = metric_unit
    budget = Budget(f"{metric}<={digits / 10**places:.{places}f} {unit}")
    assert Budget(str(budget)) == budget


alphabet = st.sampled_from(
    [*"0123456789.,<=≤>x× eE+-_\n\tµ٣", "latency", "size", "macs", "train.", ".p95", "ms", "MB", "<=", "nan", "inf"]
)


@given(st.one_of(st.text(), st.lists(alphabet, max_size=14).map("".join)))
def test_no_text_raises_anything_but_a_one_line_user_error(text: str) -> None:
    said = ""
    try:
        budget = Budget(text)
    except UserError as error:
        said = str(error)
    else:
        assert Budget(str(budget)) == budget
    assert "\n" not in said
    assert len(said) < 400


def test_scaling_is_exact_in_decimals() -> None:
    assert Budget("latency<=0.1ms, size<=2MB").scaled(0.9) == Budget("latency<=0.09ms, size<=1.8MB")
    assert Budget("latency<=0.5x").scaled(0.9) == Budget("latency<=0.45x")
    with pytest.raises(UserError, match="more than 0"):
        Budget("latency<=1ms").scaled(math.nan)


def test_relative_limits_become_absolute_against_a_reference() -> None:
    reference = Cost(latency=timing(4.0, 6.0), params=3_504_872)
    resolved = Budget("latency<=0.5x, latency.p95<=0.5x, params<=0.1x, size<=2MB").resolve(reference)
    assert [x.number for x in resolved.limits] == [2.0, 3.0, 350487.2, 2e6]
    assert not resolved.relative


def test_reference_without_the_figure_is_refused_with_the_reason() -> None:
    with pytest.raises(NotMeasurable, match="no counter here"):
        Budget("energy<=0.5x").resolve(Cost(reasons={"energy": "no counter here"}))
    with pytest.raises(NotMeasurable, match="my::op"):
        Budget("macs<=0.5x").resolve(Cost(macs=10, uncounted=("my::op",)))
    with pytest.raises(NotMeasurable, match="prefill"):
        Budget("prefill.latency<=0.5x").resolve(Cost(latency=timing(1.0)))


def test_cost_is_judged_limit_by_limit() -> None:
    budget = Budget("latency<=3ms, latency.p95<=4ms, size<=2MB")
    judged = budget.judge(Cost(latency=timing(3.0, 4.1), size=1_900_000))
    assert [row.met for row in judged.rows] == [True, False, True]
    assert not judged.met
    assert "latency.p95 4.1 ms is over 4ms" in str(judged)
    assert budget.judge(Cost(latency=timing(2.0), size=2_000_000)).met


def test_unknown_figure_meets_nothing_and_says_why() -> None:
    judged = Budget("energy<=1J").judge(Cost(reasons={"energy": "no RAPL here"}))
    assert not judged.met
    assert "no RAPL here" in judged.rows[0].text


def test_uncounted_operators_meet_no_mac_limit() -> None:
    judged = Budget("macs<=1G").judge(Cost(macs=10, uncounted=("my::op",)))
    assert not judged.met
    assert "my::op" in judged.rows[0].text


def test_cost_of_another_entry_point_meets_nothing() -> None:
    judged = Budget("prefill.latency<=1s, train.memory<=1GB, size<=1MB").judge(Cost(latency=timing(1.0), memory=1, size=1))
    assert [row.met for row in judged.rows] == [False, False, True]


def test_relative_budget_is_not_judged() -> None:
    with pytest.raises(UserError, match="resolve"):
        Budget("latency<=0.5x").judge(Cost(latency=timing(1.0)))


def test_figures_for_people_keep_three_digits() -> None:
    assert human("latency", 0.08123) == "0.0812 ms"
    assert human("macs", 300_774_272) == "301 M"
    assert human("size", 999) == "999 B"
    assert human("energy", 0.0051) == "5.1 mJ"
    assert human("memory", None) == "–"
    assert shortest("size", 2e6) == "2MB"


def test_budget_needs_no_torch() -> None:
    code = "import sys, hollowbone.measure.budget; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
