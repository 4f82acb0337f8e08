"""Successive halving: pure, deterministic, recordable."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hollowbone.errors import UserError
from hollowbone.search.halving import successive_halving

CONFIGS = [{"space": "x", "n": n} for n in range(5)]


def ms(config):
    return float(config["n"])


def test_the_better_half_goes_on_and_the_best_wins():
    asked = []

    def train(configs, epochs):
        asked.append(([c["n"] for c in configs], epochs))
        return [0.1 * c["n"] for c in configs]

    winner, record = successive_halving(CONFIGS, train, [1, 3, 9], latency_ms=ms)
    assert winner == CONFIGS[4]
    assert asked == [([0, 1, 2, 3, 4], 1), ([4, 3, 2], 3), ([4, 3], 9)]
    assert [[e.config["n"] for e in rung.entrants if e.kept] for rung in record] == [[4, 3, 2], [4, 3], [4]]
    assert json.loads(json.dumps([rung.to_dict() for rung in record]))[0]["entrants"][0]["kept"] is True


def test_equal_scores_go_to_the_lower_latency():
    winner, _ = successive_halving(CONFIGS, lambda configs, epochs: [0.5] * len(configs), [1], latency_ms=lambda c: 9 - ms(c))
    assert winner == CONFIGS[4]


def test_lower_can_be_better_and_no_number_is_worst():
    def train(configs, epochs):
        return [math.nan if c["n"] == 0 else c["n"] for c in configs]

    assert successive_halving(CONFIGS, train, [1, 2], latency_ms=ms, higher_is_better=False)[0] == CONFIGS[1]


def test_a_single_candidate_wins_untrained():
    winner, record = successive_halving(CONFIGS[:1], lambda configs, epochs: pytest.fail("trained"), [1, 2], latency_ms=ms)
    assert (winner, record) == (CONFIGS[0], [])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.integers(1, 4))
def test_the_same_scores_choose_the_same_candidate(scores, rungs):
    configs = [{"n": n} for n in range(len(scores))]

    def run(order):
        return successive_halving(order, lambda cs, epochs: [scores[c["n"]] for c in cs], range(1, rungs + 1), latency_ms=ms)

    winner, record = run(configs)
    assert (winner, record) == run(configs)
    assert run(configs[::-1])[0] == winner
    assert scores[winner["n"]] == max(scores)


@pytest.mark.parametrize(
    ("configs", "rungs"), [([], [1]), (CONFIGS, []), (CONFIGS, [2, 2]), (CONFIGS, [0, 1]), ([CONFIGS[0]] * 2, [1])]
)
def test_what_makes_no_contest_is_refused(configs, rungs):
    with pytest.raises(UserError):
        successive_halving(configs, lambda cs, epochs: [0.0] * len(cs), rungs, latency_ms=ms)
