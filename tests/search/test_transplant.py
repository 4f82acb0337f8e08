"""Weights of a trained network in a smaller one: the slice is the masked network, and what is kept is what weighs most."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from hollowbone.errors import BudgetImpossible
from hollowbone.fit.journal import Journal
from hollowbone.models.base import card
from hollowbone.models.mobilenetv2 import MobileNetV2
from hollowbone.search.base import Config
from hollowbone.search.efficientformer_space import EfficientFormerSpace
from hollowbone.search.mobilenetv2_space import MobileNetV2Space
from hollowbone.search.slimming import importance, initial, proposals
from hollowbone.search.subnet import extract
from hollowbone.search.transplant import (
    as_supernet,
    contained,
    former_config,
    influences,
    keeping_groups,
    shrink,
    stage_sizes,
    transplant,
    without_last_groups,
)

SIZES = {"resolution": 32, "num_classes": 5, "in_chans": 1}
SPACE = MobileNetV2Space()


def randomised(network: nn.Module, seed: int = 0) -> nn.Module:
    """Every weight and statistic its own, so that a wrong slice cannot hide."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                noise = torch.randn(value.shape, generator=generator)
                fan = value[0].numel() if value.ndim > 1 else 1
                value.copy_(noise.abs() + 0.5 if "var" in name else noise / fan**0.5)
    return network.eval()


def without(norm: nn.BatchNorm2d, count: int, by: torch.Tensor) -> None:
    """Silence all channels but the `count` of largest magnitude in `by`."""
    gone = torch.ones(len(by), dtype=torch.bool)
    gone[by.abs().topk(count).indices] = False
    norm.weight[gone], norm.bias[gone] = 0.0, 0.0


@torch.no_grad()
def masked(network: MobileNetV2, small: MobileNetV2) -> MobileNetV2:
    """The trained network at full size with zeros where the smaller one has nothing."""
    silent = copy.deepcopy(network)
    without(silent.bn1, small.bn1.num_features, network.bn1.weight)
    before = small.bn1.num_features
    for stage, whole, cut in zip(silent.blocks, network.blocks, small.blocks, strict=True):
        first = whole[0].bn3 if whole[0].expanded else whole[0].bn2
        out = (cut[0].bn3 if cut[0].expanded else cut[0].bn2).num_features
        scales = [block.bn3.weight.abs().mean().item() if i else 1e9 for i, block in enumerate(whole)]
        kept = sorted(range(len(whole)), key=lambda i: -scales[i])[: len(cut)]
        for i, (block, trained) in enumerate(zip(stage, whole, strict=True)):
            if block.expanded:
                without(block.bn2, cut[0].bn2.num_features if i == 0 else cut[-1].bn2.num_features, trained.bn2.weight)
                without(block.bn3, out, first.weight)
                if i not in kept:
                    block.bn3.weight.zero_(), block.bn3.bias.zero_()
            else:
                without(block.bn1, before, network.bn1.weight)
                without(block.bn2, out, first.weight)
    without(silent.bn2, small.num_features, network.bn2.weight)
    return silent


@pytest.mark.parametrize(
    ("wide", "deep", "width", "depth"),
    [(0.5, 1.0, 0.35, 1.0), (0.75, 1.0, 0.5, 0.5), (0.5, 1.0, 0.5, 0.25), (1.4, 1.0, 1.0, 0.5)],
)
@torch.no_grad()
def test_sliced_network_equals_the_masked_network(wide, deep, width, depth):
    network = randomised(MobileNetV2(width=wide, depth=deep, num_classes=5, in_chans=1))
    small = transplant(network, SPACE.config(width, depth=depth, **SIZES))
    x = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    expected = masked(network, small)(x)
    torch.testing.assert_close(small(x), expected, atol=1e-4, rtol=1e-4)
    assert (network(x) - expected).abs().max() > 1e-3  # something was indeed taken away


def test_fewer_groups_leave_a_fresh_last_convolution_that_is_always_the_same():
    network = randomised(MobileNetV2(width=0.35, num_classes=5, in_chans=1))
    config = SPACE.config(0.35, groups=5, **SIZES)
    a, b = transplant(network, config), transplant(network, config)
    assert len(a.blocks) == 5
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))
    assert torch.equal(a.blocks[4][0].conv_pw.weight, network.blocks[4][0].conv_pw.weight)


@pytest.mark.parametrize(
    ("name", "width", "depth"),
    [
        ("mobilenetv2_035", 0.35, 1.0),
        ("mobilenetv2_100", 1.0, 1.0),
        ("mobilenetv2_140", 1.4, 1.0),
        ("mobilenetv2_110d", 1.0, 1.0),
    ],
)
def test_slimming_begins_at_the_largest_member_of_the_space_inside_the_network(name, width, depth):
    with torch.device("meta"):
        network = card(name).build(num_classes=5, in_chans=1)
    config = contained(network, **SIZES)
    assert (config["width"], config["depth"], config["groups"]) == (width, depth, 7)


@torch.no_grad()
def test_a_member_of_the_space_is_begun_with_as_it_is():
    network = randomised(MobileNetV2(width=0.35, num_classes=5, in_chans=1))
    begun = transplant(network, contained(network, **SIZES))
    x = torch.randn(1, 1, 32, 32)
    assert torch.equal(begun(x), network(x))
    assert stage_sizes(begun) == {"widths": [8, 8, 16, 24, 32, 56, 112], "depths": [1, 2, 3, 4, 3, 3, 1]}


def work(config: Config) -> float:
    """Made-up milliseconds."""
    return config["width"] * (0.2 + config["depth"]) * config["groups"] * config["resolution"] ** 2 / 1e4


def worth(config: Config) -> float:
    """A score that depends on everything, and on groups most."""
    return 0.2 * config["width"] ** 0.5 + 0.1 * config["depth"] + 0.08 * config["groups"] + config["resolution"] / 1000


def test_every_step_loses_least_score_for_the_time_it_saves():
    begun = SPACE.config(1.0, **SIZES)
    found = shrink(SPACE.actions, begun, work, 0.2 * work(begun), worth)
    config, at = begun, work(begun)
    for step in found.path:
        ratios = {
            action.detail: max(0.0, worth(config) - worth(action.config))
            / min(work(config) - work(action.config), at - 0.2 * work(begun))
            for action in SPACE.actions(config)
        }
        assert ratios[step.action.detail] == pytest.approx(min(ratios.values()))
        config, at = step.action.config, step.latency_ms
        assert at == pytest.approx(work(config))
    assert found.config == config
    assert found.path[-2].latency_ms > 0.2 * work(begun) >= found.latency_ms


def test_shrinking_goes_on_where_it_stopped_and_is_repeated_from_a_journal(tmp_path: Path):
    begun = SPACE.config(1.0, **SIZES)
    first = shrink(SPACE.actions, begun, work, 0.5 * work(begun), worth)
    journal = Journal(tmp_path / "journal.jsonl")
    second = shrink(SPACE.actions, begun, work, 0.2 * work(begun), worth, after=first.selection, record=journal.result)
    whole = shrink(SPACE.actions, begun, work, 0.2 * work(begun), worth)
    assert first.path + second.path == whole.path
    again = Journal(tmp_path / "journal.jsonl")
    untouched = lambda config: pytest.fail("evaluated")  # noqa: E731
    repeated = shrink(SPACE.actions, begun, untouched, 0.2 * work(begun), untouched, after=first.selection, record=again.result)
    assert repeated == second


def test_the_last_groups_go_only_where_the_rest_is_not_slimmed():
    begun = SPACE.config(0.75, **SIZES)
    assert {action.config["groups"] for action in keeping_groups(begun)} == {7}
    config = without_last_groups(begun, work, 0.4 * work(begun))
    assert config == {**begun, "groups": 5, "width": 0.35}
    assert work(config) <= 0.4 * work(begun) < work({**config, "width": 0.5})
    assert without_last_groups(begun, work, 1e-9) is None


def test_shrinking_out_of_reach_is_said():
    with pytest.raises(BudgetImpossible, match="no action saves"):
        shrink(SPACE.actions, SPACE.config(0.35, **SIZES), work, 1e-9, worth)


FORMER = EfficientFormerSpace().config((32, 32, 48, 64), (2, 1, 2, 2), 3, **SIZES)


@torch.no_grad()
def test_network_as_a_supernet_of_its_own_blocks_computes_the_same():
    network = randomised(EfficientFormerSpace().build(FORMER))
    assert former_config(network, **SIZES) == FORMER
    x = torch.randn(2, 1, 32, 32)
    supernet = as_supernet(network, FORMER, influences(network, x))
    begun = initial(supernet)
    assert begun.config == FORMER
    torch.testing.assert_close(extract(supernet, begun)(x), network(x))


@torch.no_grad()
def test_block_that_changes_least_is_the_first_to_go():
    network = randomised(EfficientFormerSpace().build(FORMER))
    for scale in (network.stages[2].blocks[0].ls1, network.stages[2].blocks[0].ls2):
        scale.gamma.mul_(1e-3)
    x = torch.randn(4, 1, 32, 32)
    changes = influences(network, x)
    assert len(changes) == sum(FORMER["depths"])
    assert min(changes) == changes[3]
    supernet = as_supernet(network, FORMER, changes)
    values = [importance(path) for path in supernet.paths()]
    assert [v / values[0] for v in values] == pytest.approx([c / changes[0] for c in changes], rel=1e-3)
    [depth] = [action for action, _ in proposals(supernet, initial(supernet)) if action.kind == "depth"]
    assert depth.detail.startswith("stage 3: remove block 1")
