"""Decode an image of any format, size and mode to RGB pixels of one size."""

import io
import warnings
from dataclasses import dataclass
from typing import Any

import fsspec
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from srel_hub.errors import UserError, first_line


SMALLEST_SIDE = 2  # pixels
LARGEST_SIDE = 32_767  # pixels; crop boxes are stored as int16
BILINEAR = int(Image.Resampling.BILINEAR)


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


def read_picture(value: Any, frame: Frame | None, where: str) -> np.ndarray[Any, Any]:
    """Decode one row of an image column.

    Args:
        value: what `datasets.Image(decode=False)` returns: the `bytes` of the image, or the `path` or URL of a file.
        frame: the size to resize the image to; None keeps its own size.
        where: the dataset and row, which begin the message.

    Returns:
        uint8 [H, W, 3], RGB, turned upright by its EXIF tag.

    Raises:
        UserError: if Pillow cannot read it.
    """
    try:
        with Image.open(_stream(value)) as image:
            rgb = to_rgb(ImageOps.exif_transpose(image))
            return np.asarray(rgb if frame is None else fit(rgb, frame))
    except (OSError, ValueError, SyntaxError, TypeError, Image.DecompressionBombError) as error:
        reason = first_line(error)
        if isinstance(error, UnidentifiedImageError):
            reason = "damaged, or of an unknown format"
        file = f" ({value['path']})" if value is not None and value["path"] else ""
        raise UserError(f"{where}{file}: Pillow cannot read this image ({reason}); repair or remove it") from None


def _stream(value: Any) -> Any:
    """Open the bytes of an image."""
    if value is None:
        raise ValueError("the row is empty")
    if value["bytes"] is not None:
        return io.BytesIO(value["bytes"])
    if "://" not in value["path"]:
        return open(value["path"], "rb")  # fsspec would read `::` in a name as a path inside an archive
    return fsspec.open(value["path"], "rb").open()  # a streamed dataset's files may be on the Hub or in an archive


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to RGB: alpha is composited over black, and 16 bits are scaled to 8.

    Raises:
        ValueError: for floating-point pixels, whose range is unknown.
    """
    if image.mode == "F":
        raise ValueError("floating-point pixels; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        # Pillow's own convert("RGB") clips 16-bit values at 255 instead of scaling them.
        gray = np.asarray(image).astype(np.int64).clip(0, 65535)
        image = Image.fromarray(((gray * 255 + 32767) // 65535).astype(np.uint8))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba)
    return image.convert("RGB")


def fit(image: Image.Image, frame: Frame) -> Image.Image:
    """Resize an image and cut out its center, as `frame` describes. The aspect ratio is kept."""
    height, width = frame.size
    if (image.height, image.width) == frame.size:
        return image
    if frame.resize is None:
        return ImageOps.fit(image, (width, height), Image.Resampling(frame.resample))
    short = min(image.size)
    # Truncated, not rounded, as torchvision's and transformers' resize do.
    across, down = (max(1, int(frame.resize * side / short)) for side in image.size)
    resized = image.resize((across, down), Image.Resampling(frame.resample))
    left, top = round((across - width) / 2), round((down - height) / 2)
    return resized.crop((left, top, left + width, top + height))


def scale_shorter_side(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Return (height, width) with the same aspect ratio and a shorter side of `side` pixels."""
    return round(size[0] * side / min(size)), round(size[1] * side / min(size))


def read_header(value: Any, where: str) -> tuple[tuple[int, int], str]:
    """Read the size and mode of one row of an image column, without decoding its pixels.

    Args:
        value: see `read_picture`.
        where: the dataset and row, which begin the message.

    Returns:
        (width, height) as stored, before any rotation by EXIF, and Pillow's mode.

    Raises:
        UserError: if Pillow cannot read it.
    """
    try:
        with warnings.catch_warnings(action="ignore"), _stream(value) as stream, Image.open(stream) as image:
            return image.size, image.mode
    except Exception as error:  # damaged files make Pillow's plugins raise almost anything
        is_unknown = isinstance(error, UnidentifiedImageError)
        reason = "damaged, or of an unknown format" if is_unknown else first_line(error)
        file = f" ({value['path']})" if value is not None and value["path"] else ""
        raise UserError(f"{where}{file}: Pillow cannot read this image ({reason}); repair or remove it") from None
