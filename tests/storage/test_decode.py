import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from srel_hub.errors import UserError
from srel_hub.storage.decode import Frame, fit, read_picture, to_rgb


@pytest.mark.parametrize(
    ("mode", "color", "expected"),
    [
        ("L", 77, (77, 77, 77)),
        ("1", 1, (255, 255, 255)),
        ("RGBA", (200, 100, 50, 0), (0, 0, 0)),
        ("RGBA", (200, 100, 50, 255), (200, 100, 50)),
        ("LA", (90, 255), (90, 90, 90)),
        ("LA", (90, 0), (0, 0, 0)),
        ("RGB", (1, 2, 3), (1, 2, 3)),
        ("CMYK", (0, 255, 255, 0), (255, 0, 0)),
        ("I;16", 65535, (255, 255, 255)),
        ("I;16", 257 * 100, (100, 100, 100)),
        ("I", 257 * 7, (7, 7, 7)),
    ],
)
def test_every_mode_becomes_rgb_with_alpha_over_black(mode: str, color: Any, expected: tuple[int, ...]) -> None:
    assert to_rgb(Image.new(mode, (2, 2), color)).getpixel((0, 0)) == expected


def test_a_palette_with_a_transparent_color_is_laid_over_black() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([200, 10, 10, 10, 200, 10])
    image.putdata([0, 1])
    file = io.BytesIO()
    image.save(file, "PNG", transparency=0)
    pixels = read_picture({"bytes": file.getvalue(), "path": None}, None, "here")
    assert pixels.tolist() == [[[0, 0, 0], [10, 200, 10]]]


@pytest.mark.parametrize(("suffix", "mode"), [("png", "I;16"), ("tiff", "I;16")])
def test_sixteen_bits_become_eight_by_value_not_by_clipping(tmp_path: Path, suffix: str, mode: str) -> None:
    values = np.array([[0, 257, 257 * 128, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / f"deep.{suffix}")
    with Image.open(tmp_path / f"deep.{suffix}") as image:
        assert image.mode == mode
    pixels = read_picture({"bytes": None, "path": str(tmp_path / f"deep.{suffix}")}, None, "here")
    assert pixels[0, :, 0].tolist() == [0, 1, 128, 255]


def test_a_photograph_is_turned_as_its_exif_says() -> None:
    upright = Image.fromarray(np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3))
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned to the left
    file = io.BytesIO()
    upright.transpose(Image.Transpose.ROTATE_90).save(file, "PNG", exif=exif)
    assert np.array_equal(read_picture({"bytes": file.getvalue(), "path": None}, None, "here"), np.asarray(upright))


@pytest.mark.parametrize(
    "value", [None, {"bytes": b"", "path": None}, {"bytes": b"GIF89a", "path": None}, {"bytes": None, "path": None}]
)
def test_an_unreadable_image_is_reported_with_its_row(value: Any) -> None:
    with pytest.raises(UserError, match=r"set, row 3: Pillow cannot read this image \(.+\); repair or remove it"):
        read_picture(value, None, "set, row 3")


def test_an_image_that_git_did_not_fetch_is_reported_as_such(tmp_path: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:1f\nsize 99\n"
    (tmp_path / "1.png").write_bytes(pointer)
    for value in ({"bytes": pointer, "path": "1.png"}, {"bytes": None, "path": str(tmp_path / "1.png")}):
        with pytest.raises(
            UserError, match="is a Git LFS pointer instead of the file; run `git lfs pull` in its repos"
        ):
            read_picture(value, None, "set, row 3")


def test_floating_point_pixels_are_refused() -> None:
    file = io.BytesIO()
    Image.new("F", (2, 2), 0.5).save(file, "TIFF")
    with pytest.raises(UserError, match="floating-point pixels; save it with 8 or 16 bits"):
        read_picture({"bytes": file.getvalue(), "path": None}, None, "here")


def ramp(width: int, height: int) -> Image.Image:
    """Return an image whose red channel is the column and green the row, as a share of 255."""
    red = np.broadcast_to(np.linspace(0, 255, width), (height, width))
    green = np.broadcast_to(np.linspace(0, 255, height)[:, None], (height, width))
    return Image.fromarray(np.stack([red, green, 0 * red], 2).round().astype(np.uint8))


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (90, 90), (20, 31)])
@pytest.mark.parametrize(("frame", "share"), [(Frame((64, 64)), 1.0), (Frame((64, 64), 80), 64 / 80)])
def test_a_frame_shows_its_share_of_the_shorter_side_about_the_center(
    size: tuple[int, int], frame: Frame, share: float
) -> None:
    fitted = np.asarray(fit(ramp(*size), frame)).astype(float)
    assert fitted.shape == (64, 64, 3)
    short = min(size)
    for channel, line, side in ((0, fitted[32, :, 0], size[0]), (1, fitted[:, 32, 1], size[1])):
        low, high = (0.5 + sign * share * short / side / 2 for sign in (-1, 1))
        assert line[0] / 255 == pytest.approx(low, abs=0.03), channel
        assert line[-1] / 255 == pytest.approx(high, abs=0.03), channel


def test_a_picture_of_the_right_size_is_left_alone() -> None:
    image = ramp(64, 64)
    for frame in (Frame((64, 64)), Frame((64, 64), 80)):
        assert fit(image, frame) is image


# Metadata, formats and ranges


def as_value(image: Image.Image, kind: str, **options: Any) -> dict[str, Any]:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return {"bytes": file.getvalue(), "path": None}


def exif_with(*entries: tuple[int, int, int, bytes], following: int = 0) -> bytes:
    """EXIF with these entries: tag, type, count and value (at most four bytes)."""
    fields = b"".join(struct.pack(">HHI", tag, kind, count) + v.ljust(4, b"\0") for tag, kind, count, v in entries)
    return b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">H", len(entries)) + fields + struct.pack(">I", following)


TURNED = (274, 3, 1, struct.pack(">H", 6))


@pytest.mark.parametrize(
    ("exif", "turns"),
    [
        (exif_with(TURNED, (296, 2, 2, b"2\0")), True),  # ResolutionUnit as text
        (exif_with(TURNED, (282, 3, 1, b"\0\1")), True),  # XResolution as a whole number
        (exif_with(TURNED, (34665, 2, 4, b"abc\0")), True),  # the place of another directory as text
        (exif_with(TURNED, (34665, 4, 1, struct.pack(">I", 8))), True),  # a directory that contains itself
        (exif_with(TURNED, (34665, 4, 1, struct.pack(">I", 2**31))), True),
        (exif_with(TURNED, following=8), True),
        (exif_with(TURNED, (271, 2, 2**31, b"\0\0\xff\xff")), True),
        (exif_with((274, 4, 1, struct.pack(">I", 70_000))), False),
        (exif_with((274, 3, 1, struct.pack(">H", 0))), False),
        (exif_with((274, 2, 4, b"six\0")), False),
        (exif_with(TURNED)[:18], False),
        (b"Exif\0\0", False),
        (b"Exif\0\0XX\0*", False),
    ],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_damaged_exif_does_not_matter(kind: str, exif: bytes, turns: bool) -> None:
    array = np.zeros((8, 16, 3), np.uint8)
    array[:, :8, 0] = 255
    pixels = read_picture(as_value(Image.fromarray(array), kind, exif=exif), None, "here")
    assert pixels.shape == ((16, 8, 3) if turns else (8, 16, 3))
    assert pixels[2, 4, 0] > 200 and pixels[-3, -4, 0] < 60  # red is on the left; turned, it is at the top


@pytest.mark.parametrize(
    ("values", "reason"), [([[0, 65536]], "32-bit values from 0 to 65536"), ([[-1, 5]], "32-bit values from -1 to 5")]
)
def test_32_bits_of_an_unknown_range_are_refused(values: list[list[int]], reason: str) -> None:
    with pytest.raises(UserError, match=f"{reason}, whose range is unknown; save it with 8 or 16 bits"):
        read_picture(as_value(Image.fromarray(np.array(values, np.int32)), "TIFF"), None, "here")


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_is_read(kind: str) -> None:
    first, second = Image.new("L", (8, 6), 255), Image.new("L", (8, 6), 0)
    value = as_value(first, kind, save_all=True, append_images=[second])
    assert read_picture(value, None, "here").mean() > 250


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html>", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0" * 9])
def test_files_that_are_no_images_are_rejected(content: bytes) -> None:
    with pytest.raises(UserError, match="row 3: Pillow cannot read this image"):
        read_picture({"bytes": content, "path": None}, None, "row 3")


def test_a_small_file_cannot_claim_to_be_a_large_image() -> None:
    content = bytearray(as_value(Image.new("RGB", (8, 8)), "BMP")["bytes"])
    content[18:26] = struct.pack("<ii", 12_000, 12_000)
    with pytest.raises(UserError, match="bytes cannot hold 12,000 x 12,000 pixels"):
        read_picture({"bytes": bytes(content), "path": None}, None, "here")


def test_a_very_long_image_takes_little_memory() -> None:
    value = as_value(Image.new("L", (1, 30_000), 9), "PNG")
    assert read_picture(value, Frame((224, 224), 256), "here").shape == (224, 224, 3)
