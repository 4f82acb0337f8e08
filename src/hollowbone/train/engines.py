"""Where independent jobs run: one after another in this process, or spread over a Ray cluster.

A job is a dictionary of JSON values for an importable function of one argument, and so is its result. What comes out is
decided by the job alone: the thread count is fixed, results come in the order of the jobs, and a job whose worker died is
run again. So the engines agree bit for bit on machines of one kind. Files that a job names must be on a shared disk.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from hollowbone.errors import HollowboneError, UserError, unknown

Job = dict[str, Any]
Function = Callable[[Job], Job]

ENGINES = ("local", "ray")
RETRIES = 3
"""How often a job is begun anew after its worker died."""


class Engine(Protocol):
    """Runs jobs."""

    name: str

    def map(self, function: Function | str, jobs: Sequence[Job]) -> list[Job]:
        """The result of `function` (or "module:function") for each job, in their order."""
        ...

    def close(self) -> None:
        """Give back what the engine holds."""
        ...


def get_engine(name: str = "local", *, threads: int = 2) -> Engine:
    """The engine of that name; each job gets `threads` threads. Raises `UserError` if it is unknown or not installed.

    `ray` joins the cluster that the environment variable RAY_ADDRESS names, and otherwise starts one on this machine.
    """
    if threads < 1:
        raise UserError(f"threads must be 1 or more, not {threads}")
    if name == "local":
        return LocalEngine(threads)
    if name == "ray":
        return RayEngine(threads)
    raise unknown("engine", name, ENGINES)


class LocalEngine:
    """One job after another, here."""

    name = "local"

    def __init__(self, threads: int = 2) -> None:
        self.threads = threads

    def map(self, function: Function | str, jobs: Sequence[Job]) -> list[Job]:
        """Results in order."""
        return [_call(_named(function), job, self.threads) for job in jobs]

    def close(self) -> None:
        """Nothing is held."""


class RayEngine:
    """One Ray task a job. The cluster is joined at the first `map`; one that was started here ends with `close`."""

    name = "ray"

    def __init__(self, threads: int = 2) -> None:
        try:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            import ray
        except ImportError as error:
            raise UserError("the engine 'ray' needs Ray: pip install 'hollowbone[cluster]', or use --engine local") from error
        self.ray, self.threads, self._joined = ray, threads, False

    def map(self, function: Function | str, jobs: Sequence[Job]) -> list[Job]:
        """Results in order; `UserError` if a job's worker died more than `RETRIES` times."""
        ray, name = self.ray, _named(function)
        if not jobs:
            return []
        self._join()
        largest = max(node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"])
        remote = ray.remote(max_retries=RETRIES, num_cpus=min(self.threads, largest))(_call)
        place = (os.getcwd(), list(sys.path))
        tasks = [remote.remote(name, job, self.threads, *place) for job in jobs]
        try:
            return ray.get(tasks)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, HollowboneError):
                raise error.cause from None
            raise
        except ray.exceptions.WorkerCrashedError as error:
            said = f"a Ray worker died {RETRIES + 1} times on one job of {name}"
            raise UserError(f"{said}; the usual reason is a lack of memory on its machine") from error
        finally:
            for task in tasks:  # those that an error or Ctrl-C left behind
                ray.cancel(task, force=True)

    def close(self) -> None:
        """End the cluster if it was started here, or leave it."""
        if self._joined:
            self.ray.shutdown()
            self._joined = False

    def _join(self) -> None:
        if self.ray.is_initialized():
            return
        options: dict[str, Any] = {} if "RAY_ADDRESS" in os.environ else {"include_dashboard": False}
        try:
            self.ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            where = os.environ.get("RAY_ADDRESS", "this machine")
            raise UserError(f"the Ray cluster at {where} cannot be joined: {error}") from error
        self._joined = True


def _named(function: Function | str) -> str:
    """`module:function`, checked to be importable."""
    name = function if isinstance(function, str) else f"{function.__module__}:{function.__qualname__}"
    module, _, attribute = name.partition(":")
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(f"a job's function must be importable as module:function, which {name} is not ({error})") from error
    if not callable(found):
        raise UserError(f"{name} is not a function")
    return name


def _call(name: str, job: Job, threads: int, folder: str | None = None, path: Sequence[str] = ()) -> Job:
    """Run one job; on a worker, in the folder and with the import path of the program that sent it."""
    import torch

    if folder is not None and Path(folder).is_dir():
        os.chdir(folder)
    sys.path.extend(p for p in path if p not in sys.path)
    module, _, attribute = name.partition(":")
    function = getattr(import_module(module), attribute)
    kept = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return function(job)
    finally:
        torch.set_num_threads(kept)
