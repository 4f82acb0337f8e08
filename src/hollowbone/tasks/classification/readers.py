"""Reading a dataset from wherever the user keeps it: list, look at every file, decode, split, drop duplicates, count.

Every picture is opened twice: once for its header, from which resolution and channels follow, and once to be decoded. From
there on a picture is what its pixels are: its place in a split, the order in which training sees it and the digest of the
data depend neither on the names of the files nor on their format. What cannot be decoded is named in `DataReport.broken`. A
data set that fits into `MEMORY` bytes at the working resolution is held in memory, a larger one is decoded anew whenever a
picture is asked for.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hollowbone.errors import UserError, unknown
from hollowbone.tasks.base import SPLITS, Data, DataReport, Preprocessing
from hollowbone.tasks.classification import pictures
from hollowbone.tasks.classification.arrays import read_arrays, read_npz
from hollowbone.tasks.classification.bundled import BUNDLED, read_bundled
from hollowbone.tasks.classification.listing import Item, Listing, list_folder, some
from hollowbone.tasks.classification.manifest import list_manifest
from hollowbone.tasks.classification.scan import Decoded, Looked, decode_all, look_at_all
from hollowbone.tasks.classification.splits import (
    FRACTIONS,
    LazySplit,
    MemorySplit,
    check_fractions,
    drop_duplicates,
    imbalance,
    place,
    statistics,
)
from hollowbone.tasks.classification.webdataset import holds_shards, list_shards

MEMORY = 1_500_000_000
"""Bytes of decoded pictures that are held in memory."""

SAMPLED = 2048
"""Train pictures from which mean and deviation are taken where the data are not held in memory."""


def read(
    source: Any,
    *,
    seed: int = 0,
    resolution: int | tuple[int, int] | None = None,
    in_chans: int | None = None,
    skip_broken: bool = True,
    fractions: Sequence[float] = FRACTIONS,
) -> Data:
    """Read a dataset.

    `source` is a bundled name (`digits`, `photo_patches`), a folder of class folders (with or without ready splits), a
    manifest (`.csv`, `.parquet`), WebDataset shards (a `.tar`, a brace pattern, a folder of tars), an `.npz` with `images`
    and `labels`, a pair of arrays, or a `Data`, which is returned as it is. Where no splits are given, `fractions` are the
    shares of train, select and report. `resolution` (pixels; height and width, or one number) defaults to the median of the
    pictures' shorter sides, rounded to a multiple of 32, between 32 and 224. `in_chans` (1 or 3) defaults to 1 where every
    picture is grey. `skip_broken=False` refuses data with unreadable files instead of leaving these out.

    Raises `UserError` for everything that makes the data unusable.
    """
    if isinstance(source, Data):
        return source
    size = _checked_resolution(resolution)
    if in_chans not in (None, 1, 3):
        raise UserError(f"in_chans is 1 (grey) or 3 (RGB), not {in_chans!r}")
    shares = check_fractions(fractions)
    if isinstance(source, tuple | list):
        return read_arrays(source, seed=seed, resolution=size, in_chans=in_chans, fractions=shares)
    if not isinstance(source, str | Path):
        raise UserError(f"data are a name, a path, a pair of arrays or what read returned, not {type(source).__name__}")
    if source in BUNDLED:  # a folder of that name is ./digits
        return read_bundled(source, seed=seed, resolution=size, in_chans=in_chans, fractions=shares)
    path = Path(os.path.expanduser(source))
    if path.suffix.lower() == ".npz" and path.is_file():
        return read_npz(path, seed=seed, resolution=size, in_chans=in_chans, fractions=shares)
    listing = find(path)
    with pictures.strict(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Pillow would say about single files ends up in `found`
        return _read_listing(listing, path, seed, size, in_chans, skip_broken, shares)


def find(path: Path) -> Listing:
    """List the pictures that a path names. Raises `UserError` if it names nothing that can be read."""
    try:
        if path.is_dir():
            return list_shards(path) if holds_shards(path) else list_folder(path)
        exists = path.exists()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    if not exists and "{" in str(path):
        return list_shards(path)
    if not exists:
        if path.suffix or len(path.parts) > 1:
            raise UserError(f"there is no file or folder {path}")
        raise unknown("file, folder or bundled data set", str(path), BUNDLED)
    if path.suffix.lower() == ".tar":
        return list_shards(path)
    if path.suffix.lower() in (".csv", ".parquet"):
        return list_manifest(path)
    raise UserError(
        f"{path} is no data set: give a folder of class folders, a .csv or .parquet manifest, .tar shards or an .npz"
    )


def _read_listing(
    listing: Listing,
    path: Path,
    seed: int,
    resolution: tuple[int, int] | None,
    in_chans: int | None,
    skip_broken: bool,
    fractions: tuple[float, float, float],
) -> Data:
    found = DataReport(notes=list(listing.notes))
    _check_classes(listing.classes, str(path))
    looked, broken = look_at_all(listing.items)
    _refuse_broken(broken, listing, skip_broken=True)
    size = resolution or default_resolution(looked)
    channels = in_chans or (1 if all(one.header.grey for one in looked) else 3)
    in_memory = len(looked) * channels * size[0] * size[1] <= MEMORY
    decoded, late = decode_all([one.item for one in looked], size, channels, keep=in_memory)
    broken |= late
    _refuse_broken(broken, listing, skip_broken)
    looked = [one for one in looked if one.item.name not in late]
    found.broken = dict(sorted(broken.items()))

    classes = listing.classes
    number = {label: index for index, label in enumerate(classes)}
    labels = [number[one.item.label] for one in looked]
    _check_counts(Counter(one.item.label for one in looked), classes, split=any(one.item.split for one in looked))
    content = [one.content for one in decoded]
    parts, note = place(labels, content, [one.item.split for one in looked], fractions, seed)
    found.notes.append(note)
    names = [one.item.name for one in looked]
    kept, found.duplicates, notes = drop_duplicates([one.shown for one in decoded], labels, parts, names)
    kept.sort(key=lambda i: (content[i], labels[i], names[i]))
    found.notes += notes
    found.sizes = dict(Counter(f"{one.header.width}x{one.header.height}" for one in looked).most_common())

    splits: dict[str, MemorySplit | LazySplit] = {}
    for part, split in enumerate(SPLITS):
        at = [index for index in kept if parts[index] == part]
        target = torch.tensor([labels[i] for i in at], dtype=torch.int64)
        counted = Counter(labels[i] for i in at)
        found.counts[split] = {label: counted[n] for n, label in enumerate(classes)}
        if in_memory:
            splits[split] = MemorySplit(_moved(decoded, at, (channels, *size)), target, [names[i] for i in at])
        else:
            splits[split] = LazySplit(_Loader([looked[i].item for i in at], size, channels), target, [names[i] for i in at])
    found.notes += _check_splits(found.counts)
    found.imbalance = imbalance(splits["train"].labels.tolist())
    mean, std = statistics(_sample(splits["train"]))
    options = {"seed": seed, "resolution": size, "in_chans": channels, "fractions": fractions, "classes": classes}
    return Data(
        name=path.stem if path.is_file() else path.resolve().name,
        train=splits["train"],
        select=splits["select"],
        report=splits["report"],
        classes=classes,
        preprocessing=Preprocessing(size, channels, mean, std),
        found=found,
        digest=_digest([(SPLITS[parts[i]], looked[i].item.label, content[i]) for i in kept], options),
        source=os.path.abspath(path),
    )


def _moved(decoded: list[Decoded], at: Sequence[int], shape: tuple[int, int, int]) -> torch.Tensor:
    """Pictures uint8 (len(at), C, H, W), taken out of `decoded` one by one so that memory holds each once."""
    images = torch.empty((len(at), *shape), dtype=torch.uint8)
    for place_, index in enumerate(at):
        array = decoded[index].array
        assert array is not None  # decoded to be kept
        images[place_] = torch.from_numpy(array)
        decoded[index] = replace(decoded[index], array=None)
    return images


class _Loader:
    """Decodes the items of a split that is not held in memory."""

    def __init__(self, items: Sequence[Item], resolution: tuple[int, int], in_chans: int) -> None:
        self.items, self.resolution, self.in_chans = items, resolution, in_chans

    def __call__(self, index: int) -> np.ndarray:
        item = self.items[index]
        try:
            with pictures.strict():
                return pictures.to_array(pictures.decode(item.read()), self.resolution, self.in_chans)
        except (OSError, pictures.Unreadable) as error:
            raise UserError(f"{item.name} was readable when the data were listed and is not now: {error}") from error


def default_resolution(looked: Sequence[Looked]) -> tuple[int, int]:
    """The median of the shorter sides, as the nearest multiple of 32 between 32 and 224; square."""
    median = float(np.median([min(one.header.width, one.header.height) for one in looked]))
    side = int(min(224, max(32, 32 * round(median / 32))))
    return side, side


def _sample(split: MemorySplit | LazySplit) -> torch.Tensor:
    if isinstance(split, MemorySplit):
        return split.images
    # The split lies in the order of its contents' hashes, so its beginning is a fair sample.
    return torch.stack([split[i][0] for i in range(min(SAMPLED, len(split)))])


def _checked_resolution(resolution: int | tuple[int, int] | None) -> tuple[int, int] | None:
    if resolution is None:
        return None
    size = (resolution, resolution) if isinstance(resolution, int) else tuple(resolution)
    if len(size) != 2 or any(not isinstance(side, int) or not 8 <= side <= 4096 for side in size):
        raise UserError(f"resolution is one or two whole numbers of pixels between 8 and 4096, not {resolution!r}")
    return size[0], size[1]


def _check_classes(classes: Sequence[str], source: str) -> None:
    if len(classes) < 2:
        raise UserError(f"{source} has one class only ({classes[0]!r}); classification needs at least two")


def _refuse_broken(broken: Mapping[str, str], listing: Listing, skip_broken: bool) -> None:
    if not broken:
        return
    name, reason = min(broken.items())
    if len(broken) == len(listing.items):
        raise UserError(f"none of the {len(broken)} files is a readable picture; {name}: {reason}")
    if not skip_broken:
        rest = f", and {len(broken) - 1} more files cannot be read" if len(broken) > 1 else ""
        raise UserError(f"{name} cannot be read ({reason}){rest}; mend or remove them, or leave them out with skip_broken")


def _check_counts(counts: Mapping[str, int], classes: Sequence[str], *, split: bool) -> None:
    if split:
        return
    few = [f"{label} has {counts.get(label, 0)}" for label in classes if counts.get(label, 0) < len(SPLITS)]
    if few:
        raise UserError(
            f"too few readable pictures: {some(few)}; every class needs at least 3 (one each to train, select and report), "
            "so add pictures or leave the class out"
        )


def _check_splits(counts: Mapping[str, Mapping[str, int]]) -> list[str]:
    notes = []
    for split, by_class in counts.items():
        if not any(by_class.values()):
            raise UserError(f"the {split} split holds no readable picture that is not in another split too")
        absent = [label for label, count in by_class.items() if not count]
        if absent and split == "train":
            raise UserError(f"the train split has no readable pictures of {some(absent)}; a class must be trained to be told")
        if absent:
            notes.append(f"{split} has no pictures of {some(absent)}")
    return notes


def _digest(samples: Sequence[tuple[str, str, str]], options: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(options, sort_keys=True).encode())
    for sample in sorted(samples):
        digest.update(json.dumps(sample).encode() + b"\n")
    return digest.hexdigest()
