"""The trainer: Steps, precision, accumulation, distillation, what it leaves behind."""

from __future__ import annotations

import csv
import itertools
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hollowbone
from hollowbone.errors import UserError
from hollowbone.tasks.base import Data, Step
from hollowbone.tasks.classification import LazySplit
from hollowbone.train import Callback, Recipe, State, evaluate, train
from hollowbone.train.order import Feed
from tests.train.toys import PLAIN, Listed, Rotated, convnet, data, digest


def test_training_learns_and_repeats_itself() -> None:
    first, second = (train(convnet(), data(), recipe=PLAIN, progress=False) for _ in range(2))
    assert first.metric > 0.9
    assert "24 steps" in repr(first)
    assert first._repr_html_().count("<tr>") == 1 + 3
    assert (digest(first.model), first.history) == (digest(second.model), second.history)
    assert digest(train(convnet(), data(), recipe=PLAIN.with_(seed=4), progress=False).model) != digest(first.model)


def test_verb_of_the_package_is_this_function() -> None:
    assert hollowbone.train(convnet(), data(), recipe=PLAIN.with_(epochs=1), progress=False).steps == 8


@pytest.mark.parametrize("wrap", [Listed, lambda s: LazySplit(lambda i: s.images[i].numpy(), s.labels, s.names)])
def test_any_dataset_trains_like_one_in_memory(wrap: Any) -> None:
    whole = data()
    other = Data(**{**vars(whole), "train": wrap(whole.train)})
    trained = [train(convnet(), d, recipe=PLAIN.with_(epochs=1), progress=False) for d in (whole, other)]
    assert digest(trained[0].model) == digest(trained[1].model)


def test_two_batches_of_32_make_the_step_of_one_of_64() -> None:
    one = train(convnet(norm=False), data(250), recipe=PLAIN.with_(batch_size=64), progress=False)
    two = train(convnet(norm=False), data(250), recipe=PLAIN.with_(batch_size=32, accumulate=2), progress=False)
    assert one.steps == two.steps == 12
    for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    assert [e["loss"] for e in one.history] == pytest.approx([e["loss"] for e in two.history], rel=1e-4)


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_mixed_precision_trains_float32_weights(precision: str) -> None:
    seen: set[torch.dtype] = set()
    model = convnet()
    model[0].register_forward_hook(lambda module, args, output: seen.add(output.dtype) if module.training else None)
    trained = train(model, data(), recipe=PLAIN.with_(precision=precision, clip_grad=1.0), progress=False)
    assert seen == {torch.bfloat16 if precision == "bf16-mixed" else torch.float16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert trained.metric > 0.8


def test_mixed_precision_resumes_bit_identically(tmp_path: Path) -> None:
    class StopAt(Callback):
        def __init__(self, step: int) -> None:
            self.step = step

        def on_step_end(self, state: State) -> None:
            if state.step == self.step:
                raise InterruptedError

    recipe = PLAIN.with_(precision="16-mixed")
    whole = train(convnet(), data(), recipe=recipe, callbacks=[StopAt(-1)], progress=False)
    with pytest.raises(InterruptedError):
        train(convnet(), data(), recipe=recipe, callbacks=[StopAt(11)], out=tmp_path, checkpoint_seconds=0.0, progress=False)
    resumed = train(convnet(), data(), recipe=recipe, callbacks=[StopAt(-1)], out=tmp_path, progress=False)
    assert digest(resumed.model) == digest(whole.model)


def test_distillation_brings_the_student_nearer_to_the_teacher() -> None:
    """The teacher has its own opinion (its classes are turned round), so the labels alone do not lead to it."""
    teacher = convnet()
    train(teacher, data(), recipe=PLAIN, progress=False)
    with torch.no_grad():
        teacher[-1].weight.copy_(teacher[-1].weight.roll(1, 0))
        teacher[-1].bias.copy_(teacher[-1].bias.roll(1, 0))
    kept = digest(teacher)
    x = (data().select.images.float() / 255 - 0.5) / 0.25

    def divergence(student: nn.Module) -> float:
        with torch.no_grad():
            pair = (F.log_softmax(student.eval()(x), 1), F.log_softmax(teacher.eval()(x), 1))
            return float(F.kl_div(*pair, reduction="batchmean", log_target=True))

    recipe = PLAIN.with_(distill=0.9, tau=2.0)
    alone = train(convnet(), data(), recipe=recipe, progress=False).model
    taught = train(convnet(), data(), recipe=recipe, teacher=teacher, progress=False).model
    assert divergence(taught) < 0.25 * min(divergence(alone), divergence(convnet()))
    assert digest(teacher) == kept


class Pair(nn.Module):
    """A generator and a discriminator, as a GAN has them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.make, self.judge = nn.Linear(4, 64), nn.Linear(64, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.judge(x.flatten(1)).repeat(1, 3)


class Adversarial(Rotated):
    """Two alternating Steps; `log` notes what ran and which side could collect gradients."""

    def __init__(self) -> None:
        self.log: list[tuple[str, bool, bool]] = []

    def steps(self, **options: Any) -> list[Step]:
        def fake(model: Pair, n: int) -> Tensor:
            return model.judge(model.make(torch.randn(n, 4)))

        def judge(model: Pair, batch: Any) -> Mapping[str, Tensor]:
            self.log.append(("judge", model.make.weight.requires_grad, model.judge.weight.requires_grad))
            real = model.judge(batch[0].flatten(1))
            return {"loss": F.softplus(-real).mean() + F.softplus(fake(model, len(real))).mean()}

        def make(model: Pair, batch: Any) -> Mapping[str, Tensor]:
            self.log.append(("make", model.make.weight.requires_grad, model.judge.weight.requires_grad))
            return {"loss": F.softplus(-fake(model, len(batch[0]))).mean()}

        return [
            Step(judge, lambda m: m.judge.parameters(), name="judge"),
            Step(make, lambda m: m.make.parameters(), every=2, name="make", lr_scale=0.5),
        ]


def test_two_steps_alternate_each_with_its_own_parameters() -> None:
    task, model, moved = Adversarial(), Pair(), []

    class Watch(Callback):
        def on_step_start(self, state: State) -> None:
            self.before = {k: v.clone() for k, v in state.model.state_dict().items()}

        def on_step_end(self, state: State) -> None:
            now = state.model.state_dict()
            moved.append({k.partition(".")[0] for k in now if not torch.equal(now[k], self.before[k])})
            assert (
                state.optimizers[1].param_groups[0]["lr"] == 0.5 * state.optimizers[0].param_groups[0]["lr"] or state.step == 0
            )

    recipe = PLAIN.with_(epochs=1, schedule="constant", warmup_epochs=0.0)
    trained = train(model, data(), task=task, recipe=recipe, callbacks=[Watch()], progress=False)
    both = [("judge", False, True), ("make", True, False), ("judge", False, True)]
    assert task.log == both * 4
    assert moved == [{"make", "judge"}, {"judge"}] * 4
    assert {"judge/loss", "make/loss"} <= set(trained.history[0])
    assert all(p.requires_grad for p in model.parameters())


class Means(nn.Module):
    """Three cluster centres in pixel space."""

    def __init__(self) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.from_numpy(np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32)))

    def forward(self, x: Tensor) -> Tensor:
        return -torch.cdist(x.flatten(1), self.centres)


class Clustering(Rotated):
    """k-means, whose step is no gradient step."""

    sizes: Iterable[int] = ()

    def steps(self, **options: Any) -> list[Step]:
        def update(model: Means, batch: Any) -> Mapping[str, float]:
            x = batch[0].flatten(1)
            self.sizes = [*self.sizes, len(x)]
            distance, nearest = torch.cdist(x, model.centres).min(1)
            with torch.no_grad():
                for k in range(3):
                    if (nearest == k).any():
                        model.centres[k] = x[nearest == k].mean(0)
            return {"inertia": float((distance.detach() ** 2).mean())}

        return [Step(loss=lambda model, batch: {}, update=update)]


def test_a_step_may_update_weights_itself() -> None:
    task = Clustering()
    trained = train(Means(), data(), task=task, recipe=PLAIN.with_(batch_size=128, accumulate=2, epochs=6), progress=False)
    inertia = [entry["inertia"] for entry in trained.history]
    assert inertia[-1] < 0.9 * inertia[0]
    assert all(b <= a * (1 + 1e-6) for a, b in itertools.pairwise(inertia))  # Lloyd's algorithm never makes it worse
    assert task.sizes == [256] * 6


def test_frozen_parameters_stay() -> None:
    model = convnet()
    model[0].requires_grad_(False)
    before = model[0].weight.clone()
    train(model, data(), recipe=PLAIN.with_(epochs=1), progress=False)
    assert torch.equal(model[0].weight, before)
    assert not model[0].weight.requires_grad
    with pytest.raises(UserError, match="nothing to train"):
        train(model.requires_grad_(False), data(), recipe=PLAIN, progress=False)


def test_best_epoch_is_returned_when_asked_for() -> None:
    recipe = PLAIN.with_(lr=0.3, epochs=6, optimizer="sgd", schedule="constant")
    trained = train(convnet(), data(), recipe=recipe, choose="best", progress=False)
    metrics = [entry["metric"] for entry in trained.history]
    assert trained.metric == max(metrics) > metrics[-1]
    assert evaluate(trained.model, data(), "select").value == trained.metric


def test_select_is_evaluated_when_asked_for() -> None:
    history = train(convnet(), data(), recipe=PLAIN.with_(epochs=5), select_every=2, progress=False).history
    assert ["metric" in entry for entry in history] == [False, True, False, True, True]
    history = train(convnet(), data(), recipe=PLAIN, select_every=0, progress=False).history
    assert ["metric" in entry for entry in history] == [False, False, True]


def test_last_batch_of_one_sample_is_dropped() -> None:
    assert train(convnet(), data(65), recipe=PLAIN.with_(epochs=1), progress=False).steps == 2
    assert train(convnet(), data(66), recipe=PLAIN.with_(epochs=1), progress=False).steps == 3
    with pytest.raises(UserError, match="1 sample"):
        train(convnet(), data(1), recipe=PLAIN, progress=False)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_every_sample_comes_once_an_epoch_and_weights_make_the_mean(world: int) -> None:
    split = data(100).train
    split.labels = torch.arange(100)
    feeds = [Feed(split, batch_size=12, accumulate=3, seed=1, rank=rank, world=world) for rank in range(world)]
    steps = [list(feed(0, 0)) for feed in feeds]
    drawn = [int(i) for device in steps for step in device for batch, _ in step for i in batch[1]]
    assert len(set(drawn)) == len(drawn) == (100 if world < 3 else 96)
    for number in range(feeds[0].steps):
        assert sum(weight for device in steps for _, weight in device[number]) == pytest.approx(world)
    assert [b[1].tolist() for b, _ in next(feeds[0](0, 1))] == [b[1].tolist() for b, _ in steps[0][1]]
    assert [b[1].tolist() for b, _ in next(feeds[0](1, 0))] != [b[1].tolist() for b, _ in steps[0][0]]


def test_training_leaves_threads_generators_and_layout_as_they_were() -> None:
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    before = torch.rand(3).tolist(), np.random.rand(), random.random()
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    threads, model = torch.get_num_threads(), convnet()
    torch.manual_seed(5)
    train(model, data(), recipe=PLAIN.with_(epochs=1, threads=threads % 2 + 1), progress=False)
    assert (torch.rand(3).tolist(), np.random.rand(), random.random()) == before
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()
    assert model[0].weight.is_contiguous()
    assert all(p.grad is None for p in model.parameters())
    assert not model.training


def test_callbacks_are_called_in_order() -> None:
    calls: list[tuple[str, int, int]] = []

    class Note(Callback):
        def on_start(self, state: State) -> None:
            calls.append(("start", state.step, state.epoch))

        def on_step_start(self, state: State) -> None:
            calls.append(("step", state.step, state.epoch))

        def on_epoch_end(self, state: State) -> None:
            calls.append(("epoch", state.step, state.epoch))
            assert {"loss", "lr"} <= set(state.logs)

        def on_end(self, state: State) -> None:
            calls.append(("end", state.step, state.epoch))

    train(convnet(), data(64), recipe=PLAIN.with_(epochs=2), callbacks=[Note()], progress=False)
    steps = [("step", 0, 0), ("step", 1, 0), ("epoch", 2, 0), ("step", 2, 1), ("step", 3, 1), ("epoch", 4, 1)]
    assert calls == [("start", 0, 0), *steps, ("end", 4, 1)]


def test_logs_and_weights_lie_in_the_folder(tmp_path: Path) -> None:
    from safetensors.torch import load_file
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trained = train(convnet(), data(), recipe=PLAIN, out=tmp_path, tensorboard=True, progress=False)
    with open(tmp_path / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["metric"]) for row in rows] == [entry["metric"] for entry in trained.history]
    assert [int(row["step"]) for row in rows] == [8, 16, 24]
    again = convnet()
    again.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    assert digest(again) == digest(trained.model)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [e.value for e in events.Scalars("loss")] == pytest.approx([entry["loss"] for entry in trained.history])


def test_a_line_of_progress_is_shown_in_the_display_given() -> None:
    from io import StringIO

    from rich.console import Console
    from rich.progress import Progress

    class Peek(Callback):
        seen: tuple[str, float | None, float] | None = None

        def on_end(self, state: State) -> None:
            (line,) = shared.tasks
            self.seen = (line.description, line.total, line.completed)

    peek = Peek()
    with Progress(console=Console(file=StringIO())) as shared:
        train(convnet(), data(), recipe=PLAIN, progress=shared, callbacks=[peek])
        assert shared.tasks == []
    assert peek.seen is not None
    assert peek.seen[0].startswith("stripes accuracy ")
    assert peek.seen[1:] == (24, 24)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"recipe": Recipe(epochs=0)}, "epochs must be 1 or more, not 0"),
        ({"recipe": Recipe(batch_size=1)}, "batch_size must be at least 2"),
        ({"recipe": Recipe(lr=float("nan"))}, "lr must be above 0, not nan"),
        ({"recipe": Recipe(clip_grad=-1)}, "clip_grad must be 0 or more"),
        ({"recipe": Recipe(ema=1.0)}, "ema is a decay"),
        ({"recipe": Recipe(augment="turn")}, "preset is one of"),
        ({"task": "clasification"}, "nearest is 'classification'"),
        ({"devices": 0}, "devices must be 1 or more"),
        ({"choose": "first"}, "choose is 'last' or 'best'"),
        ({"select_every": -1}, "select_every must be 0"),
        ({"model": "mobilenet"}, "needs a torch.nn.Module, not str"),
    ],
)
def test_wrong_arguments_are_refused_in_a_sentence(change: dict[str, Any], sentence: str) -> None:
    asked = {"model": convnet(), "data": data(), "progress": False} | change
    with pytest.raises(UserError) as refused:
        train(asked.pop("model"), asked.pop("data"), **asked)
    assert sentence in str(refused.value)
