"""Estimate the disk space that a run takes at its peak, from the recipe, the sizes of the data and the networks."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from srel_hub.config import Optimizer, Recipe
from srel_hub.core.bn_matching import batchnorm_layers
from srel_hub.core.encodings import recipe_encoding
from srel_hub.data.splits import Split
from srel_hub.labels.epoch_files import epoch_parts, row_bytes
from srel_hub.labels.packing import epochs_per_file
from srel_hub.stages.inputs import Inputs
from srel_hub.storage.files import format_bytes
from srel_hub.teachers.cost_model import state_bytes, weights_bytes


BLOCK = 4096  # bytes of a disk's smallest part, which a file of any size takes
UNIT_FILES = 3  # small files of a unit of work: its mark, and two results
SHOWN = 10 * 43  # real images that the pictures show at most


@dataclass(frozen=True)
class DiskUse:
    """The bytes that a run takes at its peak, which is when the dataset is assembled.

    Pictures are left out: they take about a megabyte. A reduced run of best/cifar10_ipc10 on 2,000 images took 24.8 MiB
    (`du`) where this estimate is 24.1 MiB.

    Attributes:
        images: The condensed images as PNG, once as the run's shards and once as the dataset's.
        labels: The soft labels. The dataset shares their files with the run through hard links, but has files of its
            own if they are packed.
        teachers: The networks.
        real: Patches and class statistics of real images, if recover uses them.
        temporary: Decoded images and checkpoints, which are removed at the end.
        small: Many small files: marks, results and logs.
    """

    images: int
    labels: int
    teachers: int
    real: int
    temporary: int
    small: int

    @property
    def total(self) -> int:
        """All bytes together."""
        return self.images + self.labels + self.teachers + self.real + self.temporary + self.small

    def __str__(self) -> str:
        """Return the total and its parts."""
        parts = {
            "images": self.images,
            "soft labels": self.labels,
            "teachers": self.teachers,
            "patches and class statistics": self.real,
            "small files": self.small,
            "temporarily decoded images and checkpoints": self.temporary,
        }
        shown = ", ".join(f"{name} {format_bytes(size)}" for name, size in parts.items() if size)
        return f"{format_bytes(self.total)} ({shown})"


def disk_use(
    recipe: Recipe,
    num_classes: int,
    size: tuple[int, int],
    decoded: int,
    teachers: Mapping[str, nn.Module],
    trained: Mapping[str, nn.Module],
) -> DiskUse:
    """Return the bytes that a run takes at its peak.

    Args:
        recipe: The recipe.
        num_classes: Number of classes of the condensed dataset.
        size: (height, width) of its images in pixels.
        decoded: The result of `decoded_images`.
        teachers: All teachers, by their folder in the run.
        trained: The networks that the run trains, by the field of the recipe.
    """
    recover, relabel, evaluate = recipe.recover, recipe.relabel, recipe.evaluate
    count = num_classes * recover.ipc
    png = count * png_bytes(size)
    epochs, encoding = 0 if relabel.encoding == "none" else relabel.epochs, recipe_encoding(relabel, num_classes)
    parts = len(epoch_parts(count, encoding, relabel.augment.mix)) if count else 0  # 0: the given images have an error
    copies = 1 if epochs_per_file(epochs, parts) == 1 else 2
    matched = [network for folder, network in teachers.items() if folder in recipe.recover_folders]
    statistics = sum(
        2 * 4 * num_classes * layer.num_features for network in matched for layer in batchnorm_layers(network)
    )
    trainings = len(evaluate.students) * evaluate.seeds * (7 if evaluate.scores else 3)
    return DiskUse(
        images=2 * png,
        labels=copies * epochs * count * row_bytes(encoding, relabel.augment.mix),
        teachers=sum(weights_bytes(network) for network in teachers.values()),
        real=(png if recover.patches is not None else 0) + (statistics if recover.statistics == "class" else 0),
        temporary=decoded * 3 * size[0] * size[1] + _checkpoint_bytes(recipe, trained),
        small=BLOCK * UNIT_FILES * (epochs + trainings),
    )


def png_bytes(size: tuple[int, int]) -> int:
    """Return an upper bound of the bytes of one RGB image as PNG.

    Noise does not compress, so the file takes up to 1 % more than the pixels, plus 160 bytes of fixed parts.

    Args:
        size: (height, width) in pixels.
    """
    return math.ceil(1.01 * 3 * size[0] * size[1]) + 160


def _checkpoint_bytes(recipe: Recipe, trained: Mapping[str, nn.Module]) -> int:
    """Return the size of the largest checkpoint of a training, twice: a new one replaces the old one when complete."""
    sizes = [0]
    for field, network in trained.items():
        is_student = not field.startswith("squeeze")
        optimizer = recipe.evaluate.optimizer if is_student else recipe.squeeze.optimizer
        averages = 1 if is_student and recipe.evaluate.ema is not None else 0
        sizes.append(state_bytes(network) * (1 + averages + _moments(optimizer)))
    return 2 * max(sizes)


def _moments(optimizer: Optimizer) -> int:
    """Return how many numbers an optimizer keeps for each weight."""
    return 2 if optimizer.kind == "adamw" else 1


def decoded_images(recipe: Recipe, inputs: Inputs) -> int:
    """Return how many decoded images a run stores until it ends.

    Every random draw of real images is stored by itself, also if it has the same images as another one.
    """
    spec, total = recipe.recover, len(inputs.class_names) * recipe.recover.ipc
    train, evaluation = _on_disk(inputs.source.train), _on_disk(inputs.source.eval)
    # Squeeze stores images of their own size; the later stages store them again as the teacher's frame.
    copies = 2 if inputs.frame is None else 1
    if evaluation is not None:
        total += copies * len(evaluation.labels)
    if train is not None:
        compares = evaluation is not None and (recipe.evaluate.baselines or recipe.evaluate.scores)
        if recipe.evaluate.scores:
            total += copies * len(train.labels)
        elif recipe.squeeze.pretrained is None:
            total += len(train.labels)
        total += recipe.evaluate.seeds * _drawn(train, spec.ipc) if compares else 0
        total += _drawn(train, spec.patches.images) if spec.patches is not None else 0
        total += _drawn(train, spec.statistics_images) if spec.statistics == "class" else 0
    if recipe.pictures and (train is not None or evaluation is not None):
        total += SHOWN
    return total


def _on_disk(split: Split | None) -> Split | None:
    """Return the split, or None if its images need no decoding, because they are in memory."""
    return None if split is None or split.fingerprint is None else split


def _drawn(train: Split, per_class: int) -> int:
    """Return the size of a random subset with `per_class` images of each class, or all of a smaller class."""
    return int(train.labels.bincount().clamp(max=per_class).sum())
