"""Data that are arrays already: a pair (images, labels) from Python, or an `.npz` with these two names."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hollowbone.errors import UserError
from hollowbone.tasks.base import Data, DataReport
from hollowbone.tasks.classification.bundled import assemble
from hollowbone.tasks.classification.listing import ordered, some
from hollowbone.tasks.classification.manifest import text_of
from hollowbone.tasks.classification.splits import drop_duplicates, stratified


def read_npz(path: Path, **options: Any) -> Data:
    """An `.npz` file with `images` and `labels`. Raises `UserError` for anything else (pickles are refused)."""
    try:
        with np.load(path, allow_pickle=False) as file:
            if lacking := [name for name in ("images", "labels") if name not in file.files]:
                raise UserError(f"{path} lacks {' and '.join(lacking)}; it holds {some(file.files) or 'nothing'}")
            pair = file["images"], file["labels"]
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"cannot read {path} as an .npz of plain arrays: {error}") from error
    return replace(read_arrays(pair, **options), name=path.stem, source=str(path.absolute()))


def read_arrays(
    pair: Sequence[Any],
    *,
    seed: int,
    resolution: tuple[int, int] | None,
    in_chans: int | None,
    fractions: Sequence[float],
) -> Data:
    """`Data` from images (N, H, W), (N, H, W, C) or (N, C, H, W), uint8 or float in 0 to 1, and labels (N,).

    Raises `UserError` for other shapes or values (NaN, infinity, out of range), missing labels and too few pictures.
    """
    if len(pair) != 2:
        raise UserError(f"data given as arrays are a pair (images, labels), not {len(pair)} things")
    try:
        images, values = pictures_of(np.asarray(pair[0])), np.asarray(pair[1])
    except (ValueError, TypeError, RuntimeError) as error:  # ragged lists, tensors that need a gradient
        raise UserError(f"data given as arrays are a pair (images, labels): {error}") from error
    if values.shape != (len(images),):
        raise UserError(f"{len(images)} pictures need labels of shape ({len(images)},), not {values.shape}")
    texts = [text_of(value) for value in values.tolist()]
    if missing := [str(index) for index, text in enumerate(texts) if not text]:
        raise UserError(f"the labels of the pictures {some(missing)} are missing (NaN or empty)")
    classes = ordered(set(texts))
    if len(classes) < 2:
        raise UserError(f"the labels name one class only ({some(classes)}); classification needs at least two")
    if few := [f"{label} has {texts.count(label)}" for label in classes if texts.count(label) < 3]:
        raise UserError(f"too few pictures: {some(few)}; every class needs at least 3 (one each to train, select and report)")
    number = {label: index for index, label in enumerate(classes)}
    labels = [number[text] for text in texts]
    content = [hashlib.sha256(picture.tobytes()).hexdigest() for picture in images]
    parts = stratified(labels, content, fractions, seed)
    names = [f"[{index}]" for index in range(len(labels))]
    kept, duplicates, notes = drop_duplicates(content, labels, parts, names)
    height, width = images.shape[-2:]
    side = int(min(224, max(32, 32 * round(min(height, width) / 32))))
    found = DataReport(sizes={f"{width}x{height}": len(labels)}, duplicates=duplicates, notes=notes)
    made = assemble(
        "arrays",
        images[kept],
        [labels[i] for i in kept],
        [parts[i] for i in kept],
        [names[i] for i in kept],
        classes,
        resolution or (side, side),
        in_chans or images.shape[1],
        [content[i] for i in kept],
        {"seed": seed, "fractions": list(fractions)},
        found,
    )
    return replace(made, source="")


def pictures_of(images: np.ndarray) -> np.ndarray:
    """uint8 (N, C, H, W) with C 1 or 3 from any of the accepted layouts. Raises `UserError` for others."""
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and images.shape[-1] in (1, 3) and images.shape[1] not in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not images.size:
        raise UserError(f"images are (N, H, W), (N, H, W, C) or (N, C, H, W) with 1 or 3 channels, not of shape {images.shape}")
    if images.dtype == np.uint8:
        return np.ascontiguousarray(images)
    if not np.issubdtype(images.dtype, np.floating):
        raise UserError(f"images are uint8, or floating-point between 0 and 1, not {images.dtype}")
    if bad := [str(i) for i in np.flatnonzero(~np.isfinite(images).all(axis=(1, 2, 3)))]:
        raise UserError(f"the pictures {some(bad)} hold NaN or infinity")
    if images.min() < 0 or images.max() > 1:
        raise UserError(f"floating-point images lie between 0 and 1, not {images.min():.4g} to {images.max():.4g}")
    return np.rint(images * 255).astype(np.uint8)
