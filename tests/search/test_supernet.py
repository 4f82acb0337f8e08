"""The supernet: mixtures of MetaPaths, their noise and temperature."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from hollowbone.models.blocks.tokens import to_map, to_tokens
from hollowbone.search.efficientformer_space import EfficientFormerSpace
from hollowbone.search.supernet import MetaPath, Supernet, TauSchedule, gumbel_noise, train_supernet, uniform_noise
from hollowbone.tasks import get_task
from hollowbone.train.recipe import Recipe

CONFIG = EfficientFormerSpace().config((16, 16, 32, 32), (1, 2, 2, 2), 0, resolution=32, num_classes=5, in_chans=1)


def test_gradients_reach_every_alpha():
    supernet = Supernet(CONFIG)
    torch.nn.functional.cross_entropy(supernet(torch.randn(4, 1, 32, 32)), torch.tensor([0, 1, 2, 3])).backward()
    assert all(path.alpha.grad is not None and path.alpha.grad.abs().sum() > 0 for path in supernet.paths())


def test_only_the_last_two_stages_may_attend():
    branches = [[path.branches for path in stage] for stage in Supernet(CONFIG).stages]
    assert {b for stage in branches[:2] for b in stage} == {("4d", "identity")}
    assert {b for stage in branches[2:] for b in stage} == {("4d", "3d", "identity")}


@pytest.mark.parametrize("winner", [0, 1, 2])
def test_at_low_temperature_the_mixture_is_its_likeliest_branch(winner):
    path = MetaPath(16, grid=(4, 4), layer_scale=0.5).train()
    noise = torch.randn(3)
    path.noise = lambda alpha: noise
    path.tau = 1e-3
    with torch.no_grad():
        path.alpha.copy_(-noise)  # noise alone would decide otherwise
        path.alpha[winner] += 1.0
        x = torch.randn(4, 16, 4, 4)
        got = path(x)
        path.train()
        wanted = (path.four(x), to_map(path.three(to_tokens(x), (4, 4)), (4, 4)), x)[winner]
    torch.testing.assert_close(got, wanted, atol=1e-6, rtol=1e-5)


def test_training_draws_noise_and_evaluation_does_not():
    path = MetaPath(16, grid=None)
    assert not torch.equal(path.train().mixture(), path.mixture())
    assert torch.equal(path.eval().mixture(), torch.tensor([0.5, 0.5]))


def test_noise_is_gumbel_by_default_and_uniform_by_choice():
    torch.manual_seed(0)
    gumbel, uniform = gumbel_noise(torch.zeros(100_000)), uniform_noise(torch.zeros(100_000))
    assert gumbel.mean() == pytest.approx(0.5772, abs=0.02)  # Euler's constant
    assert gumbel.std() == pytest.approx(1.2825, abs=0.02)  # pi / sqrt(6)
    assert uniform.min() >= 0
    assert uniform.max() <= 1
    assert Supernet(CONFIG).paths()[0].noise is gumbel_noise
    assert Supernet(CONFIG, noise=uniform_noise).paths()[0].noise is uniform_noise


def test_temperature_falls_linearly_to_a_tenth():
    supernet, schedule, seen = Supernet(CONFIG), TauSchedule(), []
    for step in (0, 50, 100):
        schedule.on_step_start(SimpleNamespace(step=step, total_steps=101, model=supernet))
        (tau,) = {path.tau for path in supernet.paths()}
        seen.append(tau)
    assert seen == pytest.approx([1.0, 0.55, 0.1])


def test_alpha_starts_equal_and_training_moves_it():
    assert all(not path.alpha.any() for path in Supernet(CONFIG).paths())
    task = get_task("classification")
    data = task.read("digits", seed=0)
    recipe = Recipe(epochs=1, batch_size=128, threads=1)
    supernet = train_supernet({**CONFIG, "num_classes": 10}, data, task=task, recipe=recipe)
    assert all(path.alpha.abs().max() > 0 for path in supernet.paths())
    assert [path.tau for path in supernet.paths()] == pytest.approx([0.1] * 7)
    assert not supernet.training
