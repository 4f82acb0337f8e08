"""Schedules, weight-decay groups, clipping, the average of weights."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import nn

from hollowbone.errors import UserError
from hollowbone.tasks.base import Step
from hollowbone.train import Recipe, train
from hollowbone.train.ema import Average, decay_at
from hollowbone.train.optim import clip_adaptively, clipped_adaptively, learning_rate, make_optimizer, undecayed
from tests.train.toys import PLAIN, convnet, data

RATES: dict[str, Any] = {"lr": 1.0, "min_lr": 0.1, "warmup_epochs": 2.0}


def rates(schedule: str, **changes: Any) -> list[float]:
    recipe = Recipe(schedule=schedule, **(RATES | changes))
    return [learning_rate(recipe, step, 110, 5) for step in range(110)]


@pytest.mark.parametrize("schedule", ["cosine", "constant", "step", "poly"])
def test_warm_up_is_linear(schedule: str) -> None:
    assert rates(schedule)[:11] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.0])


def test_schedules_have_their_values() -> None:
    cosine, poly, step, one = (rates(s) for s in ("cosine", "poly", "step", "onecycle"))
    assert cosine[60] == pytest.approx((1.0 + 0.1) / 2)
    assert cosine[35] == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2)
    assert cosine[-1] == pytest.approx(0.1, abs=1e-3)
    assert poly[60] == pytest.approx(0.1 + 0.9 * 0.5**0.9)
    assert set(rates("constant")[10:]) == {1.0}
    assert [step[i] for i in (43, 44, 76, 77, 109)] == pytest.approx([1.0, 0.1, 0.1, 0.01, 0.01])
    assert max(one) == one[32] == 1.0
    assert one[0] < 0.05
    assert one[-1] == pytest.approx(0.1)
    assert all(a < b for a, b in itertools.pairwise(one[:33]))


def test_warm_up_takes_at_most_half_of_a_short_training() -> None:
    recipe = Recipe(**RATES)
    assert [learning_rate(recipe, i, 4, 4) for i in range(3)] == pytest.approx([0.5, 1.0, 1.0])


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4)
        self.layer_scale_1 = nn.Parameter(torch.ones(4, 1, 1))
        self.attention_biases = nn.Parameter(torch.zeros(2, 9))
        self.table = nn.Parameter(torch.zeros(3, 3))
        self.head = nn.Linear(4, 2)

    def no_weight_decay(self) -> set[str]:
        return {"table"}


def test_norms_biases_and_scales_are_not_decayed() -> None:
    model = Scaled()
    exempt = undecayed(model)
    assert {n for n, p in model.named_parameters() if id(p) not in exempt} == {"conv.weight", "head.weight"}
    groups = make_optimizer(model, Step(loss=lambda m, b: {}, lr_scale=0.1), Recipe(weight_decay=0.3)).param_groups
    assert [(len(g["params"]), g["weight_decay"], g["lr_scale"]) for g in groups] == [(2, 0.3, 0.1), (7, 0.0, 0.1)]


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd", "rmsprop"])
def test_every_optimizer_lowers_the_loss(optimizer: str) -> None:
    lr = {"sgd": 0.05, "rmsprop": 1e-3}.get(optimizer, 5e-3)
    history = train(convnet(), data(), recipe=PLAIN.with_(optimizer=optimizer, lr=lr), progress=False).history
    assert history[-1]["loss"] < 0.8 * history[0]["loss"]


@pytest.mark.parametrize("change", [{"optimizer": "adamv"}, {"schedule": "cosin"}, {"precision": "bf16"}])
def test_unknown_names_are_refused_with_the_nearest(change: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"nearest is|near are"):
        train(convnet(), data(), recipe=PLAIN.with_(**change), progress=False)


def test_adaptive_clipping_limits_each_unit_against_its_weight() -> None:
    w = nn.Parameter(torch.tensor([[3.0, 4.0], [3.0, 4.0], [0.0, 0.0]]))
    w.grad = torch.tensor([[0.0, 10.0], [0.01, 0.0], [1.0, 0.0]])
    clip_adaptively([w], 0.1)
    assert torch.allclose(w.grad, torch.tensor([[0.0, 0.5], [0.01, 0.0], [1e-4, 0.0]]))


def test_adaptive_clipping_spares_the_final_layer() -> None:
    model = Scaled()
    names = {id(p): n for n, p in model.named_parameters()}
    spared = set(names.values()) - {names[id(p)] for p in clipped_adaptively(model, list(model.parameters()))}
    assert spared == {"head.weight", "head.bias"}
    assert train(convnet(), data(), recipe=PLAIN.with_(agc=0.01), progress=False).metric > 0.5


def test_clipped_gradient_has_the_given_norm() -> None:
    from hollowbone.train import Callback, State

    class Norms(Callback):
        def __init__(self) -> None:
            self.norms: list[float] = []

        def on_step_end(self, state: State) -> None:
            self.norms.append(math.hypot(*(float(p.grad.norm()) for p in state.model.parameters())))

    free, tight = Norms(), Norms()
    train(convnet(), data(), recipe=PLAIN.with_(epochs=1), callbacks=[free], progress=False)
    train(convnet(), data(), recipe=PLAIN.with_(epochs=1, clip_grad=0.05), callbacks=[tight], progress=False)
    assert min(free.norms) > 0.05
    assert tight.norms == pytest.approx([0.05] * len(tight.norms), rel=1e-3)


def test_average_equals_its_closed_form() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = Average(model, 0.9)
    values, counts = [torch.tensor(1.0)], []
    for p in [*model.parameters(), *model.buffers()]:
        p.data.fill_(1)
    average = Average(model, 0.9)
    for step in range(40):
        for p in [*model.parameters(), *model.buffers()]:
            p.data.fill_(step + 2)
        average.update()
        values.append(torch.tensor(step + 2.0))
        counts.append(step)
    decays = [min(0.9, (1 + t) / (10 + t)) for t in counts]
    assert decays[0] == decay_at(0.9, 0) == 0.1
    weights = [math.prod(decays)] + [(1 - decays[i]) * math.prod(decays[i + 1 :]) for i in counts]
    assert sum(weights) == pytest.approx(1)
    expected = sum(w * float(v) for w, v in zip(weights, values, strict=True))
    for name, value in average.model.state_dict().items():
        wanted = 41 if name.endswith("num_batches_tracked") else expected
        assert torch.allclose(value.float(), torch.full_like(value.float(), wanted), rtol=1e-5), name


def test_shared_weights_are_averaged_once() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    average = Average(model, 0.5)
    before = model[0].weight.detach().clone()
    with torch.no_grad():
        model[0].weight += 1
    average.update()
    assert torch.allclose(average.model[1].weight, before + 0.9)


def test_training_with_an_average_is_judged_by_it() -> None:
    trained = train(convnet(), data(), recipe=PLAIN.with_(ema=0.9), progress=False)
    assert trained.ema_model is not None
    assert trained.chosen is trained.ema_model
    from hollowbone.train import evaluate

    assert evaluate(trained.ema_model, data(), "select").value == trained.metric
    assert not any(p.requires_grad for p in trained.ema_model.parameters())
