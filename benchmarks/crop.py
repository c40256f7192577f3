"""Time the exact crop on a batch, relative to Pillow's crop and to a float crop in the same process.

python benchmarks/crop.py            prints one JSON line per image size
"""

import json
import statistics
from functools import partial

import measured
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from srel_hub.core.augment import crop, random_resized_boxes


SIZES = ((128, 32), (100, 64), (50, 224))  # number of images, their side in pixels


def crop_by_pillow(images: list[Image.Image], boxes: Tensor, side: int) -> None:
    """Crop each image to its box and resize it with Pillow."""
    for image, (top, left, height, width) in zip(images, boxes.tolist(), strict=True):
        part = image.crop((left, top, left + width, top + height))
        np.asarray(part.resize((side, side), Image.Resampling.BILINEAR))


def crop_in_float(images: Tensor, boxes: Tensor, side: int) -> None:
    """Crop each image to its box and resize it with torch's interpolation in float32."""
    for image, (top, left, height, width) in zip(images, boxes.tolist(), strict=True):
        part = image[None, :, top : top + height, left : left + width].float()
        F.interpolate(part, (side, side), mode="bilinear")


def measure(count: int, side: int) -> dict[str, object]:
    """Return the exact crop's milliseconds for `count` images of `side` pixels, and its ratios to the others."""
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, side, side), generator=draw, dtype=torch.uint8)
    boxes = random_resized_boxes((0.08, 1.0), (3 / 4, 4 / 3), count, (side, side), draw)
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    works = {
        "exact": partial(crop, images, boxes),
        "pillow": partial(crop_by_pillow, pictures, boxes, side),
        "float": partial(crop_in_float, images, boxes, side),
    }
    seconds = {
        name: statistics.median(calls) for name, calls in measured.alternate(works, repeats=7, warm_up=1).items()
    }
    return {
        "images": count,
        "side": side,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "milliseconds": round(1000 * seconds["exact"], 2),
        "ratio_to_pillow": round(seconds["exact"] / seconds["pillow"], 2),
        "ratio_to_float_loop": round(seconds["exact"] / seconds["float"], 2),
    }


if __name__ == "__main__":
    for count, side in SIZES:
        print(json.dumps(measure(count, side)))
