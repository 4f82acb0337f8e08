"""Pictures of every kind become upright 8-bit pictures, or say why not."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from hollowbone.errors import UserError
from hollowbone.tasks.classification import pictures

RAMP = np.linspace(0, 255, 24 * 20).reshape(20, 24).astype(np.uint8)
COLOUR = np.stack([RAMP, RAMP[::-1], 255 - RAMP], axis=-1)


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("kind", "options"), [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("WEBP", {"lossless": True}), ("PPM", {})]
)
def test_lossless_formats_come_back_exactly(kind, options):
    decoded = pictures.decode(encoded(Image.fromarray(COLOUR), kind, **options))
    np.testing.assert_array_equal(np.asarray(decoded), COLOUR)


def test_jpeg_comes_back_nearly():
    smooth = np.asarray(Image.fromarray(COLOUR).resize((64, 64)))
    decoded = pictures.decode(encoded(Image.fromarray(smooth), "JPEG", quality=95))
    assert np.abs(np.asarray(decoded).astype(int) - smooth).mean() < 4


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_and_not_clipped(kind):
    values = np.array([[0, 256, 257, 32768, 65535]], dtype=np.uint16)
    decoded = pictures.decode(encoded(Image.fromarray(values), kind))
    assert decoded.mode == "L"
    assert np.asarray(decoded).tolist() == [[0, 1, 1, 128, 255]]


def test_sixteen_bit_colour_keeps_its_range():
    values = np.array([[[0, 32768, 65535]]], dtype=">u2")
    raw = b"\x00" + values.tobytes()
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(raw)), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + tag + body + struct.pack(">I", zlib.crc32(tag + body)) for tag, body in chunks
    )
    assert np.asarray(pictures.decode(data))[0, 0].tolist() == [0, 128, 255]


def test_transparency_is_laid_on_white():
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[0, :, 3] = 255
    decoded = np.asarray(pictures.decode(encoded(Image.fromarray(rgba), "PNG")))
    assert (decoded[0] == 0).all()
    assert (decoded[1] == 255).all()
    palette = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    palette.putpalette([255, 0, 0, 0, 0, 255])
    decoded = np.asarray(pictures.decode(encoded(palette, "PNG", transparency=1)))
    assert decoded.tolist() == [[[255, 0, 0], [255, 255, 255]]]
    grey_alpha = Image.merge("LA", [Image.new("L", (1, 1), 10), Image.new("L", (1, 1), 0)])
    decoded = pictures.decode(encoded(grey_alpha, "PNG"))
    assert decoded.mode == "L"
    assert np.asarray(decoded).tolist() == [[255]]


def test_palette_and_animation_give_the_first_frame_in_rgb():
    frames = [Image.new("RGB", (6, 5), colour) for colour in ("red", "blue")]
    decoded = pictures.decode(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert decoded.mode == "RGB"
    assert (np.asarray(decoded) == (255, 0, 0)).all()


def test_cmyk_becomes_rgb():
    decoded = pictures.decode(encoded(Image.new("RGB", (16, 16), (200, 40, 90)).convert("CMYK"), "JPEG", quality=95))
    assert np.abs(np.asarray(decoded).reshape(-1, 3).mean(0) - (200, 40, 90)).max() < 6


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_exif_rotation_is_carried_out(orientation, kind):
    upright = Image.fromarray(COLOUR)
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the transposition that a camera's sensor did, as Pillow numbers them
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(stored, kind, exif=exif)
    np.testing.assert_array_equal(np.asarray(pictures.decode(data)), COLOUR)
    header = pictures.header(data)
    assert (header.width, header.height) == upright.size


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.9])
def test_truncated_files_are_unreadable_even_where_pillow_was_told_to_be_lenient(kind, share, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pictures.strict(), pytest.raises(pictures.Unreadable) as refused:
        pictures.decode(data[: int(len(data) * share)])
    assert str(refused.value)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b"only words\n", "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
        (encoded(Image.fromarray(np.full((2, 2), np.nan, np.float32)), "TIFF"), "not finite"),
        (encoded(Image.fromarray(np.full((2, 2), 7.5, np.float32)), "TIFF"), "outside 0 to 1"),
        (encoded(Image.fromarray(np.full((2, 2), 70000, np.int32)), "TIFF"), "outside 0 to 65535"),
    ],
)
def test_what_is_no_picture_says_why(data, reason):
    with pytest.raises(pictures.Unreadable, match=reason):
        pictures.decode(data)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [10_000, 60_000])  # over Pillow's limit for a warning, and over that for an error
def test_decompression_bombs_are_not_decoded(side):
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    end = struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
    with pytest.raises(pictures.Unreadable, match="too many pixels"):
        pictures.decode(b"\x89PNG\r\n\x1a\n" + chunk + end)


def test_load_names_the_file(tmp_path):
    with pytest.raises(UserError, match=r"gone\.png"):
        pictures.load(tmp_path / "gone.png", (32, 32), 3)
    (tmp_path / "words.png").write_text("words")
    with pytest.raises(UserError, match=r"words\.png: not a picture"):
        pictures.load(tmp_path / "words.png", (32, 32), 3)
    Image.fromarray(COLOUR).save(tmp_path / "ok.png")
    assert pictures.load(tmp_path / "ok.png", (32, 48), 3).shape == (3, 32, 48)
    assert pictures.load(tmp_path / "ok.png", (32, 48), 1).shape == (1, 32, 48)


def test_pixel_digest_sees_pixels_and_not_the_format():
    grey = Image.fromarray(RAMP)
    digests = {pictures.pixel_digest(pictures.decode(encoded(p, k))) for p, k in ((grey, "PNG"), (grey.convert("RGB"), "BMP"))}
    assert len(digests) == 1
    assert pictures.pixel_digest(Image.fromarray(RAMP.T)) not in digests


@pytest.mark.parametrize(
    ("picture", "key", "mode"), [(Image.new("L", (2, 1), 9), 9, "L"), (Image.new("RGB", (2, 1), (9, 8, 7)), (9, 8, 7), "RGB")]
)
def test_a_colour_that_is_declared_transparent_becomes_white(picture, key, mode):
    picture.putpixel((0, 0), 50 if mode == "L" else (50, 50, 50))
    decoded = pictures.decode(encoded(picture, "PNG", transparency=key))
    assert decoded.mode == mode
    assert np.asarray(decoded).reshape(2, -1)[:, 0].tolist() == [50, 255]


def test_black_and_white_becomes_grey():
    data = encoded(Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1"), "PNG")
    assert pictures.header(data).grey
    assert np.asarray(pictures.decode(data)).tolist() == [[0, 255]]


def test_strictness_ends_when_the_last_thread_leaves(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    first, second = pictures.strict(), pictures.strict()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False
    second.__exit__(None, None, None)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True
