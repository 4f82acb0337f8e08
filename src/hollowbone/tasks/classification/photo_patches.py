"""`photo_patches`: 32 classes, each a region of one of the colour photographs that are inside scikit-image's package.

A region is divided into cells of `CELL` pixels, which a seeded shuffle deals out to train, select and report, so that the
three lie interleaved over the region and no pixel serves two of them. A patch is a window inside one cell, mirrored or
turned by a multiple of 90 degrees, scaled to 32x32, and disturbed in colour, contrast and noise. Several classes come from
the same photograph and share its palette, so that a network must look at texture; the strength of the disturbance
(`DISTURBANCE`) was set so that MobileNetV2 1.0 reaches 70% to 90% (the documentation states the measured figure).
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
from hollowbone.tasks.classification.splits import FRACTIONS, share_out

PATCH = 32
CELL = 36
SMALLEST = 26
"""Side of the smallest window, pixels; the largest is the whole cell."""

TURNED = 0

PER_CLASS = {"train": 110, "select": 28, "report": 50}

DISTURBANCE = {"gain": 0.25, "brightness": 0.15, "contrast": 0.35, "noise": 0.06}
"""Standard deviations: logarithm of each channel's gain, offset, logarithm of contrast, and noise (pictures in 0 to 1)."""

REGIONS: dict[str, dict[str, tuple[int, int, int, int]]] = {
    "astronaut.png": {
        "flag": (0, 0, 96, 400),
        "face": (112, 0, 312, 240),
        "suit": (40, 264, 272, 512),
        "shuttle": (344, 0, 512, 272),
        "helmet": (280, 336, 512, 512),
    },
    "chelsea.png": {
        "eyes": (96, 60, 376, 180),
        "muzzle": (136, 180, 376, 300),
        "flank": (0, 60, 96, 300),
        "room": (376, 0, 451, 300),
    },
    "coffee.png": {
        "cup": (170, 0, 400, 200),
        "saucer": (80, 208, 470, 390),
        "table": (484, 60, 600, 400),
        "shade": (0, 0, 150, 200),
    },
    "hubble_deep_field.jpg": {"galaxies": (0, 0, 1000, 872)},
    "ihc.png": {
        "gland": (0, 0, 270, 210),
        "duct": (280, 0, 460, 280),
        "lining": (0, 220, 150, 512),
        "stroma": (290, 300, 512, 512),
    },
    "motorcycle_left.png": {
        "bench": (0, 60, 200, 290),
        "shelves": (340, 0, 741, 160),
        "rear": (110, 290, 270, 440),
        "engine": (270, 190, 500, 380),
        "front": (510, 220, 690, 460),
        "floor": (170, 425, 500, 500),
    },
    "retina.jpg": {
        "disc": (100, 460, 420, 860),
        "macula": (540, 520, 900, 860),
        "arteries": (300, 150, 1000, 450),
        "rim": (950, 480, 1330, 900),
    },
    "rocket.jpg": {
        "gantry": (0, 0, 100, 320),
        "rocket": (276, 110, 384, 330),
        "sky": (104, 0, 540, 108),
        "lights": (40, 335, 640, 427),
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


def cells(region: tuple[int, int, int, int], rng: np.random.Generator) -> dict[str, list[tuple[int, int]]]:
    """Left upper corners of a region's cells by split, dealt out by `rng` in the shares of `FRACTIONS`."""
    left, top, right, bottom = region
    corners = [(x, y) for y in range(top, bottom - CELL + 1, CELL) for x in range(left, right - CELL + 1, CELL)]
    order = rng.permutation(len(corners))
    sizes = share_out(len(corners), FRACTIONS)
    ends = np.cumsum([0, *sizes])
    return {split: [corners[i] for i in order[ends[n] : ends[n + 1]]] for n, split in enumerate(SPLITS)}


def windows(corners: list[tuple[int, int]], count: int, rng: np.random.Generator) -> list[tuple[int, int, int, int]]:
    """`count` square windows (left, top, right, bottom), each inside one cell, the cells taken in turn."""
    found = []
    for n in range(count):
        x, y = corners[n % len(corners)]
        side = int(rng.integers(SMALLEST, CELL + 1))
        x, y = x + int(rng.integers(0, CELL - side + 1)), y + int(rng.integers(0, CELL - side + 1))
        found.append((x, y, x + side, y + side))
    return found


def disturb(patches: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each picture of uint8 (N, 32, 32, 3) turned, mirrored and disturbed in its own way."""
    n = len(patches)
    turned = np.stack(
        [
            np.rot90(p if m else p[:, ::-1], k)
            for p, k, m in zip(patches, TURNED * rng.integers(0, 4, n), rng.integers(0, 2, n), strict=True)
        ]
    )
    x = turned.astype(np.float64) / 255
    x *= np.exp(rng.normal(0, DISTURBANCE["gain"], (n, 1, 1, 3)))
    mean = x.mean(axis=(1, 2, 3), keepdims=True)
    x = mean + (x - mean) * np.exp(rng.normal(0, DISTURBANCE["contrast"], (n, 1, 1, 1)))
    x += rng.normal(0, DISTURBANCE["brightness"], (n, 1, 1, 1)) + rng.normal(0, DISTURBANCE["noise"], x.shape)
    return np.rint(x.clip(0, 1) * 255).astype(np.uint8)


def photo_patches(*, seed: int = 0, resolution: tuple[int, int] = (PATCH, PATCH), in_chans: int = 3) -> Data:
    """The dataset: 3520 train, 896 select and 1600 report patches of 32 classes, the same for the same seed.

    Names say where each patch was cut: `photograph[left:right, top:bottom]`.
    """
    folder = photographs()
    rng = np.random.default_rng(seed)
    classes: list[str] = []
    pictures, labels, parts, names = [], [], [], []
    for photograph, regions in REGIONS.items():
        with Image.open(folder / photograph) as opened:
            photo = opened.convert("RGB")
        for region_name, region in regions.items():
            dealt = cells(region, rng)
            for part, split in enumerate(SPLITS):
                boxes = windows(dealt[split], PER_CLASS[split], rng)
                cut = [np.asarray(photo.resize((PATCH, PATCH), Image.Resampling.BILINEAR, box=box)) for box in boxes]
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
