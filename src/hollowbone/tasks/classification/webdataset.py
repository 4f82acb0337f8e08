"""WebDataset shards: tar files in which `key.jpg` and `key.cls` (or `key.json`, `key.txt`) belong to one sample.

A shard is indexed once (where each picture's bytes begin, how many they are); afterwards its pictures are read like files.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from hollowbone.errors import UserError
from hollowbone.tasks.classification.listing import SPELLINGS, Item, Listing, some
from hollowbone.tasks.classification.manifest import text_of
from hollowbone.tasks.classification.pictures import EXTENSIONS

LABEL_KEYS = ("label", "cls", "class", "class_name")
"""Where a sample's JSON may hold its label, the first that is there."""

LABEL_ENTRIES = ("cls", "json", "txt")
"""Entries that may hold a sample's label; of several the first that does, since a text beside a class may be a caption."""

MOST_SHARDS = 100_000


def expand(pattern: str) -> list[str]:
    """The names that a brace pattern stands for: `{000..002}` counts (keeping leading zeros), `{a,b}` lists.

    >>> expand("train-{08..10}.tar")
    ['train-08.tar', 'train-09.tar', 'train-10.tar']
    """
    match = re.search(r"\{([^{}]*)\}", pattern)
    if match is None:
        return [pattern]
    inside, before, after = match[1], pattern[: match.start()], pattern[match.end() :]
    if counted := re.fullmatch(r"(\d+)\.\.(\d+)", inside):
        first, last = int(counted[1]), int(counted[2])
        width = len(counted[1]) if counted[1].startswith("0") or len(counted[1]) == len(counted[2]) else 0
        if abs(last - first) >= MOST_SHARDS:
            raise UserError(f"the pattern {pattern} stands for more than {MOST_SHARDS} shards")
        step = 1 if last >= first else -1
        choices = [str(n).zfill(width) for n in range(first, last + step, step)]
    else:
        choices = inside.split(",")
    # The innermost braces are expanded first, so what surrounds them would come up once for each of their choices.
    return list(dict.fromkeys(name for choice in choices for name in expand(before + choice + after)))


def shards(source: Path) -> list[Path]:
    """The shards that a path names: one tar, a brace pattern, or all tars in a folder (and in its split folders)."""
    if source.is_dir():
        return sorted(p for p in (*source.glob("*.tar"), *source.glob("*/*.tar")) if not p.name.startswith("."))
    paths = [source] if source.is_file() else [Path(name) for name in expand(str(source))]
    if missing := [str(p) for p in paths if not p.is_file()]:
        raise UserError(f"these shards are missing: {some(missing)}")
    return paths


def holds_shards(folder: Path) -> bool:
    """Whether a folder holds shards, and not folders of pictures beside the archive that they came in."""
    inner = (path for depth in ("*/*", "*/*/*") for path in folder.glob(depth))
    return bool(shards(folder)) and not any(path.suffix.lower() in EXTENSIONS for path in inner)


def split_of(shard: Path, root: Path) -> str | None:
    """The split that a shard's folder (under `root`) or the beginning of its name says, if any."""
    if shard.parent != root and shard.parent.name.lower() in SPELLINGS:
        return SPELLINGS[shard.parent.name.lower()]
    first = re.split(r"[-_.\d]", shard.name.lower(), maxsplit=1)[0]
    return SPELLINGS.get(first)


def list_shards(source: Path) -> Listing:
    """Index every sample of the shards. Raises `UserError` for missing or damaged shards and samples without a label."""
    listing = Listing([])
    paths = shards(source)
    root = source if source.is_dir() else source.parent
    splits = {path: split_of(path, root) for path in paths}
    if None in splits.values() and len(set(splits.values())) > 1:
        odd = next(path for path, split in splits.items() if split is None)
        raise UserError(f"the name of the shard {odd} does not say its split, while others' do; rename it or leave it out")
    for path in paths:
        name = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
        without: list[str] = []
        for key, picture, label in _samples(path):
            if picture is None:
                without.append(key)
            elif not label:
                raise UserError(f"{path}: the sample {key} has a picture and no label; it needs a .cls, .json or .txt entry")
            else:
                listing.items.append(
                    Item(f"{name}/{picture.name}", label, splits[path], path, picture.offset_data, picture.size)
                )
        if without:
            listing.notes.append(f"{len(without)} samples of {name} hold no picture and were left out: {some(without)}")
    if not listing.items:
        raise UserError(
            f"the shards of {source} hold no samples with a picture (jpg, png, webp, ...) and a label (cls, json or txt)"
        )
    return listing


def _samples(path: Path) -> Iterator[tuple[str, tarfile.TarInfo | None, str]]:
    """(key, picture, label) of each sample; a sample is a run of entries with the same name up to the first point."""
    samples: dict[str, tuple[tarfile.TarInfo | None, dict[str, str]]] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if not member.isfile():
                    continue
                entry = PurePosixPath(member.name)
                stem, _, extension = entry.name.partition(".")
                key = str(entry.with_name(stem)) if stem else member.name
                picture, labels = samples.get(key, (None, {}))
                extension = extension.lower()
                if f".{extension}" in EXTENSIONS:
                    picture = member
                elif extension in LABEL_ENTRIES:
                    handle = tar.extractfile(member)
                    assert handle is not None  # a regular file
                    labels[extension] = _label(extension, handle.read(), f"{path}: {member.name}")
                samples[key] = (picture, labels)
    except (OSError, tarfile.TarError, EOFError) as error:
        raise UserError(f"{path} is not a whole, uncompressed tar file: {error}") from error
    for key, (picture, labels) in samples.items():
        yield key, picture, next((labels[entry] for entry in LABEL_ENTRIES if labels.get(entry)), "")


def _label(extension: str, data: bytes, where: str) -> str:
    if extension != "json":
        return text_of(data)
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not JSON: {error}") from error
    if not isinstance(value, dict):
        return text_of(value)
    return next((text_of(value[key]) for key in LABEL_KEYS if key in value), "")
