"""Time relabel: a DataLoader with Pillow's crops and a pickle per batch, and ours, in one process.

python benchmarks/relabel.py
"""

import io
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import measured
import numpy as np
import torch
from measured import DEVICE
from PIL import Image
from recover import IMAGENET, SMALL, Case
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from srel_hub.config import Augment, Network
from srel_hub.core.augment import random_resized_boxes, sample_views
from srel_hub.core.encodings import encoding_of
from srel_hub.core.engine import FLOAT32, Engine, best_precision
from srel_hub.labels.epoch_files import write_epoch_file
from srel_hub.labels.labeller import label, make_labeller, passes
from srel_hub.stages.relabel import BackgroundWriter


BATCH = 50
CONVNET = Case(Network(model="convnet"), 8, 10)


def random_images(case: Case, count: int) -> Tensor:
    """Return noise as images, uint8 [count, 3, side, side]."""
    draw = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, case.side, case.side), generator=draw, dtype=torch.uint8)


class Cropped(Dataset[tuple[Tensor, int]]):
    """Images as a folder of files gives them: cropped by Pillow one at a time, normalized in float32."""

    def __init__(self, images: Tensor, epochs: int = 1) -> None:
        self.images = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images] * epochs
        self.draw = torch.Generator().manual_seed(0)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self.images[index]
        size = (image.height, image.width)
        top, left, height, width = random_resized_boxes((0.08, 1.0), (3 / 4, 4 / 3), 1, size, self.draw)[0].tolist()
        cut = image.crop((left, top, left + width, top + height)).resize(image.size, Image.Resampling.BILINEAR)
        if torch.rand((), generator=self.draw) < 0.5:
            cut = cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        x = torch.from_numpy(np.array(cut)).permute(2, 0, 1).float() / 255
        return (x - 0.5) / 0.25, index


@torch.no_grad()
def published(case: Case, images: Tensor) -> Iterator[None]:
    """Label as published, an epoch per step: float32, NCHW, crops in the loader, a pickle of float16 per batch."""
    model, loader = case.classifier().model, DataLoader(Cropped(images), batch_size=BATCH)
    while True:
        for x, rows in loader:
            torch.save([rows, model(x.to(DEVICE)).logits.cpu().half()], io.BytesIO())
        yield


def ours(case: Case, images: Tensor, engine: Engine) -> Iterator[None]:
    """Label as our relabel does, an epoch per step."""
    classifier, augment = case.classifier(), Augment()
    labeller, pixels = make_labeller([classifier], engine, DEVICE, None), images.to(DEVICE)
    encoding = encoding_of("float16", case.classes)
    draw, rows = torch.Generator().manual_seed(0), range(len(images))
    with tempfile.TemporaryDirectory() as folder:
        while True:
            views, order = sample_views(augment, len(images), (case.side, case.side), draw), torch.arange(len(images))
            with (
                write_epoch_file(Path(folder, "labels"), 0, rows, views, order, encoding) as write,
                BackgroundWriter(lambda indices, logits, write=write: write(indices, logits.cpu())) as writer,
            ):
                for indices, logits in label(labeller, pixels, views, passes(order, rows, None, BATCH)):
                    writer.put(indices, logits)
            yield


def compare_with_published(case: Case, count: int, compiled: bool = False) -> dict[str, object]:
    """Time an epoch of `count` images, as published and by ours."""
    engine, images = Engine(best_precision(), compiled), random_images(case, count)
    reference, fast, plain = published(case, images), ours(case, images, engine), ours(case, images, FLOAT32)
    works = {"published": lambda: next(reference), "ours": lambda: next(fast)}
    if engine != FLOAT32:
        works["ours in float32"] = measured.in_true_float32(lambda: next(plain))
    times = measured.per_image(measured.alternate(works, warm_up=3 if compiled else 1), count)
    ratio = times["published"]["ms_per_image"] / times["ours"]["ms_per_image"]
    return {"precision": engine.precision, "compiled": compiled, "times": times, "ratio": round(ratio, 2)}


def cases() -> dict[str, Callable[[], dict[str, object]]]:
    """Return the benchmarks for this machine's kind of device, by name."""
    benchmarks = {
        "relabel resnet18-64": lambda: compare_with_published(Case(SMALL, 64, 200), 25),
        "relabel resnet18-32": lambda: compare_with_published(Case(SMALL, 32, 100), 50),
        "relabel quickstart": lambda: compare_with_published(CONVNET, 1000),
    }
    if DEVICE.type == "cuda":
        for compiled in (False, True):
            benchmarks[f"relabel resnet18-224{' compiled' * compiled}"] = lambda compiled=compiled: (
                compare_with_published(Case(IMAGENET, 224, 1000), 2000, compiled)
            )
    return benchmarks


if __name__ == "__main__":
    measured.run("relabel", cases())
