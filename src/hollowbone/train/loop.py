"""The training loop on one device: steps, epochs, and what must be whole between them."""

from __future__ import annotations

import copy
import time
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from hollowbone.errors import UserError
from hollowbone.files import write_with
from hollowbone.tasks.base import Batch, Step
from hollowbone.train import checkpoint, optim
from hollowbone.train.ema import Average
from hollowbone.train.evaluate import score
from hollowbone.train.fabric import Runner
from hollowbone.train.ground import channels_last, convolves, lay_out, only_these, settings
from hollowbone.train.guard import OVERFLOWS, Guard, finite
from hollowbone.train.interrupt import Interrupt
from hollowbone.train.logs import Line, Log
from hollowbone.train.order import Feed, generators_kept, seed_all
from hollowbone.train.state import State, Trained, Training

EPOCH_SECONDS = 5.0
"""An epoch's end is checkpointed if the last checkpoint is at least this old."""

Prepared = list[tuple[Batch, float]]
"""The batches of one optimiser step on this device, ready for the network, with their weights in the mean."""


class Loop:
    """One training on one device; `run` does all of it."""

    def __init__(self, training: Training, runner: Runner) -> None:
        self.t, self.runner, self.recipe = training, runner, training.recipe
        recipe, model = self.recipe, training.model
        self.home = next((p.device for p in model.parameters()), torch.device("cpu"))
        self.layout = convolves(model)
        model.to(device=runner.device)
        if self.layout:
            lay_out(model, torch.channels_last)
        if training.teacher is not None:
            training.teacher.to(runner.device).eval()
        self.steps = training.task.steps(
            teacher=training.teacher, label_smoothing=recipe.label_smoothing, distill=recipe.distill, tau=recipe.tau
        )
        if runner.world > 1 and any(s.update for s in self.steps):
            raise UserError(f"the task {training.task.name} updates weights itself, which works on one device; set devices=1")
        self.params = [[] if s.update else optim.trainable(model, s) for s in self.steps]
        self.clipped = [optim.clipped_adaptively(model, p) for p in self.params] if recipe.agc else self.params
        self.optimizers: list[Optimizer | None] = [
            None if s.update else optim.make_optimizer(model, s, recipe, fused=not runner.scales) for s in self.steps
        ]
        self.feed = Feed(
            training.data.train,
            batch_size=recipe.batch_size,
            accumulate=recipe.accumulate,
            seed=recipe.seed,
            rank=runner.rank,
            world=runner.world,
        )
        self.state = State(
            model, self.optimizers, recipe, training.task, recipe.epochs * self.feed.steps, self.feed.steps,
            ema=Average(model, recipe.ema) if recipe.ema else None,
        )  # fmt: skip
        self.guard, self.interrupt = Guard(), Interrupt()
        self.who = checkpoint.identity(training, runner.world) if training.out is not None else {}
        self.history: list[dict[str, Any]] = []
        self.sums: dict[str, float] = {}
        self.best: dict[str, Any] | None = None
        self.stop, self.earlier = False, 0.0
        self.log = Log(None, [], tensorboard=False)

    def run(self) -> Trained:
        """Resume if there is something to resume, train to the end, and return the result."""
        with generators_kept(), settings(self.recipe.threads, self.runner.device), self.interrupt:
            self.started = self.written = time.monotonic()
            if self.t.out is not None and self.t.resume and (found := checkpoint.read(self.t.out, self.who)) is not None:
                self._load_all(found)
            first = self.runner.rank == 0
            self.line = Line(self.t.progress if first else False, self.t.data.name, self.state.total_steps, self.state.step)
            try:
                self.log = Log(self.t.out if first else None, self.history, tensorboard=self.t.tensorboard)
                self._train()
                return self._finished()
            finally:
                self.line.close()
                self.log.close()

    def _train(self) -> None:
        """What is left to train. The last checkpoint is from before `on_end`, so every resume of it comes to the same."""
        state, left = self.state, self.state.step < self.state.total_steps
        state.model.train()
        for callback in self.t.callbacks:
            callback.on_start(state)
        while state.step < state.total_steps:
            self._epoch(*divmod(state.step, self.feed.steps))
        if left:
            self._write()
        for callback in self.t.callbacks:
            callback.on_end(state)

    def _epoch(self, epoch: int, offset: int) -> None:
        """From optimiser step `offset` of an epoch to its end, or to where the guard went back."""
        state = self.state
        state.epoch = epoch
        for batches in self.feed(epoch, offset):
            if not self._step(batches):
                return
            state.step += 1
            if state.step % self.feed.steps == 0:
                self._end_epoch(epoch)
            self._boundary()

    def _step(self, batches: Prepared) -> bool:
        """One optimiser step of every Step that is due; False if the guard went back instead."""
        state, recipe = self.state, self.recipe
        if self.guard.due(state.step):
            self.guard.pending = _copied(self._now())
        seed_all(recipe.seed, "step", state.step, self.runner.rank, self.guard.restores, device=self.runner.device.type)
        rate = self.guard.rate * optim.learning_rate(recipe, state.step, state.total_steps, self.feed.steps)
        for callback in self.t.callbacks:
            callback.on_step_start(state)
        prepared = [(self._prepared(batch), weight) for batch, weight in batches]
        logs = {"lr": rate}
        for i, step in enumerate(self.steps):
            if state.step % step.every:
                continue
            figures = self._update(step, prepared) if step.update else self._descend(i, step, prepared, rate)
            if figures is None or not finite(figures.values()):
                self._back(rate)
                return False
            logs.update(figures if len(self.steps) == 1 else {f"{step.name}/{k}": v for k, v in figures.items()})
        self.guard.confirm()
        self.runner.average_buffers(state.model)
        if state.ema is not None:
            state.ema.update()
        state.logs = logs
        for key, value in logs.items():
            self.sums[key] = self.sums.get(key, 0.0) + value
            self.sums[f"#{key}"] = self.sums.get(f"#{key}", 0.0) + 1
        for callback in self.t.callbacks:
            callback.on_step_end(state)
        return True

    def _prepared(self, batch: Batch) -> Batch:
        device = self.runner.device
        there = (batch[0].to(device), batch[1].to(device))
        x, target = self.t.task.prepare(there, self.t.preprocessing, augment=self.recipe.augmentation)
        return channels_last(x) if self.layout else x, target

    def _update(self, step: Step, prepared: Prepared) -> dict[str, float]:
        """A Step that changes weights itself sees all samples of the optimiser step at once."""
        assert step.update is not None
        batches = [batch for batch, _ in prepared]
        whole = batches[0] if len(batches) == 1 else tuple(torch.cat(parts) for parts in zip(*batches, strict=True))
        return {k: float(v) for k, v in step.update(self.state.model, whole).items()}  # type: ignore[arg-type]

    def _descend(self, i: int, step: Step, prepared: Prepared, rate: float) -> dict[str, float] | None:
        """One gradient step; its figures, or None if a gradient is not finite."""
        runner, optimizer, params, recipe = self.runner, self.optimizers[i], self.params[i], self.recipe
        assert optimizer is not None
        optim.set_rate(optimizer, rate)
        optimizer.zero_grad(set_to_none=True)
        figures: dict[str, float] = {}
        with only_these(params, self.state.model) if len(self.steps) > 1 else nullcontext():
            for batch, weight in prepared:
                with runner.autocast():
                    losses = step.loss(self.state.model, batch)
                runner.backward(losses["loss"] if weight == 1 else losses["loss"] * weight)
                for key, value in losses.items():
                    figures[key] = figures.get(key, 0.0) + weight * float(value.detach())
        averaged = runner.average(params, [*figures.values(), float(self.interrupt.pressed)])
        figures = dict(zip(figures, averaged, strict=False))
        self.stop = averaged[-1] > 0
        runner.unscale(optimizer)
        norm = optim.total_norm(params)
        if not torch.isfinite(norm):
            if not runner.scales or not finite(figures.values()) or self.guard.overflows == OVERFLOWS:
                return None
            self.guard.overflows += 1  # the scaler skips this step and lowers its scale
        else:
            self.guard.overflows = 0
            if not finite(figures.values()):
                return None
            if recipe.agc:
                optim.clip_adaptively(self.clipped[i], recipe.agc)
            if recipe.clip_grad:
                optim.clip_norm(params, recipe.clip_grad, optim.total_norm(params) if recipe.agc else norm)
        runner.step(optimizer)
        return figures

    def _back(self, rate: float) -> None:
        at = self.state.step
        self._load(_copied(self.guard.back(at, rate)))
        said = f"back to step {self.state.step}, learning rate times {self.guard.rate:g} from here on"
        self.line.say(f"step {at} of {self.t.data.name}: the loss or a gradient is not finite; {said}")

    def _end_epoch(self, epoch: int) -> None:
        state, t = self.state, self.t
        seed_all(self.recipe.seed, "epoch", epoch, device=self.runner.device.type)
        means = {key: total / self.sums[f"#{key}"] for key, total in self.sums.items() if not key.startswith("#")}
        means["lr"] = state.logs["lr"]
        state.logs, self.sums = means, {}
        for callback in t.callbacks:
            callback.on_epoch_end(state)
        entry: dict[str, Any] = {"epoch": epoch, "step": state.step, **means}
        if state.step == state.total_steps or (t.select_every and (epoch + 1) % t.select_every == 0):
            shown = state.model if state.ema is None else state.ema.model
            entry["metric"] = score(shown, t.data, "select", t.task, t.preprocessing)
            if t.choose == "best" and (self.best is None or t.task.metric.better(entry["metric"], self.best["metric"])):
                self.best = {"metric": entry["metric"], "epoch": epoch, **copy.deepcopy(self._weights())}
        if self.guard.restores:
            entry["restores"] = self.guard.restores
        self.history.append(entry)
        self.log.epoch(self.history)
        metric = t.task.metric
        self.line.at(state.step, f"{metric.name} {metric.format(entry['metric'])}" if "metric" in entry else "")

    def _boundary(self) -> None:
        """Between two steps, when everything is whole: stop if asked to, checkpoint if it is time."""
        state = self.state
        self.line.at(state.step)
        if self.stop or (self.interrupt.pressed and self.runner.world == 1):
            self._write()
            raise KeyboardInterrupt
        age = time.monotonic() - self.written
        if age > self.t.checkpoint_seconds or (age > EPOCH_SECONDS and state.step % self.feed.steps == 0):
            self._write()

    def _finished(self) -> Trained:
        state, ema = self.state, self.state.ema
        if self.best is not None:
            self._load_weights(self.best)
        for optimizer in self.optimizers:
            if optimizer is not None:
                optimizer.zero_grad(set_to_none=True)
        for model in (state.model, *((ema.model,) if ema else ())):
            model.to(device=self.home)
            if self.layout:
                lay_out(model, torch.contiguous_format)
            model.eval()
        metric = self.best["metric"] if self.best is not None else self.history[-1]["metric"]
        trained = Trained(state.model, self.history, metric, state.step, self._seconds(), ema.model if ema else None)
        if self.t.out is not None and self.runner.rank == 0:
            _write_weights(trained.chosen, self.t.out)
        return trained

    def _seconds(self) -> float:
        return self.earlier + time.monotonic() - self.started

    def _weights(self) -> dict[str, Any]:
        return {"model": self.state.model.state_dict(), "ema": self.state.ema.state_dict() if self.state.ema else None}

    def _load_weights(self, found: dict[str, Any]) -> None:
        self.state.model.load_state_dict(found["model"])
        if self.state.ema is not None:
            self.state.ema.load_state_dict(found["ema"])

    def _now(self) -> dict[str, Any]:
        """All that a step changes."""
        return self._weights() | {
            "optimizers": [o.state_dict() if o is not None else None for o in self.optimizers],
            "callbacks": [callback.state_dict() for callback in self.t.callbacks],
            "runner": self.runner.state_dict(),
            "step": self.state.step,
            "logs": self.state.logs,
            "sums": self.sums,
            "history": self.history,
            "best": self.best,
        }

    def _load(self, found: dict[str, Any]) -> None:
        self._load_weights(found)
        for optimizer, state in zip(self.optimizers, found["optimizers"], strict=True):
            if optimizer is not None:
                optimizer.load_state_dict(state)
        for callback, state in zip(self.t.callbacks, found["callbacks"], strict=True):
            callback.load_state_dict(state)
        self.runner.load_state_dict(found["runner"])
        self.state.step, self.state.logs = found["step"], found["logs"]
        self.state.epoch = self.state.step // self.feed.steps
        self.sums, self.history[:], self.best = found["sums"], found["history"], found["best"]

    def _load_all(self, found: dict[str, Any]) -> None:
        self.guard.load_state_dict(found["guard"])
        self.earlier = found["seconds"]
        self._load(found["now"])

    def _write(self) -> None:
        if self.t.out is not None and self.runner.rank == 0:
            state = {"now": self._now(), "guard": self.guard.state_dict(), "seconds": self._seconds()}
            checkpoint.write(self.t.out, self.who, state)
        self.written = time.monotonic()


def _copied(state: dict[str, Any]) -> dict[str, Any]:
    """A copy in memory of its own; the best weights, which never change once taken, are shared."""
    return copy.deepcopy({k: v for k, v in state.items() if k != "best"}) | {"best": state["best"]}


def _write_weights(model: nn.Module, out: Any) -> None:
    from safetensors.torch import save_file

    state = {k: v.detach().cpu().clone().contiguous() for k, v in model.state_dict().items()}
    write_with(out / checkpoint.WEIGHTS, lambda path: save_file(state, path))
