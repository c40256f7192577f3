"""What each class's real images look like to a teacher's BatchNorm layers (LPLD, Xiao & He, 2024, section 4.1).

`recover.statistics: class` matches the images of one class to these, in place of the layers' running statistics.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from srel_hub.core.augment import normalize
from srel_hub.core.bn_matching import batchnorm_layers
from srel_hub.core.metrics import prediction_batch
from srel_hub.core.seeds import generator
from srel_hub.data.splits import Split, random_subset
from srel_hub.runs.decoded_images import source_images
from srel_hub.runs.run import Run
from srel_hub.runs.work_queue import Work
from srel_hub.storage.files import atomic_write
from srel_hub.teachers.classifier import Classifier


FOLDER = "statistics"
Statistics = list[tuple[Tensor, Tensor]]  # of each layer: mean and biased variance, each float32 [K, C]


def measure_statistics(run: Run, classifiers: dict[str, Classifier], train: Split) -> Path:
    """Measure and keep those of every teacher that are not marked yet: `statistics/FOLDER.safetensors`.

    Args:
        classifiers: by the run's folder; all take images of the first one's frame.

    Returns:
        their folder.
    """
    first = next(iter(classifiers.values()))
    K, count = len(first.class_names), run.recipe.recover.statistics_images
    rows = random_subset(train.labels, count, K, generator(run.recipe.seed, "recover", FOLDER))
    images = source_images(run, train, first.frame, rows)
    members = [(images.labels == label).nonzero()[:, 0] for label in range(K)]
    with Work(run, FOLDER, dict.fromkeys(classifiers, K), "class") as work:
        for folder in work:
            steps = of_each_class(classifiers[folder], images.pixels, members)
            file = run.path(FOLDER, f"{folder}.safetensors")
            save(file, list(work.steps(steps)))
            work.done([file])
    return run.path(FOLDER)


@torch.no_grad()
def of_each_class(classifier: Classifier, pixels: Tensor, members: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """A class a step: of each layer float64 [2, C], the mean and biased variance of its inputs in eval mode, over all
    of the class's images and places.

    Args:
        pixels: uint8 [N, 3, H, W]; members: of each class, where its images are.
    """
    model, batch = classifier.model.eval(), prediction_batch(classifier.size)
    device = next(model.parameters()).device
    table = classifier.table(device)
    for places in members:
        with _moments(batchnorm_layers(model)) as moments:
            for some in places.split(batch):
                model(normalize(pixels[some].to(device), table))
        yield [torch.stack([total / n, square / n - (total / n).square()]).cpu() for total, square, n in moments]


@contextmanager
def _moments(layers: Sequence[nn.BatchNorm2d]) -> Iterator[list[tuple[Tensor, Tensor, int]]]:
    """Within it, sums and sums of squares, each float64 [C], of what goes into every layer, and how many there are."""
    found = [(torch.zeros(()), torch.zeros(()), 0)] * len(layers)

    def watch(index: int, x: Tensor) -> None:
        total, square, count = found[index]
        x = x.double()
        found[index] = (total + x.sum((0, 2, 3)), square + x.square().sum((0, 2, 3)), count + x[:, 0].numel())

    handles = [
        layer.register_forward_pre_hook(lambda _, args, index=index: watch(index, args[0]))
        for index, layer in enumerate(layers)
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def save(file: Path, classes: Sequence[Sequence[Tensor]]) -> None:
    """Classes as `of_each_class` gives them, in one file: of each layer float32 [K, 2, C]."""
    layers = [torch.stack(list(each)).float() for each in zip(*classes, strict=True)]
    with atomic_write(file) as temporary:
        save_file({f"layer-{index:04d}": layer for index, layer in enumerate(layers)}, temporary)


def load(file: Path, device: torch.device) -> Statistics:
    """Of each layer mean and variance, each float32 [K, C]."""
    layers = load_file(file)
    both = [layers[name].to(device) for name in sorted(layers)]
    return [(layer[:, 0].contiguous(), layer[:, 1].clamp(min=0).contiguous()) for layer in both]
