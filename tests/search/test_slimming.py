"""Slimming: what it considers, what it chooses, what is left, and that the slices are the masked supernet."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from hollowbone.errors import BudgetImpossible
from hollowbone.fit.journal import Journal
from hollowbone.search.efficientformer_space import EfficientFormerSpace, check, stage_kinds, without_block
from hollowbone.search.score import Scorer, reestimate_batchnorm, scorer
from hollowbone.search.slimming import choose, importance, initial, proposals, scale_uniformly, slim, slim_randomly
from hollowbone.search.subnet import Selection, extract
from hollowbone.search.supernet import Supernet
from hollowbone.search.table import LatencyTable
from hollowbone.tasks import get_task
from tests.search.costs import AddingTimer, NoDevice

SPACE = EfficientFormerSpace()
CONFIG = SPACE.config((32, 32, 48, 64), (2, 2, 3, 2), 0, resolution=32, num_classes=5, in_chans=1)


def randomised(seed: int = 0) -> Supernet:
    """A supernet whose every weight, statistic and alpha is its own, so that a wrong slice cannot hide."""
    torch.manual_seed(seed)
    supernet = Supernet(CONFIG).eval()
    with torch.no_grad():
        for name, value in [*supernet.named_parameters(), *supernet.named_buffers()]:
            if value.is_floating_point():
                value.copy_(torch.rand_like(value) + 0.5 if "var" in name else torch.randn_like(value) * 0.3)
    return supernet


def adding_table() -> LatencyTable:
    return LatencyTable(SPACE, NoDevice(), timer=AddingTimer(overhead=0.01), cache=False)


def size_score(network: torch.nn.Module) -> float:
    """A score that falls a little with every parameter removed."""
    return sum(p.numel() for p in network.parameters()) / 1e6


def kept(weight: torch.Tensor, count: int) -> torch.Tensor:
    """1 for the `count` largest magnitudes, 0 for the rest."""
    mask = torch.zeros_like(weight)
    mask[weight.abs().topk(count).indices] = 1.0
    return mask


def masked_norm(x: torch.Tensor, norm: torch.nn.LayerNorm, mask: torch.Tensor) -> torch.Tensor:
    """A layer norm that sees only the channels of the mask, and leaves zero in the others."""
    count = mask.sum()
    mean = (x * mask).sum(-1, keepdim=True) / count
    variance = (((x - mean) * mask) ** 2).sum(-1, keepdim=True) / count
    return ((x - mean) / (variance + norm.eps).sqrt() * norm.weight + norm.bias) * mask


def masked(supernet: Supernet, selection: Selection, x: torch.Tensor) -> torch.Tensor:
    """The supernet at full width, hard choices instead of mixtures, removed channels and units multiplied by zero."""
    config, stem = selection.config, supernet.stem
    first, channels = kept(stem.norm1.weight, config["widths"][0] // 2), kept(stem.norm2.weight, config["widths"][0])
    x = F.relu(stem.norm1(stem.conv1(x))) * first.view(-1, 1, 1)
    x = F.relu(stem.norm2(stem.conv2(x))) * channels.view(-1, 1, 1)
    for i, stage in enumerate(supernet.stages):
        if i:
            embedding = supernet.embeddings[i - 1]
            channels = kept(embedding.norm.weight, config["widths"][i])
            x = embedding(x) * channels.view(-1, 1, 1)
        over = channels.view(-1, 1, 1)
        for position, kind in zip(selection.positions[i], selection.kinds()[i], strict=True):
            path = stage[position]
            if kind == "4d":
                block, mlp = path.four, path.four.mlp
                hidden = kept(mlp.norm1.weight, 4 * config["widths"][i]).view(-1, 1, 1)
                x = x + block.ls1(block.token_mixer(x)) * over
                x = x + block.ls2(mlp.norm2(mlp.fc2(F.gelu(mlp.norm1(mlp.fc1(x))) * hidden))) * over
            else:
                block, mlp, grid = path.three, path.three.mlp, (x.shape[2], x.shape[3])
                hidden = kept(mlp.fc1.weight.norm(dim=1), 4 * config["widths"][i])
                tokens = x.flatten(2).transpose(1, 2)
                tokens = tokens + block.ls1(block.token_mixer(masked_norm(tokens, block.norm1, channels), grid)) * channels
                tokens = (
                    tokens + block.ls2(mlp.fc2(F.gelu(mlp.fc1(masked_norm(tokens, block.norm2, channels))) * hidden)) * channels
                )
                x = tokens.transpose(1, 2).unflatten(2, grid)
    tokens = masked_norm(x.flatten(2).transpose(1, 2), supernet.norm, channels)
    return supernet.head(tokens.mean(dim=1))


@pytest.mark.parametrize("vit_num", [0, 1, 2, 3])
@pytest.mark.parametrize("widths", [(32, 32, 48, 64), (16, 32, 32, 48), (16, 16, 16, 16)])
@torch.no_grad()
def test_sliced_network_equals_the_masked_supernet(vit_num, widths):
    supernet = randomised()
    positions = ((1,), (0, 1), (0, 2), (1,))
    selection = Selection({**CONFIG, "widths": list(widths), "depths": [1, 2, 2, 1], "vit_num": vit_num}, positions)
    x = torch.randn(3, 1, 32, 32)
    torch.testing.assert_close(extract(supernet, selection)(x), masked(supernet, selection, x), atol=2e-4, rtol=2e-4)


def test_slimming_begins_with_the_likeliest_suffix_of_attention():
    for seed in range(20):
        supernet = randomised(seed)
        paths = [path for stage in supernet.stages[-2:] for path in stage]
        logs = [path.alpha.log_softmax(0) for path in paths]
        totals = [sum(log[1 if i >= len(paths) - n else 0].item() for i, log in enumerate(logs)) for n in range(len(paths) + 1)]
        assert initial(supernet).config["vit_num"] == max(range(len(totals)), key=totals.__getitem__)


def test_importance_is_the_odds_against_the_identity():
    path = randomised().stages[2][0]
    probabilities = path.alpha.softmax(0)
    assert importance(path) == pytest.approx(((probabilities[0] + probabilities[1]) / probabilities[2]).item(), rel=1e-5)


def test_each_kind_of_action_takes_the_least_important():
    supernet = randomised(3)
    start = replace(initial(supernet), config={**CONFIG, "vit_num": 3})
    by_kind = {action.kind: left for action, left in proposals(supernet, start)}
    values = {(s, p): importance(path) for s, stage in enumerate(supernet.stages) for p, path in enumerate(stage)}
    stage, position = min(values, key=values.__getitem__)
    assert by_kind["depth"].positions[stage] == tuple(p for p in start.positions[stage] if p != position)
    assert by_kind["mixer"].config["vit_num"] == 2
    sums = [sum(importance(path) for path in stage) for stage in supernet.stages]
    narrowed = sums.index(min(sums))
    assert by_kind["width"].config["widths"][narrowed] == CONFIG["widths"][narrowed] - 16


def test_the_last_block_of_a_stage_and_the_last_16_channels_stay():
    supernet = randomised()
    config = {**CONFIG, "widths": [16] * 4, "depths": [1] * 4, "vit_num": 1}
    options = proposals(supernet, Selection(config, ((0,), (1,), (2,), (0,))))
    assert [action.kind for action, _ in options] == ["mixer"]
    assert proposals(supernet, Selection({**config, "vit_num": 0}, ((0,), (1,), (2,), (0,)))) == []


@pytest.mark.parametrize(
    ("considered", "chosen"),
    [
        ([(0.02, 0.010), (0.01, 0.010)], 1),  # least drop per ms
        ([(0.02, 0.100), (0.01, 0.010)], 0),
        ([(-0.05, 0.001), (0.0, 0.010)], 1),  # a noisy gain is no gain: the larger saving wins the tie
        ([(-0.05, -0.001), (0.9, 0.001)], 1),  # what saves nothing is not allowed
        ([(0.0, 0.0)], None),
        ([], None),
    ],
)
def test_choice_is_least_clipped_drop_per_saved_ms(considered, chosen):
    assert choose([{"drop": drop, "saved_ms": saved} for drop, saved in considered]) == chosen


def test_slimming_falls_below_the_limit_and_keeps_the_rules_at_every_step():
    supernet, table = randomised(1), adding_table()
    start = initial(supernet)
    whole = SPACE.latency(start.config, table)
    found = slim(supernet, SPACE, table, 0.4 * whole, size_score)
    assert found.start_ms == pytest.approx(whole)
    assert found.latency_ms <= 0.4 * whole
    assert found.latency_ms == pytest.approx(SPACE.latency(found.config, table))
    assert len(found.path) >= 5
    before, score = whole, size_score(extract(supernet, start))
    for step in found.path:
        assert step.latency_ms < before
        assert step.saved_ms == pytest.approx(before - step.latency_ms)
        assert step.accuracy_drop == pytest.approx(score - step.accuracy)
        assert step.latency_ms == pytest.approx(SPACE.latency(step.action.config, table))
        before, score = step.latency_ms, step.accuracy
        check(step.action.config)
        kinds = [kind for stage in stage_kinds(step.action.config) for kind in stage]
        assert kinds == sorted(kinds, reverse=True)
        ratios = [max(0.0, c["drop"]) / c["saved_ms"] for c in step.considered if c["saved_ms"] > 0]
        assert max(0.0, step.accuracy_drop) / step.saved_ms == pytest.approx(min(ratios))
    assert found.path[-2].latency_ms > 0.4 * whole
    assert found.config == found.path[-1].action.config == found.selection.config


def test_slimming_goes_on_from_where_it_stopped():
    supernet, table = randomised(1), adding_table()
    whole = SPACE.latency(initial(supernet).config, table)
    at_once = slim(supernet, SPACE, table, 0.3 * whole, size_score)
    first = slim(supernet, SPACE, table, 0.6 * whole, size_score)
    selection = Selection.from_dict(json.loads(json.dumps(first.selection.to_dict())))
    second = slim(supernet, SPACE, table, 0.3 * whole, size_score, start=selection)
    assert second.selection == at_once.selection
    assert first.path + second.path == at_once.path


def test_a_journaled_slimming_is_repeated_without_evaluating(tmp_path: Path):
    supernet, table = randomised(1), adding_table()
    limit = 0.5 * SPACE.latency(initial(supernet).config, table)
    journal = Journal(tmp_path / "journal.jsonl")
    found = slim(supernet, SPACE, table, limit, size_score, record=journal.result)
    resumed = Journal(tmp_path / "journal.jsonl")
    again = slim(supernet, SPACE, adding_table(), limit, lambda network: pytest.fail("evaluated"), record=resumed.result)
    assert again == found


def test_slimming_out_of_reach_is_said():
    with pytest.raises(BudgetImpossible, match="no action saves"):
        slim(randomised(), SPACE, adding_table(), 1e-6, size_score)


def test_arms_of_comparison_meet_the_same_limit():
    table = adding_table()
    limit = 0.6 * SPACE.latency(CONFIG, table)
    way = slim_randomly(CONFIG, SPACE, table, limit, seed=1)
    times = [SPACE.latency(config, table) for config in way]
    assert times == sorted(times, reverse=True)
    assert times[-1] <= limit < times[-2]
    assert way == slim_randomly(CONFIG, SPACE, table, limit, seed=1) != slim_randomly(CONFIG, SPACE, table, limit, seed=2)
    uniform = scale_uniformly(CONFIG, SPACE, table, limit)
    assert SPACE.latency(uniform, table) <= limit
    assert uniform["depths"] == CONFIG["depths"]
    with pytest.raises(BudgetImpossible):
        scale_uniformly(CONFIG, SPACE, table, 1e-6)
    with pytest.raises(BudgetImpossible):
        slim_randomly(CONFIG, SPACE, table, 1e-6, seed=0)


def test_removing_a_block_of_attention_leaves_one_less():
    config = {**CONFIG, "vit_num": 3}
    assert without_block(config, 3, "3d") == {**config, "depths": [2, 2, 3, 1], "vit_num": 2}
    assert without_block(config, 2, "4d") == {**config, "depths": [2, 2, 2, 2]}


def test_batchnorm_statistics_are_the_averages_over_the_batches():
    network = torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.Dropout(0.5))
    inputs = [torch.randn(4, 3, 2, 2) * 3 + 1 for _ in range(3)]
    weights = [p.clone() for p in network.parameters()]
    reestimate_batchnorm(network, inputs)
    torch.testing.assert_close(network[0].running_mean, torch.stack([x.mean((0, 2, 3)) for x in inputs]).mean(0))
    torch.testing.assert_close(network[0].running_var, torch.stack([x.var((0, 2, 3)) for x in inputs]).mean(0))
    assert not network.training
    assert network[0].momentum == 0.1
    assert all(torch.equal(a, b) for a, b in zip(weights, network.parameters(), strict=True))


def test_scores_are_the_metric_on_select_and_repeat_exactly():
    task = get_task("classification")
    data = task.read("digits", seed=0)
    score = scorer(task, data, data.preprocessing, select=100, train=50, batch_size=32)
    assert isinstance(score, Scorer)
    assert sum(len(y) for _, y in score.select) == 100
    torch.manual_seed(0)
    network = SPACE.build({**SPACE.smallest(resolution=32, num_classes=10, in_chans=1)})
    value = score(network)
    assert value == score(network)
    right = torch.cat([network(x).argmax(1) == y for x, y in score.select])
    assert value == pytest.approx(right.float().mean().item())
    seen = torch.cat([x for x, _ in score.select])
    held = {
        x.numpy().tobytes() for x, _ in (task.prepare((p[None], torch.tensor([t])), data.preprocessing) for p, t in data.select)
    }
    assert {x[None].numpy().tobytes() for x in seen} <= held
