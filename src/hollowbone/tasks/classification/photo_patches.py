"""`photo_patches`: 22 classes, each a region of one of the colour photographs that are inside scikit-image's package.

A region is divided into cells of `CELL` pixels. Some, spread evenly, are held out for select and report; their patches are
windows inside one cell. Train patches are windows anywhere else, so that no pixel serves two splits and yet the three look
alike. A patch is scaled to 32x32, mirrored by a coin, and disturbed in colour, contrast and noise. Several classes come from
the same photograph and share its palette and its materials. Regions and disturbance were set so that MobileNetV2 1.0,
trained by `fit`'s recipe, reaches 70% to 90% on report.

Several held-out patches come from each cell, so they are not independent: intervals over patches are too narrow, and
comparisons should rest on several seeds, which shift the cells.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from hollowbone.errors import UserError
from hollowbone.files import sha256
from hollowbone.tasks.base import SPLITS, Data, DataReport
from hollowbone.tasks.classification.bundled import assemble

PATCH = 32
CELL = 36
SMALLEST = 28
"""Side of the smallest window, pixels; the largest is the whole cell."""

PER_CLASS = {"train": 140, "select": 40, "report": 70}

DEAL = ("report", "train", "select", "train", "report", "train", "train", "train")
"""To which splits the cells of a row go, in turn."""

DISTURBANCE = {"gain": 0.03, "brightness": 0.03, "contrast": 0.08, "noise": 0.01}
"""Standard deviations: logarithm of each channel's gain, offset, logarithm of contrast, and noise (pictures in 0 to 1)."""

Box = tuple[int, int, int, int]
"""Left, top, right, bottom, pixels."""

REGIONS: dict[str, dict[str, tuple[int, int, int, int]]] = {
    "astronaut.png": {
        "suit": (40, 264, 220, 512),
        "shuttle": (360, 36, 470, 270),
        "helmet": (290, 360, 490, 512),
    },
    "chelsea.png": {
        "face": (112, 50, 368, 260),
        "room": (376, 0, 451, 300),
    },
    "coffee.png": {
        "cup": (172, 30, 368, 190),
        "saucer": (90, 230, 440, 375),
        "table": (484, 60, 600, 400),
        "shade": (0, 0, 150, 200),
    },
    "hubble_deep_field.jpg": {"galaxies": (0, 0, 1000, 872)},
    "ihc.png": {
        "gland": (0, 0, 270, 210),
        "lining": (46, 300, 160, 512),
        "stroma": (300, 300, 512, 512),
    },
    "motorcycle_left.png": {
        "shelves": (360, 20, 741, 150),
        "engine": (250, 190, 480, 380),
        "floor": (170, 425, 500, 500),
    },
    "retina.jpg": {
        "disc": (100, 460, 420, 860),
        "macula": (540, 520, 900, 860),
        "rim": (980, 420, 1330, 960),
    },
    "rocket.jpg": {
        "rocket": (276, 110, 384, 330),
        "sky": (104, 0, 540, 108),
        "lights": (40, 340, 260, 427),
    },
}
"""Photograph -> class -> region (left, top, right, bottom) in pixels; regions do not overlap."""


def photographs() -> Path:
    """The folder of scikit-image's packaged photographs; nothing is downloaded."""
    spec = find_spec("skimage")
    if spec is None or spec.origin is None:
        raise UserError("the bundled data 'photo_patches' need scikit-image: pip install 'hollowbone[demo]'")
    folder = Path(spec.origin).parent / "data"
    if missing := [name for name in REGIONS if not (folder / name).is_file()]:
        raise UserError(f"this scikit-image lacks the photographs {', '.join(missing)}; reinstall scikit-image 0.24 or later")
    return folder


def cells(region: Box, offset: int) -> dict[str, list[Box]]:
    """A region's cells by split: along a row every fourth reports and every eighth selects, three further on in the next row.

    So each held-out cell has train cells on its sides, and regions of any shape have cells of all three.
    """
    left, top, right, bottom = region
    dealt: dict[str, list[Box]] = {split: [] for split in SPLITS}
    for row, y in enumerate(range(top, bottom - CELL + 1, CELL)):
        for column, x in enumerate(range(left, right - CELL + 1, CELL)):
            dealt[DEAL[(column + 3 * row + offset) % len(DEAL)]].append((x, y, x + CELL, y + CELL))
    return dealt


def held_out_windows(within: list[Box], count: int, rng: np.random.Generator) -> list[Box]:
    """`count` square windows, each inside one of the cells, which are taken in turn."""
    return [window(within[n % len(within)], rng) for n in range(count)]


def train_windows(region: Box, held_out: list[Box], count: int, rng: np.random.Generator) -> list[Box]:
    """`count` square windows anywhere in the region that touch no held-out cell."""
    taken = np.zeros((region[3], region[2]), dtype=bool)
    for x0, y0, x1, y1 in held_out:
        taken[y0:y1, x0:x1] = True
    found: list[Box] = []
    while len(found) < count:
        x0, y0, x1, y1 = box = window(region, rng)
        if not taken[y0:y1, x0:x1].any():
            found.append(box)
    return found


def window(box: Box, rng: np.random.Generator) -> Box:
    """A square window inside a box."""
    side = int(rng.integers(SMALLEST, CELL + 1))
    x = int(rng.integers(box[0], box[2] - side + 1))
    y = int(rng.integers(box[1], box[3] - side + 1))
    return x, y, x + side, y + side


def disturb(patches: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each picture of uint8 (N, 32, 32, 3) mirrored or not and disturbed, in its own way."""
    n = len(patches)
    mirrored = rng.integers(0, 2, (n, 1, 1, 1)).astype(bool)
    x = np.where(mirrored, patches[:, :, ::-1], patches).astype(np.float64) / 255
    x *= np.exp(rng.normal(0, DISTURBANCE["gain"], (n, 1, 1, 3)))
    mean = x.mean(axis=(1, 2, 3), keepdims=True)
    x = mean + (x - mean) * np.exp(rng.normal(0, DISTURBANCE["contrast"], (n, 1, 1, 1)))
    x += rng.normal(0, DISTURBANCE["brightness"], (n, 1, 1, 1)) + rng.normal(0, DISTURBANCE["noise"], x.shape)
    return np.rint(x.clip(0, 1) * 255).astype(np.uint8)


def photo_patches(*, seed: int = 0, resolution: tuple[int, int] = (PATCH, PATCH), in_chans: int = 3) -> Data:
    """The dataset: 3080 train, 880 select and 1540 report patches of 22 classes, the same for the same seed.

    Names say where each patch was cut: `photograph[left:right, top:bottom]`.
    """
    folder = photographs()
    rng = np.random.default_rng(seed)
    offset = int(rng.integers(len(DEAL)))
    classes: list[str] = []
    pictures, labels, parts, names = [], [], [], []
    for photograph, regions in REGIONS.items():
        with Image.open(folder / photograph) as opened:
            photo = opened.convert("RGB")
        for region_name, region in regions.items():
            dealt = cells(region, offset)
            held_out = dealt["select"] + dealt["report"]
            for part, split in enumerate(SPLITS):
                count = PER_CLASS[split]
                if split == "train":
                    boxes = train_windows(region, held_out, count, rng)
                else:
                    boxes = held_out_windows(dealt[split], count, rng)
                # Cropped first: a resize with a `box` would let the filter look at pixels beyond it.
                cut = [np.asarray(photo.crop(box).resize((PATCH, PATCH), Image.Resampling.BILINEAR)) for box in boxes]
                pictures.append(disturb(np.stack(cut), rng))
                labels += [len(classes)] * len(boxes)
                parts += [part] * len(boxes)
                names += [f"{photograph}[{x0}:{x1}, {y0}:{y1}]" for x0, y0, x1, y1 in boxes]
            classes.append(f"{Path(photograph).stem.split('_')[0]}-{region_name}")
    content = [f"{number} {name}" for number, name in enumerate(names)]
    options = {"seed": seed, "photographs": {name: sha256(folder / name) for name in REGIONS}, "disturbance": DISTURBANCE}
    found = DataReport(sizes={f"{PATCH}x{PATCH}": len(labels)}, notes=["train, select and report patches share no pixel"])
    stacked = np.ascontiguousarray(np.concatenate(pictures).transpose(0, 3, 1, 2))
    return assemble(
        "photo_patches", stacked, labels, parts, names, tuple(classes), resolution, in_chans, content, options, found
    )
