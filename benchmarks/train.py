"""Time an epoch of a student: a plain loop over a DataLoader with Pillow's crops, and ours, in one process.

python benchmarks/train.py
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import measured
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from measured import DEVICE
from recover import SMALL, Case
from relabel import CONVNET, Cropped, random_images
from torch import Tensor
from torch.utils.data import DataLoader

from srel_hub.config import Augment, Evaluate, Optimizer, Squeeze
from srel_hub.core.augment import sample_views
from srel_hub.core.engine import FLOAT32, Engine, best_precision
from srel_hub.core.optim import make_optimizer
from srel_hub.data.splits import Images
from srel_hub.labels.epochs import Epoch
from srel_hub.runs.checkpoint import Checkpoint
from srel_hub.stages.evaluate.student import Student, train_student
from srel_hub.stages.evaluate.training_sets import TrainingSet
from srel_hub.stages.squeeze import train
from srel_hub.teachers.architectures import build


BATCH, TEMPERATURE = 50, 20.0
ADAMW = Optimizer(kind="adamw", lr=1e-3, weight_decay=0.01)
TINY_IMAGES, TINY_EPOCHS, TINY_STEPS = 100_000, 50, 40


def published(case: Case, images: Tensor, labels: Tensor) -> Iterator[None]:
    """Train as published, an epoch per step: float32, NCHW, the loss read in each iteration."""
    model = build(case.network, [str(k) for k in range(case.classes)], (case.side, case.side), 1).to(DEVICE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=ADAMW.lr, weight_decay=ADAMW.weight_decay)
    loader = DataLoader(Cropped(images), batch_size=BATCH, shuffle=True)
    while True:
        for x, rows in loader:
            target = F.softmax(labels[rows].to(DEVICE) / TEMPERATURE, 1)
            output = F.log_softmax(model(x.to(DEVICE)).logits / TEMPERATURE, 1)
            loss = F.kl_div(output, target, reduction="batchmean")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()
        yield


def ours(case: Case, images: Tensor, labels: Tensor, engine: Engine) -> Iterator[float]:
    """Train as our evaluate does, an epoch per step."""
    spec = Evaluate(epochs=1_000_000, batch_size=BATCH, optimizer=ADAMW, temperature=TEMPERATURE)
    classifier, size, pixels = case.classifier(), (case.side, case.side), images.to(DEVICE)
    model = build(case.network, classifier.class_names, size, 1).to(DEVICE)
    checkpoint = Checkpoint(Path("nowhere"), model, make_optimizer(model, ADAMW))
    table, augment = classifier.table(DEVICE), Augment()

    def epoch(index: int) -> Epoch:
        views = sample_views(augment, len(pixels), size, torch.Generator().manual_seed(index)).to(DEVICE)
        return Epoch(pixels, views, table, lambda rows, _: labels[rows])

    row = TrainingSet(torch.zeros(len(images), dtype=torch.int64), epoch, hard=False)
    return train_student(Student(model, spec), engine.network(model), row, spec, 0, checkpoint)


def compare_with_published(case: Case, count: int, compiled: bool = False) -> dict[str, object]:
    """Time an epoch of `count` images, as published and by ours."""
    engine, images = Engine(best_precision(), compiled), random_images(case, count)
    labels = torch.randn(count, case.classes, generator=torch.Generator().manual_seed(1))
    reference, fast = published(case, images, labels), ours(case, images, labels, engine)
    plain = ours(case, images, labels, FLOAT32)
    works: dict[str, Callable[[], object]] = {"published": partial(next, reference), "ours": partial(next, fast)}
    if engine != FLOAT32:
        works["ours in float32"] = measured.in_true_float32(partial(next, plain))
    times = measured.per_image(measured.alternate(works, warm_up=3 if compiled else 1), count)
    ratio = times["published"]["ms_per_image"] / times["ours"]["ms_per_image"]
    return {"precision": engine.precision, "compiled": compiled, "times": times, "ratio": round(ratio, 2)}


def tiny_teacher(compiled: bool) -> dict[str, object]:
    """Time steps of squeeze on as many random images as Tiny-ImageNet has; return the minutes of 50 epochs."""
    case, spec = Case(SMALL, 64, 200), Squeeze(epochs=TINY_EPOCHS, batch_size=256)
    labels = torch.arange(TINY_IMAGES) % case.classes
    classifier, data = case.classifier(), Images(random_images(case, TINY_IMAGES), labels)
    classifier.model.requires_grad_(True)
    checkpoint = Checkpoint(Path("nowhere"), classifier.model, make_optimizer(classifier.model, spec.optimizer))
    engine = Engine(best_precision(), compiled)
    steps = train(classifier, checkpoint, data, spec, 0, Accelerator(), engine)

    def take_steps() -> None:
        for _ in range(TINY_STEPS):
            next(steps)

    times = measured.per_image(measured.alternate({"ours": take_steps}), TINY_STEPS * spec.batch_size)
    minutes = TINY_EPOCHS * TINY_IMAGES / times["ours"]["images_per_second"] / 60
    return {"precision": engine.precision, "compiled": compiled, "times": times, "minutes": round(minutes, 2)}


def cases() -> dict[str, Callable[[], dict[str, object]]]:
    """Return the benchmarks for this machine's kind of device, by name."""
    benchmarks: dict[str, Callable[[], dict[str, object]]] = {
        "student resnet18-32": lambda: compare_with_published(Case(SMALL, 32, 100), 25),
        "student quickstart": lambda: compare_with_published(CONVNET, 500),
    }
    if DEVICE.type == "cuda":
        for compiled in (False, True):
            benchmarks[f"teacher tiny-imagenet{' compiled' * compiled}"] = partial(tiny_teacher, compiled)
    return benchmarks


if __name__ == "__main__":
    measured.run("train", cases())
