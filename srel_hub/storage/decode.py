"""One picture of any size and mode to RGB of one size."""

import io
from dataclasses import dataclass
from typing import Any

import fsspec
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from srel_hub.errors import UserError, first_line


SMALLEST_SIDE = 2
BILINEAR = int(Image.Resampling.BILINEAR)
LARGEST_SIDE = 32_767  # crop boxes are stored as int16


@dataclass(frozen=True)
class Frame:
    """How a picture becomes `size` (height, width) pixels; a picture that has this size already is left alone.

    `resize` is the teacher's rule: the shorter side is brought to so many pixels, then the center is cut out. None
    keeps as much of the picture as covers `size`. `resample` is Pillow's number of the filter.
    """

    size: tuple[int, int]
    resize: int | None = None
    resample: int = BILINEAR


def read_picture(value: Any, frame: Frame | None, where: str) -> np.ndarray[Any, Any]:
    """uint8 [H, W, 3] of one row of an undecoded image column: bytes, or the path or URL of a file.

    Raises:
        UserError: if Pillow cannot read it; the message begins with `where`.
    """
    try:
        with Image.open(_stream(value)) as image:
            rgb = to_rgb(ImageOps.exif_transpose(image))
            return np.asarray(rgb if frame is None else fit(rgb, frame))
    except (OSError, ValueError, SyntaxError, TypeError, Image.DecompressionBombError) as error:
        reason = first_line(error)
        if isinstance(error, UnidentifiedImageError):
            reason = "damaged, or of a format that it does not know"
        file = f" ({value['path']})" if value is not None and value["path"] else ""
        raise UserError(f"{where}{file} is no image that Pillow can read ({reason}); mend or remove it") from None


def _stream(value: Any) -> Any:
    if value is None:
        raise ValueError("the row is empty")
    if value["bytes"] is not None:
        return io.BytesIO(value["bytes"])
    return fsspec.open(value["path"], "rb").open()  # a streamed dataset's files may be on the Hub or in an archive


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow image as RGB; alpha is laid over black, 16 bits become 8.

    Raises:
        ValueError: for floating-point pixels, whose range nothing tells.
    """
    if image.mode == "F":
        raise ValueError("floating-point pixels; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        gray = np.asarray(image).astype(np.int64).clip(0, 65535)
        image = Image.fromarray(((gray * 255 + 32767) // 65535).astype(np.uint8))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba)
    return image.convert("RGB")


def fit(image: Image.Image, frame: Frame) -> Image.Image:
    """Resize, then cut out the center, as `frame` says."""
    height, width = frame.size
    if (image.height, image.width) == frame.size:
        return image
    if frame.resize is None:
        return ImageOps.fit(image, (width, height), Image.Resampling(frame.resample))
    short = min(image.size)
    across, down = (max(1, int(frame.resize * side / short)) for side in image.size)
    resized = image.resize((across, down), Image.Resampling(frame.resample))
    left, top = round((across - width) / 2), round((down - height) / 2)
    return resized.crop((left, top, left + width, top + height))


def scale_shorter_side(size: tuple[int, int], side: int) -> tuple[int, int]:
    """(height, width) of the same shape, with this shorter side."""
    return round(size[0] * side / min(size)), round(size[1] * side / min(size))
