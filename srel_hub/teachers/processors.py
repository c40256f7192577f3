"""Image processors of transformers: how they resize images, and what they do to colors.

The normalization is measured on three plain images. The settings are not read, because each family names them
differently (MobileViT swaps red and blue, EfficientNet divides by the deviation twice).
"""

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AutoImageProcessor

from srel_hub.errors import UserError, first_line
from srel_hub.storage.decode import BILINEAR, Frame
from srel_hub.teachers.foreign_settings import Color


BLACK, WHITE, RED = (0, 0, 0), (255, 255, 255), (255, 0, 0)


def load_processor(folder: Path, where: str) -> Any:
    """Load the image processor of a classifier.

    Raises:
        UserError: If there is none that transformers can read.
    """
    try:
        return AutoImageProcessor.from_pretrained(folder, backend="pil", trust_remote_code=False)
    except Exception as error:  # settings from elsewhere make transformers raise almost any exception
        exists = (folder / "preprocessor_config.json").is_file()
        reason = f" that transformers can read: {first_line(error)[:200]}" if exists else ""
        raise UserError(f"{where}: its normalization is unknown: no preprocessor_config.json{reason}") from None


def read_frame(processor: Any) -> Frame:
    """Return size and resize rule of a transformers image processor.

    Some processors stretch an image to a square. Here the aspect ratio is always kept, and the center is cut out.
    """
    size, crop, resample = processor.size or {}, processor.crop_size or {}, int(processor.resample or BILINEAR)
    short = size.get("shortest_edge") or min(size.get("height") or 224, size.get("width") or 224)
    share = getattr(processor, "crop_pct", None)
    if share and short < 384:  # ConvNextImageProcessor resizes to short / share and cuts out short, but only below 384
        return Frame((short, short), int(short / share), resample)
    if processor.do_center_crop and crop:
        return Frame((crop["height"], crop["width"]), short, resample)
    return Frame((size.get("height") or short, size.get("width") or short), None, resample)


def measure_colors(processor: Any) -> tuple[Color, Color, tuple[int, ...]]:
    """Measure the normalization of an image processor on a black, a white and a red image.

    Returns:
        mean and std of each RGB channel in [0, 1], and the RGB channel in each channel of the processor's output.
    """
    pictures = [Image.new("RGB", (32, 32), color) for color in (BLACK, WHITE, RED)]
    values = torch.as_tensor(processor(pictures, return_tensors="pt")["pixel_values"]).double()
    black, white, red = values[:, :, values.shape[2] // 2, values.shape[3] // 2]
    # Red differs from black in one channel: in the first, unless the processor swaps red and blue.
    order = (0, 1, 2) if int((red - black).abs().argmax()) == 0 else (2, 1, 0)
    std = 1 / (white - black)
    mean = -black * std
    return _rounded(mean, order), _rounded(std, order), order


def _rounded(values: Tensor, order: tuple[int, ...]) -> Color:
    """Sort values by RGB channel and round them to six decimals, since the processor computes in float32."""
    # Adding 0.0 turns -0.0 into 0.0.
    red, green, blue = (round(float(values[order.index(channel)]), 6) + 0.0 for channel in range(3))
    return red, green, blue


@torch.no_grad()
def reorder_input(model: nn.Module, order: tuple[int, ...]) -> None:
    """Convert a network to RGB input by permuting the input channels of its first convolution.

    Args:
        model: changed in place.
        order: the RGB channel in each of the network's channels; (2, 1, 0) for BGR.
    """
    first = next(module for module in model.modules() if isinstance(module, nn.Conv2d) and module.in_channels == 3)
    first.weight.copy_(first.weight[:, [order.index(channel) for channel in range(3)]].clone())
