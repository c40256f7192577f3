"""The training sets of students: condensed or real images, with soft or hard labels, in augmented or whole views.

All training sets of a protocol see as many epochs of labels, drawn, pooled and encoded alike. Only the images differ.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from srel_hub.config import Augment, Evaluate
from srel_hub.core.encodings import Encoding, decode, encode
from srel_hub.core.seeds import derive_seed, generator
from srel_hub.data.splits import Images, random_subset
from srel_hub.labels.epochs import Epoch, KeptEpoch, sampled_epoch, stored_epoch
from srel_hub.labels.labeller import Labeller
from srel_hub.labels.manifest import Manifest
from srel_hub.labels.reader import SoftLabels
from srel_hub.storage.mapped_images import to_device_if_it_fits


KEPT_BYTES = 256 * 1024**2  # of epochs that several trainings share in memory
WHOLE = Augment(crop="none", flip=False)


@dataclass(frozen=True)
class Kind:
    """How a training set is made.

    Attributes:
        images: 'condensed'; 'random', the same number of real images, drawn again for every seed; or 'real', all real
            images.
        target: 'soft' trains on logits, 'hard' on classes.
        whole: Whether images are used without augmentation.
        pooled: Whether epochs are drawn from the pool of stored labels.
        shared: Whether epochs are kept in memory for other trainings.
    """

    images: Literal["condensed", "random", "real"]
    target: Literal["soft", "hard"]
    whole: bool = False
    pooled: bool = True
    shared: bool = True


# Hard labels need no pool: a view costs nothing without a teacher, so every epoch has new ones.
TRAINING_SETS = {
    "condensed": Kind("condensed", "soft"),
    "random-real": Kind("random", "soft"),
    "random-real-hard": Kind("random", "hard", pooled=False),
    "condensed-hard": Kind("condensed", "hard", pooled=False, shared=False),
    "real-hard": Kind("real", "hard", pooled=False, shared=False),
    "condensed-whole": Kind("condensed", "soft", whole=True),
    "random-real-whole": Kind("random", "soft", whole=True),
}


@dataclass(frozen=True)
class TrainingSet:
    """The training set of one student.

    Attributes:
        labels: int64 [N], the images' classes.
        epoch: A function that returns an epoch by its number.
        hard: Whether the classes are the target instead of the logits.
    """

    labels: Tensor
    epoch: Callable[[int], Epoch]
    hard: bool


def training_set_names(spec: Evaluate, has_eval: bool, has_real: bool) -> tuple[str, ...]:
    """Return the training sets of every student.

    Args:
        spec: The recipe's section.
        has_eval: Whether there is an eval split; nothing is trained without one.
        has_real: Whether the real training split is open.
    """
    if not has_eval:
        return ()
    names = ["condensed"]
    if has_real and spec.baselines:
        names += ["random-real", "random-real-hard"]
    if spec.scores:
        names += ["condensed-hard", "real-hard", "condensed-whole", "random-real-whole"]
    if spec.loss == "hard":  # then these equal `condensed` and `random-real`
        names = [name for name in names if name not in ("random-real-hard", "condensed-hard")]
    return tuple(names)


class SharedEpochs:
    """Epochs that several trainings of this process use, rendered and labeled once.

    It keeps the epochs of the condensed images, and of the random real images of the last seed.

    Args:
        keeps: Whether to keep epochs. If False, every epoch is made each time. This follows from the recipe, because
            labels that are computed on demand depend in their last bit on the number of images in a batch.
    """

    def __init__(self, keeps: bool) -> None:
        self._keeps = keeps
        self._kept = dict[str | int, dict[int, KeptEpoch]]()

    def epoch(self, key: str | int, index: int, make: Callable[[], Epoch]) -> Epoch:
        """Return an epoch, which is made at its first use.

        Args:
            key: 'condensed', or the seed of random real images.
            index: Number of the epoch.
            make: A function that makes the epoch.
        """
        if not self._keeps:
            return make()
        if key not in self._kept:
            self._kept = {key: {}} | {name: epochs for name, epochs in self._kept.items() if name == "condensed"}
        if index not in self._kept[key]:
            self._kept[key][index] = KeptEpoch(make())
        return self._kept[key][index]


def kept_bytes(epochs: int, stored: int, num_images: int, num_classes: int, size: tuple[int, int], real: bool) -> int:
    """Return the number of bytes that `SharedEpochs` would keep: rendered images and their logits.

    Args:
        epochs: Epochs of a training.
        stored: Epochs of stored labels; 0 if none are stored.
        num_images: Number of condensed images.
        num_classes: K.
        size: (height, width).
        real: Whether there are real training sets.
    """
    condensed = min(epochs, stored) if stored else epochs
    return (condensed + epochs * real) * num_images * (3 * size[0] * size[1] + 4 * num_classes)


@dataclass(frozen=True, kw_only=True)
class Material:
    """The data and functions that training sets are made from.

    Attributes:
        spec: The recipe's section.
        seed: The recipe's seed.
        stored: The condensed images' stored labels.
        labeller: A function that labels views on demand.
        condensed: A function that returns the condensed images.
        real: A function that returns some rows of the real training split, or all rows; None if the split is not open.
        real_labels: int64, the classes of the real training split; None if the split is not open.
        shared: Epochs shared by trainings.
        device: The device on which students train.
    """

    spec: Evaluate
    seed: int
    stored: SoftLabels
    labeller: Labeller
    condensed: Callable[[], Images]
    real: Callable[[Tensor | None], Images] | None
    real_labels: Tensor | None
    shared: SharedEpochs
    device: torch.device

    @property
    def manifest(self) -> Manifest:
        """The manifest of the stored labels."""
        return self.stored.manifest


def make_training_set(name: str, seed: int, material: Material) -> TrainingSet:
    """Make a training set.

    A random real subset depends on the seed alone, so all training sets of a seed share it.

    Args:
        name: A key of TRAINING_SETS.
        seed: Number of the training, which seeds its random real images and views.
        material: The data and functions that it is made from.
    """
    kind, manifest = TRAINING_SETS[name], material.manifest
    images = _images(kind, seed, material)
    views_seed = manifest.seed if kind.images == "condensed" else derive_seed(material.seed, "evaluate", seed)
    if kind.whole:
        kept = KeptEpoch(_sampled(images, WHOLE, views_seed, material)(0))
        return TrainingSet(images.labels, lambda epoch: kept, hard=False)
    is_replayed = name == "condensed" and manifest.epochs > 0
    make = _replayed(images, material) if is_replayed else _sampled(images, manifest.augment, views_seed, material)
    key = "condensed" if kind.images == "condensed" else seed

    def epoch(index: int) -> Epoch:
        number = manifest.pool_epoch(index) if kind.pooled else index
        if not kind.shared:
            return make(number)
        return material.shared.epoch(key, number, lambda: make(number))

    return TrainingSet(images.labels, epoch, hard=kind.target == "hard" or material.spec.loss == "hard")


def _images(kind: Kind, seed: int, material: Material) -> Images:
    if kind.images == "condensed":
        return material.condensed()
    assert material.real is not None and material.real_labels is not None, "real images need a training split"
    if kind.images == "real":
        return material.real(None)
    draw = generator(material.seed, "evaluate", "random-real", seed)
    num_classes = material.manifest.num_classes
    ipc = material.manifest.num_images // num_classes
    return material.real(random_subset(material.real_labels, ipc, num_classes, draw))


def _replayed(images: Images, material: Material) -> Callable[[int], Epoch]:
    pixels, table = to_device_if_it_fits(images.pixels, material.device), material.labeller.table
    return lambda epoch: stored_epoch(pixels, table, material.stored, epoch)


def _sampled(images: Images, augment: Augment, seed: int, material: Material) -> Callable[[int], Epoch]:
    """Return a function that makes epochs labeled on demand, with labels encoded as stored ones are."""
    pixels, coding = to_device_if_it_fits(images.pixels, material.device), material.manifest.coding

    def make(epoch: int) -> Epoch:
        sampled = sampled_epoch(pixels, material.labeller, augment, seed, epoch)
        return sampled if coding.name == "none" else _encoded(sampled, coding)

    return make


def _encoded(epoch: Epoch, coding: Encoding) -> Epoch:
    logits = partial(_encoded_logits, epoch, coding)
    return Epoch(epoch.images, epoch.views, epoch.table, logits, epoch.groups)


def _encoded_logits(epoch: Epoch, coding: Encoding, indices: Tensor, shown: Tensor) -> Tensor:
    logits = epoch.logits_of(indices, shown)
    return decode(encode(logits.cpu(), coding), coding).to(logits.device)
