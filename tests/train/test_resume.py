"""A training that is stopped anywhere and resumed ends as one that was not."""

from __future__ import annotations

import pickle
import random
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hollowbone.errors import UserError
from hollowbone.train import Callback, State, train
from hollowbone.train.checkpoint import NAME
from tests.train.toys import PLAIN, KillAt, Wander, convnet, data, digest, resumable

ROOT = Path(__file__).parents[2]
STEPS = 24


def ended(trained: Any, callback: Wander) -> tuple[Any, ...]:
    return digest(trained.model), digest(trained.ema_model), trained.history, trained.metric, callback.total


@pytest.fixture(scope="module")
def uninterrupted() -> tuple[Any, ...]:
    callback = Wander()
    trained = resumable(None, callback)
    assert trained.steps == STEPS
    return ended(trained, callback)


class DeathError(Exception):
    pass


class DieAt(Wander):
    """Raises in the middle of a step: what is in memory is lost, the disk has what a kill would leave."""

    def __init__(self, step: int | None) -> None:
        super().__init__()
        self.step = step

    def on_step_end(self, state: State) -> None:
        if state.step == self.step:
            raise DeathError


@pytest.mark.parametrize("step", [0, 5, 6, 13, STEPS - 1])
def test_training_that_died_in_step_resumes_bit_identically(step: int, tmp_path: Path, uninterrupted: tuple[Any, ...]) -> None:
    with pytest.raises(DeathError):
        resumable(tmp_path, DieAt(step))
    callback = DieAt(None)
    assert ended(resumable(tmp_path, callback), callback) == uninterrupted


def test_killed_training_resumes_bit_identically(tmp_path: Path, uninterrupted: tuple[Any, ...]) -> None:
    step = random.SystemRandom().randrange(1, STEPS)
    marker = tmp_path / f"killed-at-{step}"
    call = f"resumable(Path({str(tmp_path)!r}), KillAt({step}, Path({str(marker)!r})))"
    code = f"from pathlib import Path; from tests.train.toys import KillAt, resumable; {call}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL
    callback = KillAt(step, marker)
    assert ended(resumable(tmp_path, callback), callback) == uninterrupted, f"killed at step {step}"


def test_ctrl_c_writes_a_checkpoint_at_the_step_boundary(tmp_path: Path, uninterrupted: tuple[Any, ...]) -> None:
    marker = tmp_path / "pressed"
    for _ in range(2):
        callback = KillAt(9, marker, signal.SIGINT)
        if not marker.exists():
            with pytest.raises(KeyboardInterrupt):
                train_rarely(tmp_path, callback)
            assert torch.load(tmp_path / NAME, weights_only=True)["state"]["now"]["step"] == 10
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert ended(train_rarely(tmp_path, callback), callback) == uninterrupted


def train_rarely(out: Path, callback: Callback) -> Any:
    """As `resumable`, but no checkpoint would be written by the clock."""
    from tests.train.toys import RESUMABLE

    return train(
        convnet(),
        data(),
        recipe=RESUMABLE,
        out=out,
        callbacks=[callback],
        choose="best",
        checkpoint_seconds=1e9,
        progress=False,
    )


def test_finished_training_returns_its_result_again(tmp_path: Path, uninterrupted: tuple[Any, ...]) -> None:
    first, second = Wander(), Wander()
    resumable(tmp_path, first)
    assert ended(resumable(tmp_path, second), second) == uninterrupted
    rows = (tmp_path / "log.csv").read_text().splitlines()
    assert rows[0].startswith("epoch,step,")
    assert len(rows) == 1 + 4


def test_what_a_callback_does_at_the_end_is_done_again_and_once(tmp_path: Path) -> None:
    class Double(Callback):
        def on_end(self, state: State) -> None:
            with torch.no_grad():
                state.model[0].weight *= 2

    first, second = (
        train(convnet(), data(), recipe=PLAIN, out=tmp_path, callbacks=[Double()], progress=False) for _ in range(2)
    )
    assert digest(first.model) == digest(second.model)
    assert digest(first.model) != digest(train(convnet(), data(), recipe=PLAIN, progress=False).model)


def test_resume_false_starts_anew(tmp_path: Path) -> None:
    train(convnet(), data(), recipe=PLAIN, out=tmp_path, progress=False)
    again = train(convnet(), data(), recipe=PLAIN.with_(epochs=1), out=tmp_path, resume=False, progress=False)
    assert again.steps == 8


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"recipe": PLAIN.with_(lr=1e-3)}, "lr 0.005 there and 0.001 here"),
        ({"model": convnet(norm=False)}, "another model"),
        ({"data": data(128)}, "another data"),
        ({"teacher": convnet()}, "another teacher"),
        ({"choose": "best"}, "choose 'last' there and 'best' here"),
    ],
)
def test_checkpoint_of_another_training_is_refused(change: dict[str, Any], word: str, tmp_path: Path) -> None:
    train(convnet(), data(), recipe=PLAIN.with_(epochs=1), out=tmp_path, progress=False)
    asked: dict[str, Any] = {"model": convnet(), "data": data(), "recipe": PLAIN.with_(epochs=1)} | change
    if "recipe" in change:
        asked["recipe"] = asked["recipe"].with_(epochs=1)
    kept = (tmp_path / NAME).read_bytes()
    with pytest.raises(UserError, match=word):
        train(asked.pop("model"), asked.pop("data"), out=tmp_path, progress=False, **asked)
    assert (tmp_path / NAME).read_bytes() == kept


class Bomb:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("executed"),)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", pickle.dumps({"version": 1}), pickle.dumps(Bomb())])
def test_unreadable_checkpoint_is_refused_and_executes_nothing(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(UserError, match="not a readable checkpoint"):
        train(convnet(), data(), recipe=PLAIN, out=tmp_path, progress=False)
    assert not (tmp_path / "executed").exists()


def test_checkpoint_cut_short_is_refused(tmp_path: Path) -> None:
    train(convnet(), data(), recipe=PLAIN, out=tmp_path, progress=False)
    whole = (tmp_path / NAME).read_bytes()
    (tmp_path / NAME).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="not a readable checkpoint"):
        train(convnet(), data(), recipe=PLAIN, out=tmp_path, progress=False)


class FillDisk(Callback):
    """From a step on, no file of this process may grow beyond a few bytes: what a full disk looks like."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, state: State) -> None:
        if state.step == self.step:
            resource.setrlimit(resource.RLIMIT_FSIZE, (64, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def test_full_disk_ends_in_a_sentence_and_keeps_the_earlier_checkpoint(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(UserError, match="cannot write"):
            train(
                convnet(), data(), recipe=PLAIN, out=tmp_path, callbacks=[FillDisk(5)], checkpoint_seconds=0.0, progress=False
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert torch.load(tmp_path / NAME, weights_only=True)["state"]["now"]["step"] == 5
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".tmp"] == []
    resumed = train(
        convnet(), data(), recipe=PLAIN, out=tmp_path, callbacks=[FillDisk(-1)], checkpoint_seconds=0.0, progress=False
    )
    assert digest(resumed.model) == digest(train(convnet(), data(), recipe=PLAIN, progress=False).model)


def test_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot write"):
        train(convnet(), data(), recipe=PLAIN.with_(epochs=1), out=tmp_path / "file" / "run", progress=False)


def test_nothing_is_written_without_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    train(convnet(), data(), recipe=PLAIN.with_(epochs=1), checkpoint_seconds=0.0, progress=False)
    assert list(tmp_path.iterdir()) == []
