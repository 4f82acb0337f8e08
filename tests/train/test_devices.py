"""Data-parallel training: in processes of its own, and under torchrun."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hollowbone.errors import UserError
from hollowbone.train import Callback, State, Trained, train
from tests.train.toys import PLAIN, convnet, data, digest

ROOT = Path(__file__).parents[2]
RECIPE = PLAIN.with_(epochs=2, ema=0.5)

LAUNCHED = """
import os, signal, sys
from pathlib import Path
import torch
from hollowbone.train import Callback, train
from tests.train.test_devices import RECIPE, Ranks
from tests.train.toys import convnet, data

folder = Path(sys.argv[1])

class Die(Ranks):
    # Both processes die in the second epoch, the first time.
    def on_step_end(self, state):
        marker = folder / f"died{torch.distributed.get_rank()}"
        if state.step == 10 and not marker.exists():
            marker.write_text(str((folder / "checkpoint.pt").exists()))
            torch.distributed.barrier()
            os.kill(os.getpid(), signal.SIGKILL)

model, callbacks = convnet(norm=False), [Die(folder)]
train(model, data(250), recipe=RECIPE, out=folder, callbacks=callbacks, checkpoint_seconds=0.0, progress=False)
"""


class Ranks(Callback):
    """Writes each process's weights after the last step."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_end(self, state: State) -> None:
        rank = torch.distributed.get_rank()
        (self.folder / f"rank{rank}").write_text(f"{os.getpid()} {digest(state.model)}")


class Diverge(Callback):
    def on_step_start(self, state: State) -> None:
        with torch.no_grad():
            next(state.model.parameters()).fill_(float("nan"))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trained, list[list[str]]]:
    """A training in two processes, and what each of them wrote."""
    folder = tmp_path_factory.mktemp("ranks")
    trained = train(convnet(norm=False), data(250), recipe=RECIPE, devices=2, callbacks=[Ranks(folder)], progress=False)
    return trained, [(folder / f"rank{rank}").read_text().split() for rank in range(2)]


def test_two_processes_train_as_one_does(two: tuple[Trained, list[list[str]]]) -> None:
    """Without batch normalisation and dropout the averaged gradients are those of one process, up to rounding."""
    both, ranks = two
    one = train(convnet(norm=False), data(250), recipe=RECIPE, progress=False)
    assert len({ranks[0][0], ranks[1][0], str(os.getpid())}) == 3
    assert ranks[0][1] == ranks[1][1] == digest(both.model)
    assert both.steps == one.steps == 16
    assert both.history[-1]["loss"] < both.history[0]["loss"]
    assert [e["loss"] for e in both.history] == pytest.approx([e["loss"] for e in one.history], rel=1e-4)
    assert one.ema_model is not None
    assert both.ema_model is not None
    for pair in ((one.model, both.model), (one.ema_model, both.ema_model)):
        for a, b in zip(pair[0].parameters(), pair[1].parameters(), strict=True):
            assert torch.allclose(a, b, atol=1e-5)


def test_torchrun_trains_and_resumes_after_a_kill(two: tuple[Trained, list[list[str]]], tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(LAUNCHED)
    assert torchrun(script, tmp_path) != 0
    assert [(tmp_path / f"died{rank}").read_text() for rank in range(2)] == ["True", "True"]
    assert torchrun(script, tmp_path) == 0
    assert {(tmp_path / f"rank{rank}").read_text().split()[1] for rank in range(2)} == {digest(two[0].model)}


def torchrun(script: Path, folder: Path) -> int:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    with subprocess.Popen(
        [*command, str(script), str(folder)], cwd=ROOT, env=environment, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        try:
            return process.wait(timeout=120)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise


def test_a_mistake_in_a_process_comes_back_as_its_sentence() -> None:
    before = dict(os.environ)
    with pytest.raises(UserError, match=r"^the loss is not finite in the first step"):
        train(convnet(), data(), recipe=RECIPE, devices=2, callbacks=[Diverge()], progress=False)
    assert dict(os.environ) == before


def test_a_model_that_cannot_be_sent_is_refused() -> None:
    model: Any = convnet()
    model[0].register_forward_hook(lambda module, args, output: None)
    with pytest.raises(UserError, match="cannot be sent"):
        train(model, data(), recipe=RECIPE, devices=2, progress=False)
