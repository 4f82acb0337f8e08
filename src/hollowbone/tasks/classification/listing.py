"""What is there: every picture with its label, and its split where the data bring one."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hollowbone.errors import UserError
from hollowbone.tasks.classification.pictures import EXTENSIONS

SPELLINGS: dict[str, str] = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "select", "dev"), "select"),
    **dict.fromkeys(("test", "testing", "report", "eval", "holdout"), "report"),
}
"""Usual names of a split, in lower case -> ours."""

JUNK = frozenset({"Thumbs.db", "thumbs.db", "desktop.ini", "__MACOSX"})
"""What file managers leave behind; passed over like hidden files."""


@dataclass(frozen=True)
class Item:
    """A picture as found: its name in messages, its label, the split that the data name (or None), and where its bytes are."""

    name: str
    label: str
    split: str | None
    path: Path
    offset: int = 0
    size: int | None = None

    def read(self) -> bytes:
        """The file's bytes, or its part of a shard. Raises `OSError`."""
        if "\0" in str(self.path):
            raise OSError(errno.EINVAL, "no file can have this name")
        if not stat.S_ISREG(os.stat(self.path).st_mode):  # to open a pipe would be to wait for ever
            raise OSError(errno.EINVAL, "not a file")
        with open(self.path, "rb") as handle:
            if self.size is None:
                return handle.read()
            handle.seek(self.offset)
            return handle.read(self.size)


@dataclass
class Listing:
    """Everything found under a source; `notes` are sentences about what was left aside."""

    items: list[Item]
    notes: list[str] = field(default_factory=list)

    @property
    def classes(self) -> tuple[str, ...]:
        """Labels, by number where all are whole numbers, else by name."""
        return ordered({item.label for item in self.items})


def ordered(labels: Iterable[str]) -> tuple[str, ...]:
    """Labels sorted by number where all are whole numbers, else by name."""
    labels = list(labels)
    if all(len(label) < 20 and label.isascii() and label.removeprefix("-").isdigit() for label in labels):
        return tuple(sorted(labels, key=lambda label: (int(label), label)))
    return tuple(sorted(labels))


def some(names: Sequence[str], limit: int = 5) -> str:
    """The first few names in a row, and how many more there are."""
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


def printable(name: str) -> str:
    """A file's name with what is not UTF-8 in it replaced, so that it can be printed and stored."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder, by name, hidden things apart. Raises `UserError` if it cannot be listed."""
    try:
        with os.scandir(folder) as found:
            return sorted((e for e in found if not e.name.startswith(".") and e.name not in JUNK), key=lambda e: e.name)
    except OSError as error:
        raise UserError(f"cannot read the folder {folder}: {error.strerror or error}") from error


def list_folder(root: Path) -> Listing:
    """Class folders under `root`, or under its `train`, `val`, `test` (and other usual spellings).

    Raises `UserError` when the folder is empty, cannot be read, or holds no class folder with pictures.
    """
    listing = Listing([])
    top = entries(root)
    if not top:
        raise UserError(f"the folder {root} is empty; it should hold one folder of pictures for each class")
    folders = [e.name for e in top if e.is_dir()]
    loose = [e.name for e in top if not e.is_dir()]
    if ready := ready_splits(root, folders):
        for folder, split in ready.items():
            inner = [e for e in entries(root / folder) if e.is_dir()]
            if not inner:
                listing.notes.append(f"{folder} holds no class folders and was left out")
            for entry in inner:
                _add_class(listing, root, Path(folder) / entry.name, entry.name, split)
        if others := [name for name in folders if name not in ready]:
            listing.notes.append(f"beside the splits, these folders were left out: {some(others)}")
    else:
        for name in folders:
            _add_class(listing, root, Path(name), name, None)
    if loose:
        listing.notes.append(f"{len(loose)} files outside any class folder were left out: {some(loose)}")
    if not listing.items:
        if lying := [name for name in loose if Path(name).suffix.lower() in EXTENSIONS]:
            raise UserError(f"{len(lying)} pictures lie directly in {root}; put those of each class into a folder of its own")
        what = "no folders" if not folders else "no pictures in its folders"
        raise UserError(
            f"{root} has {what}; it should hold one folder of pictures ({', '.join(sorted(EXTENSIONS))}) for each class"
        )
    return listing


def ready_splits(root: Path, folders: Sequence[str]) -> dict[str, str]:
    """Folder -> split where the folders are splits and not classes: one is a train split that itself holds folders."""
    named = {name: SPELLINGS[name.lower()] for name in folders if name.lower() in SPELLINGS}
    if not any(split == "train" and any(e.is_dir() for e in entries(root / name)) for name, split in named.items()):
        return {}
    for split in set(named.values()):
        if len(same := [name for name, meant in named.items() if meant == split]) > 1:
            raise UserError(f"in {root} the folders {' and '.join(same)} both name the {split} split; keep one of them")
    return named


def _add_class(listing: Listing, root: Path, folder: Path, label: str, split: str | None) -> None:
    others, count = [], 0
    for entry in _walk(root / folder):
        name = printable(Path(entry.path).relative_to(root).as_posix())
        if not entry.is_dir() and Path(entry.name).suffix.lower() in EXTENSIONS:
            listing.items.append(Item(name, printable(label), split, Path(entry.path)))
            count += 1
        else:
            others.append(name)
    if others:
        listing.notes.append(
            f"{len(others)} files without a picture's ending, or links to folders, were left out: {some(others)}"
        )
    if not count:
        listing.notes.append(f"the folder {folder.as_posix()} holds no pictures and is no class")


def _walk(folder: Path) -> Iterable[os.DirEntry[str]]:
    for entry in entries(folder):
        if entry.is_dir(follow_symlinks=False):  # a link to a folder could lead round in a circle
            yield from _walk(Path(entry.path))
        else:
            yield entry
