"""What `fit` refuses at the door: one sentence, nothing written over, nothing executed."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from hollowbone.errors import UserError
from hollowbone.fit.folder import RunFolder
from hollowbone.fit.settings import Settings
from tests.support import refused


def test_folder_in_use_is_refused_to_a_second_run(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run"):
        script = f"from hollowbone.fit.folder import RunFolder\nRunFolder({str(tmp_path / 'run')!r}).__enter__()"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
        assert "UserError" in done.stderr
        assert "in use by another run" in done.stderr
    with RunFolder(tmp_path / "run"):
        pass  # free again


def test_folder_with_foreign_files_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match=r"thesis\.tex"), RunFolder(tmp_path):
        pass
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_resume_with_other_arguments_names_what_differs() -> None:
    settings = Settings("digits", "latency<=0.1ms", seed=1)
    with pytest.raises(UserError, match="seed 0 there and 1 here"):
        settings.check_same(Settings("digits", "latency<=0.1ms").to_dict(), "runs/digits")


def test_command_repeats_the_settings() -> None:
    assert Settings("digits", "latency<=0.1ms", seed=3).command("runs/x") == (
        "hollowbone fit digits --budget 'latency<=0.1ms' --seed 3 --out runs/x"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["digits", "--budget", "latency<=0ms"], "latency"),
        (["digits", "--budget", "latency<=fast"], "fast"),
        (["digits", "--budget", "latency<=3parsec"], "parsec"),
        (["digits", "--budget", "latency<=1ms, latency<=2ms"], "twice"),
        (["digts", "--budget", "latency<=1ms"], "digits"),
        (["digits", "--budget", "latency<=1ms", "--start", "mobilenetv2_10"], "mobilenetv2_100"),
        (["digits", "--budget", "latency<=1ms", "--device", "toaster"], "toaster"),
        (["digits", "--budget", "latency<=1ms", "--format", "coreml"], "onnx or executorch"),
        (["digits", "--budget", "latency<=1ms", "--candidates", "resnet*"], "resnet"),
    ],
)
def test_wrong_argument_is_one_sentence_and_exit_code_2(tmp_path: Path, arguments: list[str], said: str) -> None:
    sentence = refused("fit", *arguments, "--out", tmp_path / "run")
    assert said in sentence


def test_pickle_with_code_is_rejected_and_not_executed(tmp_path: Path) -> None:
    proof = tmp_path / "executed"

    class Bomb:
        def __reduce__(self) -> tuple:
            return (open, (str(proof), "w"))

    checkpoint = tmp_path / "bomb.pt"
    checkpoint.write_bytes(pickle.dumps({"state_dict": Bomb()}))
    sentence = refused(
        "fit", "digits", "--budget", "latency<=1ms", "--start", f"mobilenetv2_100@{checkpoint}", "--out", tmp_path / "run"
    )
    assert "bomb.pt" in sentence
    assert not proof.exists()


def test_corrupted_checkpoint_is_one_sentence(tmp_path: Path) -> None:
    checkpoint = tmp_path / "torn.safetensors"
    checkpoint.write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{not json")
    assert "torn.safetensors" in refused(
        "fit", "digits", "--budget", "latency<=1ms", "--start", f"mobilenetv2_100@{checkpoint}", "--out", tmp_path / "run"
    )
