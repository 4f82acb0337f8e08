"""The other end of `runner.py`: a `Command` starts it, greets it, sends it each artifact once and asks it to time and run."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import queue
import shlex
import subprocess
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from hollowbone.errors import UserError
from hollowbone.runtime import runner
from hollowbone.runtime.base import Artifact, Timing
from hollowbone.runtime.session import check_runnable

_CHUNK = 3 * 2**18  # bytes of an artifact in one line; a multiple of 3, so that base64 needs no padding


def fingerprint_of(facts: dict[str, Any]) -> str:
    """Digest of the facts on which timings depend: all but the load of the moment."""
    lasting = {key: value for key, value in facts.items() if key != "load"}
    return hashlib.sha256(json.dumps(lasting, sort_keys=True).encode()).hexdigest()[:16]


class Command:
    """A machine behind a command that carries the standard input and output of `runner.py`.

    `timeout` is how long the greeting may take (an ssh that asks for a password needs a person), `patience` any later
    answer, both in seconds. Every failure (no such command, a runner that dies or answers nonsense) is a `UserError`.
    """

    def __init__(self, command: str | Sequence[str], *, timeout: float = 60.0, patience: float = 900.0) -> None:
        try:
            self._arguments = shlex.split(command) if isinstance(command, str) else list(command)
        except ValueError as error:
            raise UserError(f"the device command {command!r} cannot be read: {error}") from error
        self.name = f"command:{command}" if isinstance(command, str) else f"command:{shlex.join(command)}"
        self._patience = patience
        self._number = 0
        self._put: set[str] = set()
        self._facts: dict[str, Any] | None = None
        try:
            self._process = subprocess.Popen(
                self._arguments,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                errors="replace",
            )
        except (OSError, IndexError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is empty"
            raise UserError(f"the device command {command!r} cannot be started: {reason}") from error
        self._answers: queue.Queue[str | None] = queue.Queue()
        self._said: deque[str] = deque(maxlen=5)
        self._reader = threading.Thread(target=_pump, args=(self._process.stderr, self._said.append, False), daemon=True)
        self._reader.start()
        threading.Thread(target=_pump, args=(self._process.stdout, self._answers.put, True), daemon=True).start()
        self.close = weakref.finalize(self, _end, self._process)
        """Say goodbye and end the command; also done when the device is dropped or Python ends."""
        self._ask("hello", protocol=runner.PROTOCOL, patience=timeout)

    def __enter__(self) -> Command:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def facts(self) -> dict[str, Any]:
        """What the runner says of its machine; asked once, so the load is that of the first time."""
        if self._facts is None:
            self._facts = self._ask("facts")["facts"]
        return self._facts

    def fingerprint(self) -> str:
        """Digest of the facts on which timings depend."""
        return fingerprint_of(self.facts())

    def time(
        self,
        artifact: Artifact,
        inputs: list[np.ndarray],
        *,
        threads: int = 1,
        fresh: bool = False,
        clock: dict[str, Any] | None = None,
    ) -> Timing:
        """Milliseconds a call over there; `clock` are options of `time_call`."""
        model, arrays = self._send(artifact), [runner.pack(a) for a in inputs]
        answer = self._ask("time", model=model, inputs=arrays, threads=threads, fresh=fresh, clock=clock or {})
        return Timing(**answer["timing"])

    def time_pair(
        self, a: Artifact, b: Artifact, inputs: list[np.ndarray], *, threads: int = 1, clock: dict[str, Any] | None = None
    ) -> tuple[Timing, Timing]:
        """Both in one process over there, in turn."""
        model, other, arrays = self._send(a), self._send(b), [runner.pack(x) for x in inputs]
        answer = self._ask("time_pair", model=model, other=other, inputs=arrays, threads=threads, clock=clock or {})
        first, second = (Timing(**timing) for timing in answer["timings"])
        return first, second

    def run(self, artifact: Artifact, inputs: list[np.ndarray], *, threads: int = 1) -> list[np.ndarray]:
        """Outputs of the artifact over there."""
        answer = self._ask("run", model=self._send(artifact), inputs=[runner.pack(a) for a in inputs], threads=threads)
        return [runner.unpack(value) for value in answer["outputs"]]

    def peak_memory(self, artifact: Artifact, inputs: list[np.ndarray], *, threads: int = 1) -> int:
        """Peak resident bytes that loading and one run add to a fresh process with the runtime alone, over there."""
        arrays = [runner.pack(a) for a in inputs]
        return self._ask("memory", model=self._send(artifact), inputs=arrays, threads=threads)["bytes"]

    def _send(self, artifact: Artifact) -> str:
        """Put the artifact there unless it is there already; its digest."""
        check_runnable(artifact)
        try:
            data = artifact.path.read_bytes()
        except OSError as error:
            raise UserError(f"cannot read {artifact.path}: {error.strerror or error}") from error
        digest = hashlib.sha256(data).hexdigest()
        if digest not in self._put:
            if not self._ask("has", model=digest)["have"]:
                starts = range(0, max(len(data), 1), _CHUNK)
                for start in starts:
                    chunk = base64.b64encode(data[start : start + _CHUNK]).decode("ascii")
                    self._ask("put", model=digest, format=artifact.format, data=chunk, last=start == starts[-1])
            self._put.add(digest)
        return digest

    def _ask(self, do: str, *, patience: float | None = None, **fields: Any) -> dict[str, Any]:
        self._number += 1
        request = json.dumps({"id": self._number, "do": do, **fields})
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # a dead process is noticed below, with what it said
            self._process.stdin.write(request + "\n")
            self._process.stdin.flush()
        seconds = patience or self._patience
        try:
            line = self._answers.get(timeout=seconds)
        except queue.Empty:
            raise self._failed(f"did not answer {do!r} within {seconds:g} seconds") from None
        if line is None:
            self._process.wait(timeout=10)
            self._reader.join(timeout=1)
            said = f"; its last words: {self._said[-1]}" if self._said else ""
            raise self._failed(f"ended with code {self._process.returncode} instead of answering {do!r}{said}")
        try:
            answer = json.loads(line)
            mine = answer["id"] in (self._number, None)
            ok = answer["ok"]
        except (ValueError, TypeError, KeyError):
            mine, ok, answer = False, False, {}
        if not mine:
            raise self._failed(f"answered {line.strip()[:80]!r}, which is not the protocol of hollowbone's runner.py")
        if not ok:
            raise UserError(f"the device {self.name!r} says: {answer.get('error')}")
        return answer

    def _failed(self, what: str) -> UserError:
        self._process.kill()  # it would not understand a goodbye
        self.close()
        return UserError(f"the device {self.name!r} {what}")


def _pump(stream: Any, take: Any, tell_end: bool) -> None:
    """Hand on every line; None at the end."""
    with contextlib.suppress(ValueError, OSError):
        for line in stream:
            take(line.rstrip("\n"))
    if tell_end:
        take(None)


def _end(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(OSError, ValueError):
        process.stdin.close()  # type: ignore[union-attr]
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
