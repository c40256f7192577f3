"""How much the exact crop costs: its time on a batch as a ratio of Pillow's and of a float crop, in the same run.

python benchmarks/crop.py            prints one JSON line a size
"""

import json
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from srel_hub.core.augment import crop, random_resized_boxes


def seconds(work: Callable[[], object], repeats: int = 7) -> float:
    """Median time of a call, after one that warms up."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return sorted(times)[repeats // 2]


def main() -> None:
    draw = torch.Generator().manual_seed(0)
    for count, side in ((128, 32), (100, 64), (50, 224)):
        images = torch.randint(0, 256, (count, 3, side, side), generator=draw, dtype=torch.uint8)
        boxes = random_resized_boxes((0.08, 1.0), (3 / 4, 4 / 3), count, (side, side), draw)
        pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]

        def pillow(pictures: list[Image.Image] = pictures, boxes: torch.Tensor = boxes, side: int = side) -> None:
            for picture, (top, left, height, width) in zip(pictures, boxes.tolist(), strict=True):
                cut = picture.crop((left, top, left + width, top + height))
                np.asarray(cut.resize((side, side), Image.Resampling.BILINEAR))

        def floating(images: torch.Tensor = images, boxes: torch.Tensor = boxes, side: int = side) -> None:
            for image, (top, left, height, width) in zip(images, boxes.tolist(), strict=True):
                cut = image[None, :, top : top + height, left : left + width].float()
                F.interpolate(cut, (side, side), mode="bilinear")

        exact = seconds(lambda images=images, boxes=boxes: crop(images, boxes))  # type: ignore[misc]
        result = {
            "images": count,
            "side": side,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "milliseconds": round(1000 * exact, 2),
            "ratio_to_pillow": round(exact / seconds(pillow), 2),
            "ratio_to_float_loop": round(exact / seconds(floating), 2),
        }
        print(json.dumps(result))


if __name__ == "__main__":
    main()
