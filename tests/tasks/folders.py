"""Folders of small pictures as users keep them, for every test that reads data from disk."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

ORIENTATION = 0x0112
TRUNCATED, TEXT = "disc/truncated.jpg", "stripes/notes.png"


def disc(rng: np.random.Generator, height: int = 40, width: int = 48) -> np.ndarray:
    """A bright disc on a dark ground, uint8 (H, W)."""
    y, x = np.mgrid[:height, :width]
    cy, cx, r = rng.uniform(15, height - 15), rng.uniform(15, width - 15), rng.uniform(8, 13)
    inside = (y - cy) ** 2 + (x - cx) ** 2 < r**2
    return np.where(inside, 210, 40) + rng.integers(-20, 21, (height, width))


def stripes(rng: np.random.Generator, height: int = 40, width: int = 48) -> np.ndarray:
    """Bright and dark stripes at some angle, uint8 (H, W)."""
    y, x = np.mgrid[:height, :width]
    angle, period = rng.uniform(0, np.pi), rng.uniform(6, 9)
    wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / period + rng.uniform(0, 6))
    return np.where(wave > 0, 210, 40) + rng.integers(-20, 21, (height, width))


def coloured(grey: np.ndarray, rng: np.random.Generator) -> Image.Image:
    """RGB with a tint of its own."""
    tint = rng.uniform(0.7, 1.0, 3)
    return Image.fromarray((grey[..., None] * tint).clip(0, 255).astype(np.uint8))


def _grey(grey: np.ndarray) -> Image.Image:
    return Image.fromarray(grey.clip(0, 255).astype(np.uint8))


def save_png(path: Path, grey: np.ndarray, rng: np.random.Generator) -> None:
    coloured(grey, rng).save(path.with_suffix(".png"))


def save_jpeg(path: Path, grey: np.ndarray, rng: np.random.Generator) -> None:
    coloured(grey, rng).save(path.with_suffix(".jpg"), quality=90)


def save_webp(path: Path, grey: np.ndarray, rng: np.random.Generator) -> None:
    coloured(grey, rng).save(path.with_suffix(".webp"), quality=90)


def save_grey(path: Path, grey: np.ndarray, rng: np.random.Generator) -> None:
    _grey(grey).save(path.with_suffix(".png"))


def save_rgba(path: Path, grey: np.ndarray, rng: np.random.Generator) -> None:
    picture = coloured(grey, rng).convert("RGBA")
    picture.putalpha(Image.fromarray(rng.integers(200, 256, grey.shape).astype(np.uint8)))
    picture.save(path.with_suffix(".png"))


def save_cmyk(path: Path, grey: np.ndarray, rng: np.random.Generator) -> None:
    coloured(grey, rng).convert("CMYK").save(path.with_suffix(".jpg"), quality=95)


def save_sixteen_bit(path: Path, grey: np.ndarray, rng: np.random.Generator) -> None:
    Image.fromarray((grey.clip(0, 255) * 257).astype(np.uint16)).save(path.with_suffix(".png"))


def save_rotated(path: Path, grey: np.ndarray, rng: np.random.Generator) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    coloured(grey, rng).save(path.with_suffix(".jpg"), quality=90, exif=exif)


SAVERS: tuple[Callable[[Path, np.ndarray, np.random.Generator], None], ...] = (
    save_png,
    save_jpeg,
    save_webp,
    save_grey,
    save_rgba,
    save_cmyk,
    save_sixteen_bit,
    save_rotated,
)


SHAPES = ((40, 48), (52, 40), (36, 64))
"""Heights and widths that the pictures have in turn."""


def make_two_class_folder(path: Path, per_class: int = 60, *, seed: int = 0, broken: bool = True) -> list[str]:
    """Two separable classes, `disc` and `stripes`, in eight kinds of file and three sizes; returns the broken files' names."""
    rng = np.random.default_rng(seed)
    for label, draw in (("disc", disc), ("stripes", stripes)):
        folder = Path(path) / label
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(per_class):
            shape = SHAPES[number // len(SAVERS) % len(SHAPES)]
            SAVERS[number % len(SAVERS)](folder / f"{number:04d}", draw(rng, *shape), rng)
    if not broken:
        return []
    buffer = io.BytesIO()
    coloured(disc(rng), rng).save(buffer, "JPEG", quality=90)
    (Path(path) / TRUNCATED).write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    (Path(path) / TEXT).write_text("this is a text file, whatever its name says\n")
    return [TRUNCATED, TEXT]


def make_plain_folder(path: Path, counts: dict[str, int], *, seed: int = 0) -> None:
    """PNG files of noise: `counts` maps a folder (`cat`, or `train/cat`) to how many it holds."""
    rng = np.random.default_rng(seed)
    for folder, count in counts.items():
        (Path(path) / folder).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            picture = Image.fromarray(rng.integers(0, 256, (12, 10, 3)).astype(np.uint8))
            picture.save(Path(path) / folder / f"{number}.png")


def make_shard(path: Path, samples: list[tuple[str, dict[str, bytes]]]) -> None:
    """A WebDataset shard: key -> extension -> bytes, in the order given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for key, parts in samples:
            for extension, data in parts.items():
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def png_bytes(seed: int) -> bytes:
    """A small PNG of noise."""
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (12, 10, 3)).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()
