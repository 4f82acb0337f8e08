"""The runner's protocol, spoken to the file itself in a process of its own."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import venv
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hollowbone.runtime import load, runner
from hollowbone.runtime.base import Artifact
from hollowbone.runtime.remote import Command
from tests.runtime.networks import pictures

BRIEF = {"warmup_seconds": 0.001, "min_seconds": 0.001, "max_seconds": 0.05}


class Talk:
    """Lines to a runner and lines back."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, runner.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(folder)},
        )

    def line(self, line: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def ask(self, do: str, **fields: Any) -> dict[str, Any]:
        return self.line(json.dumps({"id": 7, "do": do, **fields}))

    def put(self, data: bytes, digest: str | None = None, pieces: int = 1) -> dict[str, Any]:
        digest = digest or hashlib.sha256(data).hexdigest()
        step = -(-len(data) // pieces)
        answer = {}
        for start in range(0, len(data), step):
            chunk = base64.b64encode(data[start : start + step]).decode()
            answer = self.ask("put", model=digest, format="onnx", data=chunk, last=start + step >= len(data))
        return answer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runner")


@pytest.fixture(scope="module")
def talk(folder: Path) -> Iterator[Talk]:
    talk = Talk(folder)
    yield talk
    talk.process.stdin.close()  # type: ignore[union-attr]
    assert talk.process.wait(timeout=10) == 0


@pytest.fixture(scope="module")
def model(talk: Talk, small: Artifact) -> str:
    """The digest of `small`, put in five chunks."""
    data = small.path.read_bytes()
    assert talk.put(data, pieces=5) == {"id": 7, "ok": True}
    return hashlib.sha256(data).hexdigest()


def refusal(answer: dict[str, Any]) -> str:
    assert answer["ok"] is False
    assert set(answer) == {"id", "ok", "error"}
    assert "\n" not in answer["error"]
    return answer["error"]


def test_hello_names_the_protocol_and_another_is_refused(talk: Talk) -> None:
    assert talk.ask("hello", protocol=1) == {"id": 7, "ok": True, "protocol": 1}
    assert "copy the runner.py of your hollowbone" in refusal(talk.ask("hello", protocol=2))


def test_facts_say_what_timings_depend_on(talk: Talk) -> None:
    facts = talk.ask("facts")["facts"]
    assert facts["cores"] >= 1
    assert facts["processor"]
    assert facts["onnxruntime"]
    assert isinstance(facts["flags"], list)


def test_a_model_is_run_as_here(talk: Talk, model: str, small: Artifact) -> None:
    x = pictures(3).numpy()
    answer = talk.ask("run", model=model, inputs=[runner.pack(x)])
    np.testing.assert_array_equal(runner.unpack(answer["outputs"][0]), load(small)(x)[0])


@pytest.mark.parametrize("fresh", [False, True])
def test_a_model_is_timed(talk: Talk, model: str, fresh: bool) -> None:
    timing = talk.ask("time", model=model, inputs=[runner.pack(pictures().numpy())], fresh=fresh, clock=BRIEF)["timing"]
    assert 0 < timing["low_ms"] <= timing["median_ms"] <= timing["high_ms"]
    assert timing["median_ms"] <= timing["p95_ms"]
    assert timing["runs"] >= 1


def test_a_pair_is_timed_and_memory_is_told(talk: Talk, model: str) -> None:
    inputs = [runner.pack(pictures().numpy())]
    assert len(talk.ask("time_pair", model=model, other=model, inputs=inputs, clock=BRIEF)["timings"]) == 2
    assert talk.ask("memory", model=model, inputs=inputs)["bytes"] > 0


def test_a_corrupted_model_is_not_stored(talk: Talk, small: Artifact) -> None:
    data = small.path.read_bytes()
    broken = data[:100] + bytes([data[100] ^ 1]) + data[101:]
    digest = hashlib.sha256(data + b"announced").hexdigest()
    assert "has another SHA-256 than announced" in refusal(talk.put(broken, digest, pieces=3))
    assert talk.ask("has", model=digest)["have"] is False
    assert "was not put" in refusal(talk.ask("run", model=digest, inputs=[]))


def test_a_chunk_that_is_not_base64_drops_what_came_before(talk: Talk, folder: Path) -> None:
    digest = "ab" * 32
    assert talk.ask("put", model=digest, format="onnx", data="AAAA", last=False)["ok"]
    assert "was not stored" in refusal(talk.ask("put", model=digest, format="onnx", data="*", last=True))
    assert not list(folder.glob(f"*/{digest}*"))


def test_what_is_no_model_is_refused_by_the_runtime_in_a_sentence(talk: Talk) -> None:
    data = b"no model at all"
    assert talk.put(data)["ok"]
    error = refusal(talk.ask("run", model=hashlib.sha256(data).hexdigest(), inputs=[]))
    assert "is no ONNX model that onnxruntime" in error


@pytest.mark.parametrize("digest", ["../../etc/passwd", "/etc/passwd", "", 5, "AB" * 32, "ab" * 31])
def test_a_model_is_named_by_a_digest_and_by_nothing_that_could_be_a_path(talk: Talk, digest: Any) -> None:
    assert "64 small hexadecimal digits" in refusal(talk.ask("put", model=digest, format="onnx", data="", last=True))
    assert "64 small hexadecimal digits" in refusal(talk.ask("run", model=digest, inputs=[]))


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"do": "exec", "code": "1"}, "there is no request 'exec'"),
        ({"do": None}, "there is no request None"),
        ({}, "there is no request None"),
        ({"do": "run"}, "lacks the field"),
        ({"do": "put", "model": "ab" * 32, "format": "pickle", "data": "", "last": True}, "not 'pickle'"),
        ({"do": "hello"}, "lacks the field 'protocol'"),
    ],
)
def test_unknown_and_incomplete_requests_are_refused(talk: Talk, request_: dict[str, Any], words: str) -> None:
    assert words in refusal(talk.line(json.dumps({"id": 7, **request_})))


@pytest.mark.parametrize("line", ["garbage", "[1, 2]", "3", '{"id": 1,', "\x00"])
def test_a_line_that_is_no_request_is_answered_and_the_runner_lives_on(talk: Talk, line: str) -> None:
    answer = talk.line(line)
    assert answer["id"] is None
    assert refusal(answer) == "a request is one JSON object on one line"
    assert talk.ask("hello", protocol=1)["ok"]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"dtype": "object", "shape": [1], "data": ""}, "dtype 'object'"),
        ({"dtype": "float32", "shape": [1], "data": "AAA="}, "no array of the protocol"),
        ({"dtype": "float32", "shape": [3], "data": "AAAAAA=="}, "no array of the protocol"),
        ("x", "no array of the protocol"),
    ],
)
def test_inputs_that_are_no_arrays_are_refused(talk: Talk, model: str, value: Any, words: str) -> None:
    assert words in refusal(talk.ask("run", model=model, inputs=[value]))


def test_wrong_shapes_and_threads_are_refused(talk: Talk, model: str) -> None:
    wrong = runner.pack(np.zeros((1, 4, 16, 16), np.float32))
    assert "must be float32 of shape (any, 3, 16, 16)" in refusal(talk.ask("run", model=model, inputs=[wrong]))
    assert "threads must be 1 or more" in refusal(talk.ask("run", model=model, inputs=[], threads=0))


@given(hnp.arrays(st.sampled_from(runner.DTYPES), hnp.array_shapes(min_dims=0, min_side=0, max_side=4)))
@settings(max_examples=60, deadline=None)
def test_arrays_survive_the_protocol(array: np.ndarray) -> None:
    back = runner.unpack(json.loads(json.dumps(runner.pack(array))))
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    assert back.tobytes() == array.tobytes()


def test_bye_ends_the_runner_and_leaves_nothing_behind(tmp_path: Path, small: Artifact) -> None:
    talk = Talk(tmp_path)
    assert talk.put(small.path.read_bytes())["ok"]
    assert len(list(tmp_path.glob("*/*.onnx"))) == 1
    assert talk.ask("bye") == {"id": 7, "ok": True}
    assert talk.process.wait(timeout=10) == 0
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of a second virtual environment that knows numpy and onnxruntime and nothing else, in a folder with a space."""
    root = tmp_path_factory.mktemp("a board")
    venv.create(root / "venv", with_pip=False, symlinks=True)
    packages = root / "packages"
    packages.mkdir()
    for name in ("numpy", "onnxruntime"):
        (location,) = find_spec(name).submodule_search_locations  # type: ignore[union-attr, misc]
        (packages / name).symlink_to(location)
        libraries = Path(location).with_name(f"{name}.libs")
        if libraries.exists():
            (packages / libraries.name).symlink_to(libraries)
    (site,) = (root / "venv" / "lib").glob("python*/site-packages")
    (site / "board.pth").write_text(f"{packages}\n")
    (root / "runner.py").write_bytes(Path(runner.__file__).read_bytes())
    return root


def test_the_runner_needs_numpy_and_onnxruntime_alone(board: Path, small: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    python = board / "venv" / "bin" / "python"
    seek = "from importlib.util import find_spec as f; print([n for n in ('hollowbone', 'torch', 'onnx', 'pip') if f(n)])"
    found = subprocess.run([python, "-c", seek], cwd=board, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"

    x = pictures(2).numpy()
    with Command(f"'{python}' '{board / 'runner.py'}'") as device:
        assert device.facts()["onnxruntime"]
        np.testing.assert_array_equal(device.run(small, [x])[0], load(small)(x)[0])
        assert device.time(small, [x], fresh=True, clock=BRIEF).runs > 0
        assert len(device.time_pair(small, small, [x], clock=BRIEF)) == 2
        assert device.peak_memory(small, [x]) > 0
