"""Damage images at random: each is read, or rejected with its row, within bounds of time and memory."""

import io
import random
import resource
import time
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from PIL import Image, features

from srel_hub.errors import UserError
from srel_hub.storage.decode import Frame, read_picture


FORMATS = ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "AVIF", "BMP")
MODES = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "JPEG": ("L", "RGB", "CMYK", "YCbCr"),
    "GIF": ("L", "P"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "LAB", "I;16", "I", "F", "YCbCr"),
    "WEBP": ("RGB", "RGBA"),
    "AVIF": ("RGB", "RGBA"),
    "BMP": ("1", "L", "P", "RGB", "RGBA"),
}
OPTIONS = {  # further ways to save an image
    "PNG": ({}, {"transparency": 3}),
    "JPEG": ({}, {"progressive": True}, {"optimize": True}),
    "GIF": ({}, {"frames": True}),
    "TIFF": (
        {},
        {"compression": "tiff_lzw"},
        {"compression": "jpeg"},
        {"compression": "tiff_deflate"},
        {"frames": True},
    ),
    "WEBP": ({}, {"lossless": True}, {"frames": True}),
    "AVIF": ({}, {"frames": True}),
    "BMP": ({},),
}
SLOWEST = 30.0  # seconds for one image of 24 x 16 pixels, on a busy machine
MOST_MEMORY = 2**30  # bytes that the process may take in addition
FRAME = Frame((8, 8), resize=9)


@cache
def intact(kind: str) -> list[bytes]:
    """Return small files of one format: each mode, each way to save, with metadata."""
    noise = np.random.default_rng(1).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    exif = Image.Exif()
    for tag, value in {0x0112: 6, 0x0128: 2, 0x011A: 72.0, 0x010F: "maker", 0x0132: "2020:01:01 00:00:00"}.items():
        exif[tag] = value
    exif.get_ifd(0x8769)[0x9003] = "2020:01:01 00:00:00"
    exif.get_ifd(0x8825)[1] = "N"
    contents = []
    for mode in MODES[kind]:
        image = Image.fromarray(noise)
        if mode == "I;16":
            image = Image.fromarray(noise[:, :, 0].astype(np.uint16) * 200)
        elif mode != "RGB":
            image = image.convert("RGB" if mode == "LAB" else mode)
        if mode == "LAB":
            image = Image.frombytes("LAB", image.size, image.tobytes())
        for options in OPTIONS[kind]:
            file = io.BytesIO()
            more = {"save_all": True, "append_images": [image.transpose(Image.Transpose.ROTATE_180)]}
            given = more if "frames" in options else options
            try:
                image.save(file, kind, exif=exif, **given)
            except (OSError, ValueError, TypeError, KeyError):
                continue  # this mode cannot be saved in this way
            contents.append(file.getvalue())
    return contents


def flip_bits(content: bytearray, draw: random.Random) -> bytearray:
    for _ in range(draw.choice((1, 3, 30))):
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    return content


def edit_header(content: bytearray, draw: random.Random) -> bytearray:
    for _ in range(draw.randrange(1, 5)):
        content[draw.randrange(min(64, len(content)))] = draw.choice((0, 1, 127, 128, 255, draw.randrange(256)))
    return content


def edit_exif(content: bytearray, draw: random.Random) -> bytearray:
    """Change bytes behind the beginning of the metadata: types, counts, offsets and values of tags."""
    starts = [place for mark in (b"Exif", b"eXIf", b"EXIF", b"II*\0", b"MM\0*") if (place := content.find(mark)) >= 0]
    start = draw.choice(starts or [0])
    for _ in range(draw.randrange(1, 8)):
        place = min(len(content) - 1, start + draw.randrange(200))
        content[place] = draw.choice((0, 1, 2, 7, 13, 255, draw.randrange(256)))
    return content


def truncate(content: bytearray, draw: random.Random) -> bytearray:
    return content[: draw.randrange(len(content))]


def remove_part(content: bytearray, draw: random.Random) -> bytearray:
    start = draw.randrange(len(content))
    return content[:start] + content[start + draw.randrange(1, 40) :]


def repeat_part(content: bytearray, draw: random.Random) -> bytearray:
    start = draw.randrange(len(content))
    return content[:start] + content[start : start + draw.randrange(1, 80)] * draw.choice((2, 3, 50)) + content[start:]


def large_numbers(content: bytearray, draw: random.Random) -> bytearray:
    """Overwrite four bytes, as a size, a count or an offset may be stored there."""
    start = draw.randrange(max(1, min(300, len(content)) - 4))
    number = draw.choice((2**31 - 1, 2**31, 2**32 - 1, 2**16, 50_000, 12_000, 0))
    content[start : start + 4] = number.to_bytes(4, draw.choice(("little", "big")))
    return content


MUTATIONS: tuple[Callable[[bytearray, random.Random], bytearray], ...] = (
    flip_bits,
    edit_header,
    edit_exif,
    truncate,
    remove_part,
    repeat_part,
    large_numbers,
)


def mutated(kind: str, seed: int) -> bytes:
    draw = random.Random(f"{kind} {seed}")
    content = bytearray(draw.choice(intact(kind)))
    for _ in range(draw.choice((1, 1, 2))):
        content = draw.choice(MUTATIONS)(content, draw) or bytearray(b"x")
    return bytes(content)


def try_mutations(kind: str, seeds: range) -> None:
    read, before = 0, peak_memory()
    for seed in seeds:
        content = mutated(kind, seed)
        begun = time.monotonic()
        try:
            pixels = read_picture({"bytes": content, "path": None}, FRAME, f"set: row {seed}")
            assert pixels.shape == (8, 8, 3) and pixels.dtype == np.uint8
            read += 1
        except UserError as error:
            assert str(error).startswith(f"set: row {seed}: Pillow cannot read this image ("), (kind, seed, str(error))
        assert time.monotonic() - begun < SLOWEST, (kind, seed)
    assert 0 < read < len(seeds), f"{kind}: {read} of {len(seeds)} images were read"
    assert peak_memory() - before < MOST_MEMORY, kind


def peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.parametrize("kind", FORMATS)
def test_intact_files_are_read(kind: str) -> None:
    assert kind != "AVIF" or features.check("avif")
    for content in intact(kind):
        with Image.open(io.BytesIO(content)) as image:
            if image.mode != "F":
                assert read_picture({"bytes": content, "path": None}, None, "row").shape in ((24, 16, 3), (16, 24, 3))


@pytest.mark.parametrize("kind", FORMATS)
def test_a_damaged_image_is_read_or_rejected(kind: str) -> None:
    try_mutations(kind, range(60))


@pytest.mark.long
@pytest.mark.parametrize("part", range(10))
@pytest.mark.parametrize("kind", FORMATS)
def test_twenty_thousand_damaged_images_are_read_or_rejected(kind: str, part: int) -> None:
    try_mutations(kind, range(60 + 286 * part, 60 + 286 * (part + 1)))
