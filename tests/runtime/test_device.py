"""Devices: this machine and one behind a command answer alike, and every failure is a sentence."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hollowbone.errors import NotMeasurable, UserError
from hollowbone.runtime import get_device, load, runner
from hollowbone.runtime import onnx as onnx_format
from hollowbone.runtime.base import Artifact, Device, Example
from hollowbone.runtime.device import Local
from hollowbone.runtime.remote import Command, fingerprint_of
from tests.runtime.networks import convnet, pictures

BRIEF = {"warmup_seconds": 0.001, "min_seconds": 0.001, "max_seconds": 0.05}


@pytest.fixture(scope="module")
def command() -> Iterator[Command]:
    with Command([sys.executable, runner.__file__]) as device:
        yield device


@pytest.fixture(params=["local", "command"])
def device(request: pytest.FixtureRequest, command: Command) -> Device:
    return Local() if request.param == "local" else command


def test_every_device_runs_what_a_session_here_runs(device: Device, small: Artifact) -> None:
    x = pictures(3).numpy()
    np.testing.assert_array_equal(device.run(small, [x])[0], load(small)(x)[0])


def test_every_device_times_alone_afresh_and_in_pairs(device: Device, small: Artifact, other: Artifact) -> None:
    inputs = [pictures().numpy()]
    timings = [device.time(small, inputs, fresh=fresh, clock=BRIEF) for fresh in (False, True)]
    for timing in [*timings, *device.time_pair(small, other, inputs, clock=BRIEF)]:
        assert 0 < timing.low_ms <= timing.median_ms <= timing.high_ms
        assert timing.runs >= 1


def test_every_device_refuses_wrong_inputs_in_a_sentence(device: Device, small: Artifact) -> None:
    with pytest.raises(UserError, match=r"must be float32 of shape \(any, 3, 16, 16\)"):
        device.time(small, [np.zeros((1, 1), np.float32)])
    with pytest.raises(UserError, match="takes 1 inputs"):
        device.run(small, [])


def test_every_device_says_which_formats_it_runs(device: Device, tmp_path: Path) -> None:
    artifact = Artifact(tmp_path / "a.mlpackage", "coreml", (), ())
    with pytest.raises(NotMeasurable, match="format coreml, which is written here but not run"):
        device.time(artifact, [])


def test_peak_memory_grows_with_the_weights(device: Device, small: Artifact, large: Artifact) -> None:
    little = device.peak_memory(small, [pictures().numpy()])
    much = device.peak_memory(large, [np.zeros((1, 2048), np.float32)])
    assert much - little >= large.nbytes


def test_peak_memory_knows_nothing_of_this_process(small: Artifact) -> None:
    inputs = [pictures().numpy()]
    before = Local().peak_memory(small, inputs)
    ballast = np.ones(300 * 2**20, np.uint8)
    after = Local().peak_memory(small, inputs)
    assert ballast[-1] == 1
    assert abs(after - before) < 50 * 2**20


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """16 MiB of weights."""
    network = nn.Linear(2048, 2048)
    path = tmp_path_factory.mktemp("large") / "large.onnx"
    return onnx_format.export(network, Example((torch.zeros(1, 2048),)), path, fast=True)


def test_two_devices_with_the_same_facts_have_the_same_fingerprint(command: Command) -> None:
    facts = command.facts()
    assert command.fingerprint() == fingerprint_of({**facts, "load": [99.0, 99.0, 99.0]})
    assert command.fingerprint() != fingerprint_of({**facts, "onnxruntime": "0.1"})
    assert Local().fingerprint() == Local().fingerprint()


def test_local_facts_hold_the_runners_and_the_versions(command: Command) -> None:
    facts = Local().facts()
    assert {**facts, "load": None} == {
        **command.facts(),
        "load": None,
        "torch": facts["torch"],
        "executorch": facts["executorch"],
    }
    assert facts["torch"] == torch.__version__


def test_an_artifact_is_sent_once(small: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    with Command([sys.executable, runner.__file__]) as device:
        asked: list[str] = []
        ask = device._ask

        def spy(do: str, **fields: Any) -> dict[str, Any]:
            asked.append(do)
            return ask(do, **fields)

        monkeypatch.setattr(device, "_ask", spy)
        x = pictures().numpy()
        device.run(small, [x])
        device.run(small, [x])
        assert asked == ["has", "put", "run", "run"]


def test_executorch_artifacts_are_run_timed_and_weighed(program: Artifact) -> None:
    x = pictures().numpy()
    device = Local()
    np.testing.assert_allclose(device.run(program, [x])[0], convnet().eval()(pictures()).detach().numpy(), atol=1e-5)
    assert device.time(program, [x], clock=BRIEF).runs >= 1
    assert device.time(program, [x], fresh=True, clock=BRIEF).runs >= 1
    assert 0 < device.peak_memory(program, [x]) < 100 * 2**20


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gpu", "there is no device 'gpu'; it is 'local', or 'command:'"),
        ("command:", "there is no device 'command:'"),
        ("command:no-such-program-here --flag", "cannot be started: No such file or directory"),
        ("command:'unclosed", "cannot be read: No closing quotation"),
        ("command:false", "ended with code 1 instead of answering 'hello'"),
        ("command:sh -c 'echo host unreachable >&2; exit 255'", "ended with code 255 .* its last words: host unreachable"),
        ("command:echo Welcome to the board", "answered 'Welcome to the board', which is not the protocol"),
        ("command:echo 5", "answered '5', which is not the protocol"),
        ("command:sleep 3", "did not answer 'hello' within 0.5 seconds"),
    ],
)
def test_a_device_that_is_none_is_refused_at_the_door(name: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        get_device(name, timeout=0.5 if "sleep" in name else 10)
    assert "\n" not in str(caught.value)


def test_another_protocol_is_refused_at_the_door() -> None:
    answer = '{"id": 1, "ok": false, "error": "this runner speaks protocol 9, not 1"}'
    with pytest.raises(UserError, match="this runner speaks protocol 9"):
        get_device(f"command:echo '{answer}'")


def test_a_device_that_dies_in_between_is_a_sentence(small: Artifact) -> None:
    device = get_device(f"command:{sys.executable} {runner.__file__}")
    assert isinstance(device, Command)
    device._process.kill()
    with pytest.raises(UserError, match=r"ended with code -9 instead of answering 'has'"):
        device.time(small, [pictures().numpy()])


def test_an_artifact_that_is_gone_is_a_sentence(command: Command, tmp_path: Path) -> None:
    gone = Artifact(tmp_path / "gone.onnx", "onnx", (), ())
    with pytest.raises(UserError, match="cannot read"):
        command.run(gone, [])
