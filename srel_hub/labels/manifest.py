"""The manifest of a condensed dataset: soft_labels/manifest.json and its fields."""

from dataclasses import dataclass
from typing import Any

import torch

from srel_hub.config import Augment, as_dict
from srel_hub.core.encodings import Encoding, encoding_of
from srel_hub.core.seeds import generator


MANIFEST = "soft_labels/manifest.json"  # its path in the dataset's repository
FORMAT = "srel-soft-labels"
VERSION = 1
PACKED_VERSION = 2  # whose label files hold several epochs
TEACHER_FILES = ("model.safetensors", "config.json")  # whose sha256 a manifest must have
OPTIONAL_TEACHER_FILES = ("preprocessor_config.json",)


@dataclass(frozen=True, kw_only=True)
class TeacherFacts:
    """The network whose logits the labels are.

    Attributes:
        repo_id, tag: Where it is published on the Hub, or None.
        sha256: A digest per file, by file name.
        accuracy: top-1 on the stored images, uncropped, in [0, 1].
        num_classes: How many classes the network has, if it has more than the dataset.
        columns: The index of each of the dataset's classes among the network's logits, if it has more classes. The
            network's config.json has the same list, and labels have these logits only.
    """

    repo_id: str | None
    tag: str | None
    sha256: dict[str, str]
    accuracy: float
    num_classes: int | None = None
    columns: tuple[int, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Member:
    """Another network whose logits are averaged with the teacher's.

    Attributes:
        folder: Its folder in the teacher's repository, `committee-N`.
        sha256: A digest per file, by file name.
    """

    folder: str
    sha256: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class LabelFile:
    """One safetensors file of labels.

    Attributes:
        name: Its name in the folder `soft_labels`.
        epoch: Its first epoch.
        rows: Its rows [start, stop) of each epoch.
        bytes, sha256: Its size and digest.
        epochs: How many consecutive epochs it holds; more than one only in version 2 of the format.
    """

    name: str
    epoch: int
    rows: tuple[int, int]
    bytes: int
    sha256: str
    epochs: int = 1


@dataclass(frozen=True, kw_only=True)
class OtherFile:
    """A file of the dataset's repository that holds no labels; `name` is its path in the repository."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of soft_labels/manifest.json, which describes a condensed dataset.

    Attributes:
        num_images: N, the rows of the split `train`.
        num_classes: K.
        epochs: How many epochs of labels are stored; 0 if the teacher computes them during training.
        image_size: (height, width) of every image in pixels.
        padding: How many pixels a crop may extend beyond the image.
        augment: The crops, flips and mixes that the views were drawn with.
        seed: The recipe's seed.
        encoding: How logits are stored: 'float16', 'uint8', 'topk' or 'none'.
        group_size: How many images shared BatchNorm statistics while they were labeled; None if the teacher was in
            eval mode.
        mean, std: The normalization, per RGB channel.
        class_names: The K names, by class index.
        teacher: The network that computed the labels.
        precision: The floating-point type that the labels were computed in.
        device, torch: The device and the version of torch that computed them.
        image_table_sha256: The digest of all pixels and classes (`condensed_table.image_table_sha256`).
        files: The label files.
        others: All files of the repository except the labels, README.md and the manifest; empty before the repository
            is assembled.
        top_k, top_values: For the encoding 'topk': how many logits of a row are stored, and their data type.
        pool: How a training of more epochs than are stored uses them: 'cycle' or 'draw' (`pool_epoch`).
        committee: Further networks whose logits were averaged with the teacher's.
        kl_error: Mean KL(softmax(z / T) || softmax(z' / T)) of the teacher's logits z and the stored z', by T.
    """

    num_images: int
    num_classes: int
    epochs: int
    image_size: tuple[int, int]
    padding: int
    augment: Augment
    seed: int
    encoding: str
    group_size: int | None
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    class_names: tuple[str, ...]
    teacher: TeacherFacts
    precision: str
    device: str
    torch: str
    image_table_sha256: str
    files: tuple[LabelFile, ...]
    others: tuple[OtherFile, ...]
    top_k: int | None
    top_values: str | None
    pool: str
    committee: tuple[Member, ...]
    kl_error: dict[str, float] | None
    format: str = FORMAT
    version: int = VERSION

    @property
    def coding(self) -> Encoding:
        """How each row of labels is stored."""
        return encoding_of(self.encoding, self.num_classes, self.top_k, self.top_values)

    @property
    def losses(self) -> list[tuple[int, float]]:
        """The KL error of the encoding, by increasing temperature; empty if it was not measured."""
        return sorted((int(T), value) for T, value in (self.kl_error or {}).items())

    def pool_epoch(self, epoch: int) -> int:
        """Return the stored epoch that a training uses as its epoch `epoch`."""
        return pool_epoch(self.pool, self.epochs, self.seed, epoch)


def manifest_values(manifest: Manifest) -> dict[str, Any]:
    """Return a manifest as the plain values that `manifest.json` holds, without fields that do not apply to it."""
    values = as_dict(manifest)
    for name in ("num_classes", "columns"):
        if values["teacher"][name] is None:  # the teacher has the classes of the dataset
            del values["teacher"][name]
    if manifest.version == VERSION:
        for file in values["files"]:
            del file["epochs"]  # always 1; version 1 has no such field
    return values


def pool_epoch(pool: str, stored: int, seed: int, epoch: int) -> int:
    """Return the stored epoch that a training uses as its epoch `epoch`.

    Args:
        pool: 'cycle' uses the stored epochs in turn, 'draw' draws one with replacement.
        stored: How many epochs are stored; with 0, every epoch is computed and `epoch` itself is returned.
        seed: The recipe's seed, which 'draw' draws from.
        epoch: The epoch of the training, from 0.
    """
    if stored == 0:
        return epoch
    if pool == "cycle":
        return epoch % stored
    return int(torch.randint(stored, (), generator=generator(seed, "pool", epoch)))
