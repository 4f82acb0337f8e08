"""Decoding pictures: whatever a camera, a scanner or a drawing program wrote becomes upright 8-bit grey or RGB.

What is done about each kind: transparency is laid on white; palettes and CMYK become RGB (colour profiles are ignored);
16-bit grey is divided by 257, so that 65535 becomes 255; floating-point grey must lie in 0 to 1; of an animation the first
frame is taken; EXIF rotation is carried out. A file that cannot be decoded whole is `Unreadable`, never half a picture.
"""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFile

from hollowbone.errors import UserError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""Pillow's decoders that are let near a user's file; those that start other programs (EPS) are not among them."""

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".jpe", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pnm"})
MAX_PIXELS = 89_478_485
"""Larger pictures are taken for decompression bombs (Pillow's own limit: a quarter of a GiB in RGB)."""

GREY_MODES = frozenset({"1", "L", "LA", "La", "I", "F", "I;16", "I;16L", "I;16B", "I;16N"})

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Unreadable(UserError):
    """A file is no whole picture; the text is the reason."""


@dataclass(frozen=True)
class Header:
    """What a picture says about itself before it is decoded: its upright size and whether it is grey."""

    width: int
    height: int
    grey: bool


@contextmanager
def _as_unreadable() -> Iterator[None]:
    try:
        yield
    except Unreadable:
        raise
    except Image.UnidentifiedImageError:
        raise Unreadable(f"not a picture in one of the formats {', '.join(FORMATS)}") from None
    except Image.DecompressionBombError as error:
        raise Unreadable(f"too many pixels: {error}") from None
    except MemoryError:
        raise Unreadable("too large for the memory of this machine") from None
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, IndexError, ...
        raise Unreadable(f"damaged: {str(error) or type(error).__name__}") from None


def _open(data: bytes) -> Any:
    if not data:
        raise Unreadable("the file is empty")
    picture: Any = Image.open(io.BytesIO(data), formats=FORMATS)
    if picture.width * picture.height > MAX_PIXELS:
        raise Unreadable(f"too many pixels: {picture.width}x{picture.height} is over the limit of {MAX_PIXELS}")
    return picture


def _orientation(picture: Image.Image) -> int:
    try:
        return int(picture.getexif().get(0x0112, 1))
    except Exception:  # damaged EXIF data say nothing about the rotation, and the picture may be sound
        return 1


def header(data: bytes) -> Header:
    """Read a picture's header. Raises `Unreadable`."""
    with _as_unreadable(), _open(data) as picture:
        # Newer Pillow gives a TIFF's size upright already; its tags hold the stored one in every version.
        width, height = (picture.tag_v2[256], picture.tag_v2[257]) if picture.format == "TIFF" else picture.size
        if _orientation(picture) >= 5:
            width, height = height, width
        return Header(width, height, picture.mode in GREY_MODES)


_strict_lock = threading.Lock()
_strict_before: list[bool] = []


@contextmanager
def strict() -> Iterator[None]:
    """While it lasts, Pillow refuses truncated files even where the program has told it otherwise.

    Pillow's setting is one for the whole process: it returns to its old value when the last thread leaves.
    """
    with _strict_lock:
        _strict_before.append(bool(ImageFile.LOAD_TRUNCATED_IMAGES))
        ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        with _strict_lock:
            before = _strict_before.pop()
            if not _strict_before:  # the last to leave takes what the first to come had found
                ImageFile.LOAD_TRUNCATED_IMAGES = before


def decode(data: bytes) -> Image.Image:
    """The picture, upright, of mode L or RGB. Raises `Unreadable`."""
    with _as_unreadable(), _open(data) as picture:
        picture.load()
        turned = _UPRIGHT.get(_orientation(picture))
        plain = _eight_bit(picture)
        return plain if turned is None else plain.transpose(turned)


def _eight_bit(picture: Image.Image) -> Image.Image:
    mode = picture.mode
    if mode in ("L", "RGB") and "transparency" not in picture.info:
        return picture.copy()
    if mode == "F" or mode.startswith("I"):
        values = np.asarray(picture)
        if not np.isfinite(values).all():
            raise Unreadable("it holds values that are not finite (NaN or infinity)")
        low, high = (0, 1) if mode == "F" else (0, 65535)
        if values.min() < low or values.max() > high:
            raise Unreadable(f"its values {values.min()} to {values.max()} are outside {low} to {high}")
        return Image.fromarray(np.rint(values.astype(np.float64) * (255 / high)).astype(np.uint8))
    if mode == "1":
        return picture.convert("L")
    if mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in picture.info:
        with_alpha = (picture.convert("LA") if mode == "La" else picture).convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        flat = Image.alpha_composite(white, with_alpha)
        return flat.convert("L" if mode in ("L", "LA", "La") else "RGB")
    return picture.convert("RGB")


def pixel_digest(picture: Image.Image) -> str:
    """Identity of the decoded picture: equal for the same pixels in a PNG and a BMP, in grey and in RGB."""
    digest = hashlib.sha256(f"{picture.width}x{picture.height}".encode())
    digest.update(picture.convert("RGB").tobytes())
    return digest.hexdigest()


def to_array(picture: Image.Image, resolution: tuple[int, int], in_chans: int) -> np.ndarray:
    """uint8 (in_chans, *resolution) of a picture: luminance or RGB, resized bilinearly with antialiasing."""
    plain = picture.convert("L" if in_chans == 1 else "RGB")
    height, width = resolution
    if plain.size != (width, height):
        plain = plain.resize((width, height), Image.Resampling.BILINEAR)
    array = np.asarray(plain)
    return np.ascontiguousarray(array[None] if in_chans == 1 else array.transpose(2, 0, 1))


def load(path: str | Path, resolution: tuple[int, int], in_chans: int) -> np.ndarray:
    """A picture file as uint8 (in_chans, *resolution). Raises `Unreadable` with the path and the reason."""
    try:
        with strict():
            return to_array(decode(Path(path).read_bytes()), resolution, in_chans)
    except OSError as error:
        raise Unreadable(f"cannot read {path}: {error.strerror or error}") from error
    except Unreadable as error:
        raise Unreadable(f"cannot read {path}: {error}") from error
