"""Files that are either old or new, never half: written beside their place and renamed into it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hollowbone.errors import UserError


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path in the same folder; renamed to `path` when the block ends well, removed otherwise.

    Raises `UserError` naming the path when the folder cannot be written or the disk is full.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb+") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; earlier files in the folder are untouched") from error
    finally:
        with suppress(OSError):  # a path through a file has no folder to unlink in
            temporary.unlink(missing_ok=True)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, atomically; what is no UTF-8 (a file name of other bytes) is written as its escape."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` to `path` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, sort_keys=False, allow_nan=False) + "\n")


def write_with(path: str | Path, writer: Callable[[Path], object]) -> None:
    """Let `writer` write a file and move it to `path` atomically."""
    with replacing(path) as temporary:
        writer(temporary)


def sha256(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def cache_dir() -> Path:
    """Where hollowbone keeps what can be made again: `$HOLLOWBONE_CACHE`, else `$XDG_CACHE_HOME/hollowbone`."""
    if given := os.environ.get("HOLLOWBONE_CACHE"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hollowbone"
