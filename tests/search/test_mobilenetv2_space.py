"""MobileNetV2 as a candidate space."""

from __future__ import annotations

import json

import pytest
import torch

from hollowbone.errors import UserError
from hollowbone.search.mobilenetv2_space import MobileNetV2Space
from hollowbone.search.table import LatencyTable
from tests.search.costs import AddingTimer, NoDevice, cost

SIZES = {"resolution": 32, "num_classes": 7, "in_chans": 3}
SPACE = MobileNetV2Space()


def predict(config):
    return cost(SPACE.build(config)) * (config["resolution"] / 32) ** 2


def test_proposals_meet_the_limit_with_the_widest_network_of_each_shape():
    limit = predict(SPACE.config(0.5, **SIZES))
    proposals = SPACE.propose(limit_ms=limit, predict=predict, **SIZES)
    times = [predict(config) for config in proposals]
    assert max(times) == limit
    assert times == sorted(times, reverse=True)
    full = [c for c in proposals if (c["depth"], c["groups"], c["resolution"]) == (1.0, 7, 32)]
    assert [c["width"] for c in full] == [0.5]
    assert SPACE.propose(limit_ms=1e-9, predict=predict, **SIZES) == []


def test_actions_shrink_until_the_smallest():
    config, kinds = SPACE.config(1.0, **SIZES), set()
    while actions := SPACE.actions(config):
        assert all(predict(action.config) < predict(config) for action in actions)
        kinds |= {action.kind for action in actions}
        config = actions[-1].config
        assert json.loads(json.dumps(config)) == config
    assert kinds == {"width", "depth", "resolution"}
    assert config["width"] == SPACE.smallest(**SIZES)["width"]


@pytest.mark.parametrize("config", [SPACE.config(0.35, **SIZES), SPACE.smallest(**SIZES)])
def test_configurations_build_networks_that_run_at_their_resolution(config):
    side = config["resolution"]
    network = SPACE.build(config).eval()
    assert network(torch.randn(2, 3, side, side)).shape == (2, 7)
    (spec,) = SPACE.blocks(config)
    module, shape = SPACE.block(spec)
    assert shape == (1, 3, side, side)
    assert {k: v.shape for k, v in module.state_dict().items()} == {k: v.shape for k, v in network.state_dict().items()}
    assert SPACE.latency(config, LatencyTable(SPACE, NoDevice(), timer=AddingTimer(), cache=False)) == pytest.approx(
        cost(network)
    )


def test_impossible_group_counts_are_refused():
    with pytest.raises(UserError, match="groups"):
        SPACE.build(SPACE.config(1.0, groups=9, **SIZES))
