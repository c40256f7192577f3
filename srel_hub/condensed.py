"""The consumer's side: images, labels replayed epoch by epoch, teacher.

    condensed = load_condensed("org/srel-in1k-ipc50", epochs=300)
    for epoch in condensed:                        # a torch Dataset an epoch
        for batch in DataLoader(epoch, batch_size=128, shuffle=True):
            batch["pixel_values"], batch["logits"]

Any batch size, order and number of workers will do: a label belongs to its image's view, not to a batch.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import datasets
import torch
from huggingface_hub import hf_hub_download, snapshot_download
from torch import Tensor, nn
from torch.utils.data import Dataset

from srel_hub import recipe
from srel_hub import teacher as classifiers
from srel_hub.augment import Views, normalisation_table, normalise, render, sample_views
from srel_hub.faults import UserError
from srel_hub.images import decode
from srel_hub.run import generator, sha256
from srel_hub.soft_labels import Manifest, SoftLabels, read_manifest
from srel_hub.teacher import Classifier


Logits = Callable[[Tensor, Tensor], Tensor]
TEACHER_FILES = ("model.safetensors", "config.json", "preprocessor_config.json")


class Epoch(Dataset[dict[str, Tensor]]):
    """One epoch: every image in its view of this epoch, with the teacher's logits on it.

    Items are `{"pixel_values": float32 [3, H, W], "logits": float32 [K]}`; the logits are raw, so that the softmax
    temperature is the student's choice.

    Args:
        images: uint8 [N, 3, H, W].
        views: one view of each.
        table: float32 [3, 256] normalisation.
        logits: gives float32 [B, K] for indices [B] and their pixel values [B, 3, H, W].
    """

    def __init__(self, images: Tensor, views: Views, table: Tensor, logits: Logits) -> None:
        self.images, self.views, self.table, self._logits = images, views, table, logits

    def __len__(self) -> int:
        return len(self.images)

    def pixel_values(self, indices: Tensor) -> Tensor:
        """float32 [B, 3, H, W]: the chosen images in their views, normalised."""
        return normalise(render(self.images, self.views, indices), self.table)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Pixel values float32 [B, 3, H, W] and logits float32 [B, K] of the chosen images."""
        pixel_values = self.pixel_values(indices)
        return pixel_values, self._logits(indices, pixel_values)

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Tensor]]:
        pixel_values, logits = self.batch(torch.as_tensor(indices, dtype=torch.int64))
        return [{"pixel_values": x, "logits": z} for x, z in zip(pixel_values, logits, strict=True)]

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        return self.__getitems__([index % len(self)])[0]


def stored_epoch(images: Tensor, table: Tensor, labels: SoftLabels, epoch: int) -> Epoch:
    """An epoch replayed from stored labels."""
    return Epoch(images, labels.views(epoch), table, lambda indices, _: labels.logits(epoch, indices))


def sampled_epoch(images: Tensor, classifier: Classifier, augment: recipe.Augment, seed: int, epoch: int) -> Epoch:
    """An epoch whose views follow from (seed, epoch) and whose labels the teacher is asked for."""
    views, _ = sample_epoch(augment, images, seed, epoch)

    def ask(_: Tensor, pixel_values: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = classifier.model(pixel_values).logits.float()
        return logits

    return Epoch(images, views, classifier.table(images.device), ask)


def sample_epoch(augment: recipe.Augment, images: Tensor, seed: int, epoch: int) -> tuple[Views, Tensor]:
    """One epoch's views, and its visiting order int64 [N], from (seed, epoch) alone."""
    draw = generator(seed, "relabel", epoch)
    views = sample_views(augment, len(images), (images.shape[2], images.shape[3]), draw)
    return views, torch.randperm(len(images), generator=draw)


class Condensed:
    """A condensed dataset, opened by `load_condensed`. Iterating over it gives its training epochs.

    Attributes:
        images: the `DatasetDict` that `load_dataset` gives.
        manifest: what is known of the labels.
        epochs: how many epochs to train; the stored ones are cycled.
    """

    def __init__(
        self, images: datasets.DatasetDict, labels: SoftLabels, teacher_folder: Callable[[], Path], epochs: int
    ):
        self.images, self.manifest, self.epochs = images, labels.manifest, epochs
        self._labels, self._teacher_folder = labels, teacher_folder

    @cached_property
    def pixels(self) -> Tensor:
        """All stored images, decoded once: uint8 [N, 3, H, W]."""
        train = self.images["train"].cast_column("image", datasets.Image(decode=False))
        return torch.stack([decode(image["bytes"]) for image in train["image"]])

    @cached_property
    def labels(self) -> Tensor:
        """int64 [N]: the class of every stored image."""
        return torch.tensor(self.images["train"]["label"][:])

    def teacher(self) -> nn.Module:
        """The classifier that gave the labels, in eval mode.

        Raises:
            UserError: if it is not there, or its weights are not those the manifest names.
        """
        return self._classifier.model

    @cached_property
    def _classifier(self) -> Classifier:
        folder = self._teacher_folder()
        for name, expected in self.manifest.teacher.sha256.items():
            if not (folder / name).is_file():
                raise UserError(f"{folder / name}: the teacher is missing; publish or copy it beside the dataset")
            if sha256(folder / name) != expected:
                raise UserError(f"{folder / name}: not the teacher that labelled this dataset (sha256 differs)")
        return classifiers.load(folder, torch.device("cpu"))

    def __len__(self) -> int:
        return self.epochs

    def __getitem__(self, epoch: int) -> Epoch:
        """Training epoch `epoch`; its label file is opened now, and only now."""
        if not 0 <= epoch < self.epochs:
            raise IndexError(f"epoch {epoch} of {self.epochs}")
        manifest = self.manifest
        if manifest.epochs == 0:
            return sampled_epoch(self.pixels, self._classifier, manifest.augment, manifest.seed, epoch)
        table = normalisation_table(manifest.mean, manifest.std)
        return stored_epoch(self.pixels, table, self._labels, epoch % manifest.epochs)

    def __iter__(self) -> Iterator[Epoch]:
        return (self[epoch] for epoch in range(self.epochs))


def load_condensed(path: str | Path, epochs: int | None = None) -> Condensed:
    """Open a condensed dataset.

    Args:
        path: a Hub dataset id, or a folder such as `runs/quickstart/dataset`.
        epochs: how many epochs will be trained; by default as many as are stored.

    Raises:
        UserError: where there is no such dataset, for a label format this version does not know, or for labels that
            do not fit the images.
    """
    local = Path(path).is_dir()
    fetch = _local(Path(path)) if local else _hub(str(path))
    manifest = read_manifest(fetch("soft_labels/manifest.json"))
    if epochs is None:
        epochs = manifest.epochs
    if epochs < 1:
        raise UserError(f"epochs={epochs}: give the number of epochs to train (stored: {manifest.epochs})")
    images = datasets.load_dataset(str(path))
    _check(path, manifest, images)
    labels = SoftLabels(manifest, lambda name: fetch(f"soft_labels/{name}"))
    return Condensed(images, labels, lambda: _teacher_folder(path, manifest), epochs)


def _check(path: str | Path, manifest: Manifest, images: datasets.DatasetDict) -> None:
    train = images["train"]
    names = tuple(train.features["label"].names)
    if len(train) != manifest.num_images or names != manifest.class_names:
        raise UserError(
            f"{path}: the labels are for {manifest.num_images} images of {len(manifest.class_names)} classes, the "
            f"dataset has {len(train)} of {len(names)}, or other class names: it is not the dataset that was labelled"
        )


def _local(folder: Path) -> Callable[[str], Path]:
    if (folder / "dataset" / "data").is_dir():
        raise UserError(f"{folder} is a run; the dataset in it is {folder / 'dataset'}")

    def fetch(name: str) -> Path:
        if not (folder / name).is_file():
            raise UserError(f"{folder / name} is missing: {folder} is no complete condensed dataset")
        return folder / name

    return fetch


def _hub(repo_id: str) -> Callable[[str], Path]:
    def fetch(name: str) -> Path:
        try:
            return Path(hf_hub_download(repo_id, name, repo_type="dataset"))
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"{repo_id}: no local folder, and {name} could not be had from the Hub: {reason}"
            ) from error

    return fetch


def _teacher_folder(path: str | Path, manifest: Manifest) -> Path:
    beside = Path(path).resolve().parent / "teacher_repo"
    if Path(path).is_dir() and beside.is_dir():
        return beside
    if manifest.teacher.repo_id is None:
        raise UserError(f"{path}: its teacher was not published, and there is no {beside}")
    revision = manifest.teacher.tag
    return Path(snapshot_download(manifest.teacher.repo_id, revision=revision, allow_patterns=list(TEACHER_FILES)))
