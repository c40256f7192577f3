"""Decode an image of any format, size and mode to RGB pixels of one size."""

import contextlib
import errno
import io
import re
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import fsspec
import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageFile, ImageOps, UnidentifiedImageError

from srel_hub.errors import UserError, cause, machine_failure
from srel_hub.storage.files import LFS_ADVICE, LFS_POINTER


SMALLEST_SIDE = 2  # pixels
LARGEST_SIDE = 32_767  # pixels; crop boxes are stored as int16
# Sides of an image are at most in this ratio before it is resized. Resizing the shorter side of an image of
# 1 x 32,000 pixels to 256 would take 6 GB.
LONGEST_RATIO = 64
# A file of a few hundred bytes may claim to be an image of 178 million pixels, the most that Pillow opens. An animated
# WebP then takes 3 GB and a minute. One byte of a PNG holds at most 8,000 pixels, of one color.
LARGE_IMAGE = 20_000_000  # pixels
PIXELS_PER_BYTE = 8_000
BILINEAR = int(Image.Resampling.BILINEAR)
TURNS = {  # by the EXIF tag Orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Frame:
    """How an image is resized to a given size. An image that already has this size stays unchanged.

    Attributes:
        size: (height, width) in pixels.
        resize: the teacher's rule: resize the shorter side to this many pixels, then cut out the center. None: resize
            the image to cover `size`, then cut out the center.
        resample: Pillow's number of the resampling filter.
    """

    size: tuple[int, int]
    resize: int | None = None
    resample: int = BILINEAR


class UnreadableImageError(UserError):
    """An image that Pillow cannot read.

    Attributes:
        reason: what is wrong with it, without the dataset and row.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Decoded:
    """A decoded image.

    Attributes:
        pixels: uint8 [H, W, 3], RGB.
        peak: the largest value of an image with 16 bits per channel, of at most 65,535; None for other images.
    """

    pixels: np.ndarray[Any, Any]
    peak: int | None = None


def read_picture(value: Any, frame: Frame | None, where: str) -> np.ndarray[Any, Any]:
    """Decode one row of an image column, and return its pixels (see `decode`)."""
    return decode(value, frame, where).pixels


def decode(value: Any, frame: Frame | None, where: str) -> Decoded:
    """Decode one row of an image column. Of an image with several frames or pages, the first is read.

    Args:
        value: what `datasets.Image(decode=False)` returns: the `bytes` of the image, or the `path` or URL of a file.
        frame: the size to resize the image to; None keeps its own size.
        where: the dataset and row, which begin the message.

    Returns:
        the image, turned upright by its EXIF tag.

    Raises:
        UnreadableImageError: if Pillow cannot read it.
        OSError: if the machine or the network failed, so that nothing is known about the image.
    """
    with _opened(value, where) as image:
        return _decode(image, frame)


def read_header(value: Any, where: str) -> tuple[tuple[int, int], str]:
    """Read the size and mode of one row of an image column, without decoding its pixels.

    Args:
        value: see `decode`.
        where: the dataset and row, which begin the message.

    Returns:
        (width, height) as stored, before any rotation by EXIF, and Pillow's mode.

    Raises:
        UnreadableImageError: if Pillow cannot read it.
        OSError: if the machine or the network failed.
    """
    with _opened(value, where) as image:
        return image.size, image.mode


@contextlib.contextmanager
def _opened(value: Any, where: str) -> Iterator[Image.Image]:
    """Open an image, and turn whatever Pillow raises about it, also later, into an UnreadableImageError."""
    try:
        # Pillow warns about damaged metadata and about large images. Each image is either read or rejected.
        with warnings.catch_warnings(action="ignore"), _stream(value) as stream, Image.open(stream) as image:
            _require_plausible(image.size, stream)
            yield image
    except Exception as error:  # damaged files make Pillow's plugins raise almost anything
        failure = machine_failure(error)
        if failure is not None:
            raise failure from None
        reason = cause(error)
        if isinstance(error, UnidentifiedImageError):
            if _is_pointer(value):
                raise UnreadableImageError(f"{where}{_file(value)}: {LFS_ADVICE}", LFS_ADVICE) from error
            reason = "damaged, or of an unknown format"
        message = f"{where}{_file(value)}: Pillow cannot read this image ({reason}); repair or remove it"
        raise UnreadableImageError(message, reason) from error


def _is_pointer(value: Any) -> bool:
    with _stream(value) as stream:
        return stream.read(len(LFS_POINTER)) == LFS_POINTER


def _file(value: Any) -> str:
    return f" ({value['path']})" if value is not None and value["path"] else ""


def _stream(value: Any) -> IO[bytes]:
    """Open the bytes of an image."""
    if value is None:
        raise ValueError("the row is empty")
    if value["bytes"] is not None:
        return io.BytesIO(value["bytes"])
    path = value["path"]
    if path is None:
        raise ValueError("the row has neither bytes nor a path")
    if "://" not in path:
        return open(path, "rb")  # fsspec would read `::` in a name as a path inside an archive
    # A streamed dataset's files are on the Hub or in an archive. All of the file is read here, because an error of the
    # network says nothing about the image.
    try:
        with fsspec.open(path, "rb") as file:
            return io.BytesIO(file.read())
    except (FileNotFoundError, zipfile.BadZipFile):
        raise
    except Exception as error:
        raise OSError(errno.EIO, f"cannot be read: {cause(error)}", path) from error


def _require_plausible(size: tuple[int, int], stream: IO[bytes]) -> None:
    place = stream.tell()
    pixels, content = size[0] * size[1], stream.seek(0, io.SEEK_END)
    stream.seek(place)
    if pixels > LARGE_IMAGE and pixels > PIXELS_PER_BYTE * content:
        raise ValueError(f"{content:,} bytes cannot hold {size[0]:,} x {size[1]:,} pixels")


def _decode(image: Image.Image, frame: Frame | None) -> Decoded:
    raw_mode = _raw_mode(image)
    _load(image)
    rgb = to_rgb(_turn_upright(image), 4095 if raw_mode == "I;12" else 65535)
    peak = None
    if image.mode.startswith("I") and raw_mode != "I;12":
        peak = int(np.asarray(image).max())
    elif re.search(";16[BLN]$", raw_mode):  # color with 16 bits per channel, of which Pillow keeps the upper 8
        peak = 257 * int(np.asarray(rgb).max())
    return Decoded(np.asarray(rgb if frame is None else fit(rgb, frame)), peak)


def _raw_mode(image: Image.Image) -> str:
    """Return how pixels are stored in the file, such as 'RGB;16B'. Pillow knows this until the image is loaded."""
    tiles = image.tile if isinstance(image, ImageFile.ImageFile) else []
    arguments = tiles[0].args if tiles else ""
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def _load(image: Image.Image) -> None:
    """Decode the pixels, whatever the metadata says.

    Raises:
        Exception: if the pixels are damaged.
    """
    try:
        image.load()
    except Exception:
        # Pillow reads the metadata of a TIFF after its last tile. If only this fails, no tile is left to decode.
        if not isinstance(image, ImageFile.ImageFile) or image.tile:
            raise
        image.load()


def _turn_upright(image: Image.Image) -> Image.Image:
    """Turn a loaded image as the EXIF tag Orientation says. A tag that cannot be read is ignored.

    `ImageOps.exif_transpose` writes the other tags again, so that a single tag of a wrong type makes it fail.
    """
    try:
        turn = TURNS.get(image.getexif()[ExifTags.Base.Orientation])
    except Exception:  # there is no tag, or damaged metadata, which makes Pillow raise almost anything
        turn = None
    return image if turn is None else image.transpose(turn)


def to_rgb(image: Image.Image, white: int = 65535) -> Image.Image:
    """Convert an image of any mode to RGB: alpha is composited over black, and 16 bits are scaled to 8.

    Every 16-bit value is scaled in the same way in all images, even if an image uses only a part of the range. Scaling
    by an image's own maximum would change brightness from image to image.

    Args:
        image: the image.
        white: the value that becomes 255, if the image has 16 bits per pixel.

    Raises:
        ValueError: for floating-point pixels and 32-bit values that exceed 16 bits, whose range is unknown.
    """
    if image.mode == "F":
        raise ValueError("floating-point pixels; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        image = _scale_to_8_bits(image, white)
    if image.mode == "LAB":
        image = ImageCms.profileToProfile(
            image, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )  # type: ignore[assignment]
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba)
    return image.convert("RGB")


def _scale_to_8_bits(image: Image.Image, white: int) -> Image.Image:
    # Pillow's own convert("RGB") clips 16-bit values at 255 instead of scaling them.
    gray = np.asarray(image)
    low, high = int(gray.min()), int(gray.max())
    if low < 0 or high > 65535:
        raise ValueError(f"32-bit values from {low} to {high}, whose range is unknown; save it with 8 or 16 bits")
    table = (np.arange(65536, dtype=np.int64).clip(0, white) * 255 + white // 2) // white
    scaled = table.astype(np.uint8)[gray]
    transparent = image.info.get("transparency")  # one value of a PNG
    if isinstance(transparent, int):
        scaled[gray == transparent] = 0
    return Image.fromarray(scaled)


def fit(image: Image.Image, frame: Frame) -> Image.Image:
    """Resize an image and cut out its center, as `frame` describes. The aspect ratio is kept."""
    height, width = frame.size
    if (image.height, image.width) == frame.size:
        return image
    if frame.resize is None:
        return ImageOps.fit(image, (width, height), Image.Resampling(frame.resample))
    short = min(image.size)
    if max(image.size) > LONGEST_RATIO * short:
        image = ImageOps.fit(image, tuple(min(side, LONGEST_RATIO * short) for side in image.size))  # type: ignore[arg-type]
    # Truncated, not rounded, as torchvision's and transformers' resize do.
    across, down = (max(1, int(frame.resize * side / short)) for side in image.size)
    resized = image.resize((across, down), Image.Resampling(frame.resample))
    left, top = round((across - width) / 2), round((down - height) / 2)
    return resized.crop((left, top, left + width, top + height))


def scale_shorter_side(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Return (height, width) with the same aspect ratio and a shorter side of `side` pixels."""
    return round(size[0] * side / min(size)), round(size[1] * side / min(size))
