"""Real data that come with a library: `digits` (scikit-learn) and `photo_patches` (scikit-image's photographs)."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch

from hollowbone.errors import UserError
from hollowbone.tasks.base import SPLITS, Data, DataReport, Preprocessing
from hollowbone.tasks.classification.splits import FRACTIONS, MemorySplit, imbalance, statistics, stratified

BUNDLED = ("digits", "photo_patches")


def read_bundled(
    name: str, *, seed: int, resolution: tuple[int, int] | None, in_chans: int | None, fractions: Sequence[float] = FRACTIONS
) -> Data:
    """A bundled dataset by name, at 32x32 unless told otherwise; `digits` has one channel, `photo_patches` three."""
    if name == "digits":
        return digits(seed=seed, resolution=resolution or (32, 32), in_chans=in_chans or 1, fractions=fractions)
    from hollowbone.tasks.classification.photo_patches import photo_patches

    return photo_patches(seed=seed, resolution=resolution or (32, 32), in_chans=in_chans or 3)


def digits(*, seed: int, resolution: tuple[int, int], in_chans: int, fractions: Sequence[float]) -> Data:
    """The 1797 handwritten digits of 8x8 pixels and 17 grey levels that scikit-learn brings (Alpaydin and Kaynak 1998, UCI).

    They are enlarged bilinearly, since networks shrink their input 32 times.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UserError("the bundled data 'digits' need scikit-learn: pip install 'hollowbone[demo]'") from error
    raw = load_digits()
    grey = np.rint(raw.images * (255 / 16)).astype(np.uint8)
    labels = [int(label) for label in raw.target]
    content = [hashlib.sha256(picture.tobytes()).hexdigest() for picture in grey]
    parts = stratified(labels, content, fractions, seed)
    names = [f"digits[{index}]" for index in range(len(labels))]
    found = DataReport(sizes={"8x8": len(labels)}, notes=["split by content: no ready splits"])
    options = {"seed": seed, "fractions": list(fractions)}
    return assemble(
        "digits", grey[:, None], labels, parts, names, tuple(map(str, range(10))), resolution, in_chans, content, options, found
    )


def assemble(
    name: str,
    pictures: np.ndarray,
    labels: Sequence[int],
    parts: Sequence[int],
    names: Sequence[str],
    classes: tuple[str, ...],
    resolution: tuple[int, int],
    in_chans: int,
    content: Sequence[str],
    options: dict[str, object],
    found: DataReport,
) -> Data:
    """`Data` from decoded pictures uint8 (N, C, H, W) and the part (0, 1, 2) of each; resizes, counts and digests."""
    images = present(torch.from_numpy(pictures), resolution, in_chans)
    target, part = torch.tensor(labels), np.asarray(parts)
    splits = {}
    for number, split in enumerate(SPLITS):
        at = np.flatnonzero(part == number)
        splits[split] = MemorySplit(images[at], target[at], [names[int(i)] for i in at])
        counted = Counter(target[at].tolist())
        found.counts[split] = {label: counted[i] for i, label in enumerate(classes)}
    found.imbalance = imbalance(splits["train"].labels.tolist())
    mean, std = statistics(splits["train"].images)
    digest = hashlib.sha256(json.dumps([name, resolution, in_chans, options, classes], sort_keys=True).encode())
    for line in sorted(f"{SPLITS[p]} {label} {c}" for p, label, c in zip(parts, labels, content, strict=True)):
        digest.update(line.encode())
    shown = Preprocessing(resolution, in_chans, mean, std)
    return Data(name, splits["train"], splits["select"], splits["report"], classes, shown, found, digest.hexdigest(), name)


def present(pictures: torch.Tensor, resolution: tuple[int, int], in_chans: int) -> torch.Tensor:
    """uint8 (N, c, h, w) to uint8 (N, in_chans, *resolution): bilinear and antialiased; luminance or three equal channels."""
    x = pictures.float()
    if x.shape[1] == 3 and in_chans == 1:
        x = (x * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
    elif x.shape[1] == 1 and in_chans == 3:
        x = x.expand(-1, 3, -1, -1)
    if x.shape[-2:] != torch.Size(resolution):
        x = torch.nn.functional.interpolate(x, size=resolution, mode="bilinear", antialias=True)
    return x.round().clamp(0, 255).to(torch.uint8).contiguous()
