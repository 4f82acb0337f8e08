"""Going over all pictures with threads (Pillow's decoders let go of the interpreter), with progress if it takes long."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from hollowbone.tasks.classification import pictures
from hollowbone.tasks.classification.listing import Item

CHUNK = 1024
PATIENCE = 2.0
"""Seconds after which progress is shown."""

T = TypeVar("T")


@dataclass(frozen=True)
class Looked:
    """An item with its header."""

    item: Item
    header: pictures.Header


@dataclass(frozen=True)
class Decoded:
    """A picture's identity, and the picture itself where it is kept."""

    content: str
    """Hash of the pixels at full size: the same in every format, at whatever resolution the network works."""
    shown: str
    """Hash of what the network is shown: equal for pictures that no network could tell apart."""
    array: np.ndarray | None
    """uint8 (C, H, W) at the working resolution."""


def look_at_all(items: Sequence[Item]) -> tuple[list[Looked], dict[str, str]]:
    """The header of every item in order, and name -> reason of those that have none."""

    def look(item: Item) -> Looked:
        return Looked(item, pictures.header(item.read()))

    return _over_all(items, look, "looking at pictures")


def decode_all(
    items: Sequence[Item], resolution: tuple[int, int], in_chans: int, *, keep: bool
) -> tuple[list[Decoded], dict[str, str]]:
    """Every item decoded, in order (arrays only with `keep`), and name -> reason of those that cannot be."""

    def decode(item: Item) -> Decoded:
        picture = pictures.decode(item.read())
        array = pictures.to_array(picture, resolution, in_chans)
        shown = hashlib.sha256(array.tobytes()).hexdigest()
        return Decoded(pictures.pixel_digest(picture), shown, array if keep else None)

    return _over_all(items, decode, "decoding pictures")


def _over_all(items: Sequence[Item], work: Callable[[Item], T], title: str) -> tuple[list[T], dict[str, str]]:
    def safe(item: Item) -> T | Exception:
        try:
            return work(item)
        except (pictures.Unreadable, OSError) as error:
            return error
        except MemoryError:  # the file itself, before it is decoded
            return pictures.Unreadable("too large for the memory of this machine")

    done: list[T] = []
    broken: dict[str, str] = {}
    with ThreadPoolExecutor(max_workers=_threads()) as pool:
        for item, result in zip(items, _shown(_chunked(pool, safe, items), len(items), title), strict=True):
            if isinstance(result, OSError):
                broken[item.name] = (result.strerror or str(result)).lower()
            elif isinstance(result, Exception):
                broken[item.name] = str(result)
            else:
                done.append(result)
    return done, broken


def _threads() -> int:
    return min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def _chunked(pool: ThreadPoolExecutor, work: Callable[[Item], T], items: Sequence[Item]) -> Iterator[T]:
    # A pool's `map` submits everything at once; a million futures would take more memory than the pictures.
    for start in range(0, len(items), CHUNK):
        yield from pool.map(work, items[start : start + CHUNK])


def _shown(results: Iterator[T], total: int, title: str) -> Iterator[T]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=Console(stderr=True), transient=True)
    bar = progress.add_task(title, total=total)
    begun, started = time.monotonic(), False
    try:
        for count, result in enumerate(results, 1):
            if not started and time.monotonic() - begun > PATIENCE:
                progress.start()
                started = True
            progress.update(bar, completed=count)
            yield result
    finally:
        if started:
            progress.stop()
