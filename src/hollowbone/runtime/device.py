"""Devices: this machine (`local`), and any behind a command that runs `runner.py` (`command:ssh pi python3 runner.py`)."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from hollowbone.errors import UserError
from hollowbone.runtime import runner
from hollowbone.runtime.base import Artifact, Device, Timing
from hollowbone.runtime.clock import time_call, time_calls_interleaved
from hollowbone.runtime.remote import Command, fingerprint_of
from hollowbone.runtime.session import LocalSession


def get_device(name: str = "local", *, timeout: float = 60.0) -> Device:
    """The device of that name, ready to use.

    `local` is this machine; `command:COMMAND` starts the command and greets the runner behind it within `timeout` seconds.
    Raises `UserError` for any other name, a command that cannot be started, and a runner that does not answer.
    """
    if name == "local":
        return Local()
    kind, _, command = name.partition(":")
    if kind == "command" and command.strip():
        return Command(command, timeout=timeout)
    raise UserError(
        f"there is no device {name!r}; it is 'local', or 'command:' followed by what runs hollowbone's runner.py, "
        "such as 'command:ssh pi python3 runner.py'"
    )


class Local:
    """This machine: sessions in this process, fresh processes where asked for."""

    name = "local"

    def facts(self) -> dict[str, Any]:
        """Processor, cores, instruction sets, system, versions of the runtimes, load of the moment."""
        return {**runner.facts(), "torch": _version("torch"), "executorch": _version("executorch")}

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
        """Milliseconds a call; `fresh` in a process that has nothing else loaded; `clock` are options of `time_call`."""
        if fresh:
            with _fresh_runner() as process:
                return process.time(artifact, inputs, threads=threads, clock=clock)
        return time_call(LocalSession(artifact, threads).bind(inputs), **clock or {})

    def time_pair(
        self, a: Artifact, b: Artifact, inputs: list[np.ndarray], *, threads: int = 1, clock: dict[str, Any] | None = None
    ) -> tuple[Timing, Timing]:
        """Both in this process, in turn."""
        fns = [LocalSession(x, threads).bind(inputs) for x in (a, b)]
        first, second = time_calls_interleaved(fns, **clock or {})
        return first, second

    def run(self, artifact: Artifact, inputs: list[np.ndarray], *, threads: int = 1) -> list[np.ndarray]:
        """Outputs of the artifact."""
        return LocalSession(artifact, threads)(*inputs)

    def peak_memory(self, artifact: Artifact, inputs: list[np.ndarray], *, threads: int = 1) -> int:
        """Peak resident bytes that loading and one run add to a fresh process with the runtime alone."""
        with _fresh_runner() as process:
            return process.peak_memory(artifact, inputs, threads=threads)


def _fresh_runner() -> Command:
    """A new process of this Python that runs `runner.py` and imports nothing of hollowbone or torch."""
    return Command([sys.executable, runner.__file__])


def _version(package: str) -> str | None:
    from importlib import metadata  # itself as heavy as the rest of this module

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
