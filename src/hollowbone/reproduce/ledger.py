"""The ledger of a study: every finished piece of work is one line of JSON, on the disk before it is used.

The lines are those of a run's journal, `{"key", "kind", "value"}`, with an `identity` beside them: the digest of all that
decided the value (code, settings, machine). Lines of another identity are left where they are and do not count.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hollowbone.errors import UserError


class Ledger:
    """An append-only file of values by name; opened again, it gives back what was finished under the same identity.

    Raises `UserError` for a file that cannot be written, or holds something else.
    """

    def __init__(self, path: str | Path, identity: str) -> None:
        self.path, self.identity = Path(path), identity
        self._values: dict[str, Any] = {}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.touch()
            _drop_torn_tail(self.path)
            lines = self.path.read_bytes().split(b"\n")
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error.strerror or error}") from error
        for number, line in enumerate(lines, 1):
            if line:
                self._take(line, number)

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def once(self, key: str, compute: Callable[[], Any]) -> Any:
        """The value of that name: as it was written, or computed now and written first. JSON values only."""
        if key not in self._values:
            record = {"key": key, "kind": "result", "value": compute(), "identity": self.identity}
            line = json.dumps(record, ensure_ascii=False, allow_nan=False)
            try:
                with open(self.path, "a", encoding="utf-8", newline="\n") as handle:
                    handle.write(line + "\n")
                    handle.flush()
                    os.fsync(handle.fileno())
            except OSError as error:
                raise UserError(
                    f"cannot write {self.path}: {error.strerror or error}; the same command goes on from here"
                ) from error
            self._values[key] = json.loads(line)["value"]
        return self._values[key]

    def _take(self, line: bytes, number: int) -> None:
        try:
            record = json.loads(line)
            key, value, identity = record["key"], record["value"], record["identity"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.path} is not the ledger of a study: line {number} is no record; remove the file") from error
        if identity == self.identity:
            self._values[key] = value


def _drop_torn_tail(path: Path) -> None:
    """Cut a last line that a kill left half written."""
    data = path.read_bytes()
    end = data.rfind(b"\n") + 1
    if end != len(data):
        with open(path, "rb+") as handle:
            handle.truncate(end)
