"""The space keeps its rules under every action, and its blocks are the whole network."""

from __future__ import annotations

import json
from functools import cache
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hollowbone.errors import UserError
from hollowbone.search import efficientformer_space
from hollowbone.search.efficientformer_space import EfficientFormerSpace, check, stage_kinds, uniform_widths
from hollowbone.search.table import LatencyTable
from tests.search.costs import AddingTimer, NoDevice

SIZES = {"resolution": 32, "num_classes": 7, "in_chans": 3}
SPACE = EfficientFormerSpace()


@cache
def table() -> LatencyTable:
    return LatencyTable(SPACE, NoDevice(), timer=AddingTimer(overhead=0.01), cache=False)


@settings(deadline=None, max_examples=10)
@given(st.lists(st.integers(0, 10**6), max_size=25))
def test_every_action_keeps_the_rules_and_saves_time(choices):
    config = SPACE.config((32, 48, 64, 80), (2, 2, 3, 2), 4, **SIZES)
    for choice in choices:
        actions = SPACE.actions(config)
        if not actions:
            assert config == {**SPACE.smallest(**SIZES), "vit_num": 0}
            break
        action = actions[choice % len(actions)]
        if action.kind != "mixer":  # an attention block may be cheaper than a pooling block of that width
            assert SPACE.latency(action.config, table()) < SPACE.latency(config, table())
        config = action.config
        check(config)
        kinds = [kind for stage in stage_kinds(config) for kind in stage]
        assert kinds == sorted(kinds, reverse=True)  # "4d" ... "4d" "3d" ... "3d": one suffix
        assert kinds.count("3d") == config["vit_num"]
        assert all(width % 16 == 0 and width >= 16 for width in config["widths"])
        assert min(config["depths"]) >= 1
        assert json.loads(json.dumps(config)) == config


@pytest.mark.parametrize("vit_num", [0, 1, 3, 5])
def test_blocks_hold_every_parameter_of_the_network(vit_num):
    config = SPACE.config((16, 32, 48, 64), (1, 2, 3, 2), vit_num, **SIZES)
    network = SPACE.build(config)
    blocks = sum(spec.count * sum(p.numel() for p in SPACE.block(spec)[0].parameters()) for spec in SPACE.blocks(config))
    assert blocks == sum(p.numel() for p in network.parameters())
    assert network.eval()(torch.randn(2, 3, 32, 32)).shape == (2, 7)


def test_supernet_is_the_smallest_with_headroom():
    ladder = SPACE.supernets(**SIZES)
    predict = lambda config: float(ladder.index({**config, "vit_num": 0}) + 1)  # noqa: E731
    assert SPACE.supernet(limit_ms=1.2, predict=predict, **SIZES) == ladder[2]
    assert SPACE.supernet(limit_ms=100.0, predict=predict, **SIZES) == ladder[-1]


def test_proposals_meet_the_limit_and_come_largest_first(monkeypatch: pytest.MonkeyPatch):
    predict = lambda config: SPACE.latency(config, table())  # noqa: E731
    monkeypatch.setattr(efficientformer_space, "LADDER", efficientformer_space.LADDER[:4])
    limit = 0.4 * predict(SPACE.supernets(**SIZES)[-1])
    proposals = SPACE.propose(limit_ms=limit, predict=predict, **SIZES)
    times = [predict(config) for config in proposals]
    assert len(proposals) >= 3
    assert max(times) <= limit
    assert times == sorted(times, reverse=True)
    assert SPACE.propose(limit_ms=1e-6, predict=predict, **SIZES) == []


def test_uniform_scaling_narrows_every_stage_to_16():
    scaled = uniform_widths(SPACE.config((32, 64, 128, 192), (2, 2, 4, 3), 0, **SIZES))
    assert scaled[0]["widths"] == [32, 64, 128, 192]
    assert scaled[-1]["widths"] == [16, 16, 16, 16]
    assert all(a["widths"] > b["widths"] for a, b in pairwise(scaled))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"widths": [16, 24, 32, 32]}, "multiples of 16"),
        ({"depths": [1, 0, 1, 1]}, "at least one block"),
        ({"vit_num": 5}, "vit_num"),
    ],
)
def test_configurations_that_break_a_rule_are_refused(change, named):
    with pytest.raises(UserError, match=named):
        SPACE.build({**SPACE.smallest(**SIZES), **change})
