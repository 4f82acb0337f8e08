"""The folder of a run: who may write to it, and where things lie in it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType

from hollowbone.errors import UserError


class RunFolder:
    """`DIR/`, locked while a run is in it. Use as a context manager.

    `model.*` (the artifact), `result.json`, `labels.txt`, `journal.jsonl` and `report.html` are what the user came for;
    `work/` holds checkpoints and intermediate exports, and may be deleted once the run is finished.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock: int | None = None

    @property
    def journal(self) -> Path:
        """The journal's file."""
        return self.path / "journal.jsonl"

    @property
    def result(self) -> Path:
        """The result's file."""
        return self.path / "result.json"

    def work(self, *parts: str) -> Path:
        """A path in `work/`, its parent made."""
        path = self.path.joinpath("work", *parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def weights(self, sha: str) -> Path:
        """Where weights that a configuration names by their digest (`init_sha`) are kept."""
        return self.work("weights", f"{sha[:16]}.safetensors")

    def __enter__(self) -> RunFolder:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UserError(f"cannot use {self.path} as the run's folder: {error.strerror or error}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.pread(self._lock, 32, 0).decode(errors="replace").strip()
            os.close(self._lock)
            self._lock = None
            raise UserError(
                f"{self.path} is in use by another run (process {owner}); wait for it or give another --out"
            ) from error
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)
        strangers = [p.name for p in self.path.iterdir() if p.name not in {".lock", "work", "journal.jsonl"}]
        if strangers and not self.journal.exists():
            self.__exit__(None, None, None)
            raise UserError(f"{self.path} is not empty and holds no run (it has {strangers[0]}); give another --out")
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
