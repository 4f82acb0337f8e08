"""The NaN guard."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hollowbone.errors import UserError
from hollowbone.train import Callback, State, train
from hollowbone.train.guard import EVERY, LIMIT
from tests.train.toys import PLAIN, convnet, data, digest

LONG = PLAIN.with_(epochs=12)


class Fragile(nn.Module):
    """A network that overflows while its switch is thrown."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.broken = convnet(), False

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) * (math.nan if self.broken else 1.0)


class Break(Callback):
    """Throws the switch in given steps, each time that they come or only until the guard has gone back `times` times."""

    def __init__(self, at: int, times: float = 1) -> None:
        self.at, self.times, self.thrown, self.rates, self.seen = at, times, 0, {}, []

    def on_step_start(self, state: State) -> None:
        self.seen.append(state.step)
        state.model.broken = state.step == self.at and self.thrown < self.times
        self.thrown += state.model.broken

    def on_step_end(self, state: State) -> None:
        self.rates[state.step] = state.logs["lr"]


def test_guard_goes_back_to_the_last_snapshot_at_half_the_rate(capfd: pytest.CaptureFixture[str]) -> None:
    at = EVERY + 20
    calm, broken = Break(-1), Break(at)
    train(Fragile(), data(), recipe=LONG, callbacks=[calm], progress=False)
    trained = train(Fragile(), data(), recipe=LONG, callbacks=[broken], progress=False)
    assert broken.seen == [*range(at + 1), *range(EVERY, trained.steps)]
    ratios = {step: broken.rates[step] / calm.rates[step] for step in calm.rates}
    assert all(ratio == (0.5 if step >= EVERY else 1.0) for step, ratio in ratios.items())
    assert all(torch.isfinite(p).all() for p in trained.model.parameters())
    assert [entry.get("restores", 0) for entry in trained.history] == [0] * 6 + [1] * 6
    assert f"step {at}" in (said := capfd.readouterr().err)
    assert f"back to step {EVERY}" in said


def test_guard_restores_weights_exactly() -> None:
    """The training goes on as if the rate had been halved at the snapshot."""

    class Halve(Callback):
        def on_step_start(self, state: State) -> None:
            if state.step >= EVERY:
                for optimizer in state.optimizers:
                    for group in optimizer.param_groups:
                        group["lr_scale"] = 0.5

    still = LONG.with_(epochs=7, augment="none")
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    start = {k: v.clone() for k, v in net.state_dict().items()}
    expected = digest(train(net, data(), recipe=still, callbacks=[Halve()], progress=False).model)

    class FragileLinear(nn.Sequential):
        broken = False

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * (math.nan if self.broken else 1.0)

    other = FragileLinear(nn.Flatten(), nn.Linear(64, 3))
    other.load_state_dict(start)
    assert digest(train(other, data(), recipe=still, callbacks=[Break(EVERY + 3)], progress=False).model) == expected


def test_guard_gives_up_with_a_sentence() -> None:
    callback = Break(EVERY + 3, times=math.inf)
    with pytest.raises(UserError, match=f"non-finite {LIMIT + 1} times, last at step {EVERY + 3}.*lower lr"):
        train(Fragile(), data(), recipe=LONG, callbacks=[callback], progress=False)
    assert callback.thrown == LIMIT + 1


def test_weights_that_are_nan_from_the_start_are_refused() -> None:
    model = convnet()
    with torch.no_grad():
        model[0].weight[0] = math.nan
    with pytest.raises(UserError, match="not finite in the first step"):
        train(model, data(), recipe=PLAIN, progress=False)


def test_guard_state_survives_a_resume(tmp_path: Path) -> None:
    class DeathError(Exception):
        pass

    class DieAfter(Break):
        def __init__(self, at: int, die: int | None) -> None:
            super().__init__(at)
            self.die = die

        def on_step_end(self, state: State) -> None:
            super().on_step_end(state)
            if state.step == self.die and self.thrown:
                raise DeathError

        def state_dict(self) -> dict[str, Any]:
            # What was thrown stays thrown when the guard goes back: the fault is an accident, not a function of the state.
            return {}

    whole = train(Fragile(), data(), recipe=LONG, callbacks=[DieAfter(60, None)], progress=False)
    with pytest.raises(DeathError):
        train(
            Fragile(), data(), recipe=LONG, callbacks=[DieAfter(60, 70)], out=tmp_path, checkpoint_seconds=0.0, progress=False
        )
    rest = DieAfter(-1, None)
    resumed = train(Fragile(), data(), recipe=LONG, callbacks=[rest], out=tmp_path, checkpoint_seconds=0.0, progress=False)
    assert rest.seen[0] == 70
    assert digest(resumed.model) == digest(whole.model)
    assert resumed.history == whole.history
