"""Statistics of each class's real images in a teacher's BatchNorm layers (LPLD, Xiao & He, 2024, section 4.1).

With `recover.statistics: class`, the images of a class match these statistics instead of the running statistics.
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
from srel_hub.storage.files import atomic_write
from srel_hub.teachers.class_subset import complete_network
from srel_hub.teachers.classifier import Classifier


FOLDER = "statistics"  # in the run directory; also the name of its units
Statistics = list[tuple[Tensor, Tensor]]  # of each layer: mean and biased variance, each float32 [K, C]


@torch.no_grad()
def of_each_class(classifier: Classifier, pixels: Tensor, members: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Measure, class by class, the inputs of every BatchNorm layer in eval mode.

    Args:
        classifier: The teacher.
        pixels: uint8 [N, 3, H, W].
        members: For each class, int64 positions of its images in `pixels`.

    Yields:
        For each class, a list with the mean and biased variance of each layer, float64 [2, C], over images and pixels.
    """
    model, batch = complete_network(classifier.model).eval(), prediction_batch(classifier.size)
    device = next(model.parameters()).device
    table = classifier.table(device)
    for positions in members:
        with _moments(batchnorm_layers(model)) as moments:
            for part in positions.split(batch):
                model(normalize(pixels[part].to(device), table))
        yield [torch.stack([total / n, square / n - (total / n).square()]).cpu() for total, square, n in moments]


@contextmanager
def _moments(layers: Sequence[nn.BatchNorm2d]) -> Iterator[list[tuple[Tensor, Tensor, int]]]:
    """Sum up the inputs of every layer in the `with` block: sum and sum of squares, float64 [C], and their count."""
    sums = [(torch.zeros(()), torch.zeros(()), 0)] * len(layers)

    def add(index: int, x: Tensor) -> None:
        total, square, count = sums[index]
        x = x.double()  # squares of a class of 1000 images lose digits in float32
        sums[index] = (total + x.sum((0, 2, 3)), square + x.square().sum((0, 2, 3)), count + x[:, 0].numel())

    handles = [
        layer.register_forward_pre_hook(lambda _, args, index=index: add(index, args[0]))
        for index, layer in enumerate(layers)
    ]
    try:
        yield sums
    finally:
        for handle in handles:
            handle.remove()


def save(file: Path, classes: Sequence[Sequence[Tensor]]) -> None:
    """Write the results of `of_each_class` as one file: for each layer float32 [K, 2, C]."""
    layers = [torch.stack(list(layer)).float() for layer in zip(*classes, strict=True)]
    with atomic_write(file) as temporary:
        save_file({f"layer-{index:04d}": layer for index, layer in enumerate(layers)}, temporary)


def load(file: Path, device: torch.device) -> Statistics:
    """Read a file that `save` wrote."""
    stored = load_file(file)
    layers = [stored[name].to(device) for name in sorted(stored)]
    return [(layer[:, 0].contiguous(), layer[:, 1].clamp(min=0).contiguous()) for layer in layers]
