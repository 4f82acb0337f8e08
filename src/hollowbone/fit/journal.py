"""The run's journal: every measurement on which a decision rests, written before it is used, replayed on resume.

A record is one line of JSON `{"key": ..., "kind": ..., "value": ...}`. Three kinds: a *clock* record came from a
measurement that would come out differently tomorrow (latencies, peak memory): resume and replay take it from the journal
and never measure again. A *result* record was computed from data, seed and clock records alone: resume takes it from the
journal, a replay computes it again and raises `ReplayDiverged` if it differs. A *note* decides nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hollowbone.errors import ReplayDiverged, UserError

VERSION = 1


class Journal:
    """An append-only file of records, each flushed to the disk before its value is used.

    `source` is a finished or unfinished journal whose clock records are replayed and whose results are checked.
    """

    def __init__(self, path: Path, *, source: Path | None = None) -> None:
        self.path = path
        self._records: dict[str, dict[str, Any]] = {}
        self._source = _read(source) if source else {}
        if path.exists():
            _drop_torn_tail(path)
            self._records = _read(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(path, "a", encoding="utf-8", errors="backslashreplace", newline="\n")  # noqa: SIM115  (open for the journal's life)
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror or error}") from error

    def __contains__(self, key: str) -> bool:
        return key in self._records

    def __getitem__(self, key: str) -> Any:
        return self._records[key]["value"]

    def get(self, key: str, default: Any = None) -> Any:
        """The value recorded under a key, or the default."""
        record = self._records.get(key)
        return default if record is None else record["value"]

    def keys(self) -> list[str]:
        """Keys recorded so far, in order."""
        return list(self._records)

    def clock(self, key: str, measure: Callable[[], Any]) -> Any:
        """The measurement of that name: from this journal, from the replayed one, or taken now."""
        if key in self._records:
            return self[key]
        if key in self._source:
            return self._append(key, "clock", self._source[key]["value"])
        return self._append(key, "clock", measure())

    def result(self, key: str, compute: Callable[[], Any]) -> Any:
        """A value that data, seed and clock records determine; a replay checks that it comes out the same."""
        if key in self._records:
            return self[key]
        value = json.loads(json.dumps(compute(), allow_nan=False))
        if key in self._source and self._source[key]["value"] != value:
            raise ReplayDiverged(f"the replay computed {value} for {key}, the journal says {self._source[key]['value']}")
        return self._append(key, "result", value)

    def note(self, key: str, value: Any) -> None:
        """Record something on which nothing rests (once)."""
        if key not in self._records:
            self._append(key, "note", value)

    def close(self) -> None:
        """Close the file; records stay readable."""
        self._file.close()

    def _append(self, key: str, kind: str, value: Any) -> Any:
        record = {"key": key, "kind": kind, "value": value}
        line = json.dumps(record, ensure_ascii=False, allow_nan=False)
        try:
            self._file.write(line + "\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error.strerror or error}; the run can be resumed from here") from error
        self._records[key] = json.loads(line)
        return self._records[key]["value"]


def _read(path: Path) -> dict[str, dict[str, Any]]:
    records = {}
    try:
        lines = path.read_bytes().decode().split("\n")  # not splitlines: text in JSON may hold its other separators
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a journal: it is not UTF-8 text") from error
    except OSError as error:
        raise UserError(f"cannot read the journal {path}: {error.strerror or error}") from error
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            record = json.loads(line)
            records[record["key"]] = {"kind": record["kind"], "value": record["value"], "key": record["key"]}
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is not a journal: line {number} is no record") from error
    return records


def _drop_torn_tail(path: Path) -> None:
    """Cut a last line that a kill left half written."""
    data = path.read_bytes()
    end = data.rfind(b"\n") + 1
    if end != len(data):
        with open(path, "rb+") as handle:
            handle.truncate(end)
