"""Condensed datasets for torch: images, labels replayed epoch by epoch, and the teacher.

    condensed = load_condensed("org/srel-in1k-ipc50", epochs=300, revision="v1.0")
    for epoch in condensed:                        # a torch Dataset per epoch; the next one downloads meanwhile
        for batch in DataLoader(epoch, batch_size=128, shuffle=True):
            batch["pixel_values"], batch["logits"]

Nothing here imports accelerate or the pipeline, and no global state changes. transformers is imported when the teacher
is first used.
"""

import contextlib
import itertools
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, SupportsIndex

import datasets
import pyarrow.parquet
import torch
from torch import Tensor, nn

from srel_hub.config.arguments import whole_number
from srel_hub.core.augment import normalization_table
from srel_hub.core.engine import FLOAT32
from srel_hub.errors import CodeNeededError, UserError, reading
from srel_hub.hub.repository import Store
from srel_hub.labels.epochs import Epoch, sampled_epoch, stored_epoch
from srel_hub.labels.labeller import Labeller, make_labeller
from srel_hub.labels.manifest import OPTIONAL_TEACHER_FILES, TEACHER_FILES, Manifest
from srel_hub.labels.reader import SoftLabels
from srel_hub.labels.repository_files import data_files, label_file_path, missing_downloads, teacher_store
from srel_hub.storage.condensed_table import decode_untrusted, hide_progress_bars, read_parquet
from srel_hub.storage.files import sha256
from srel_hub.storage.mapped_images import Picture, in_memory_or_mapped


if TYPE_CHECKING:
    from srel_hub.teachers.classifier import Classifier

CPU = torch.device("cpu")


class Condensed:
    """A condensed dataset, opened by `load_condensed`. Iterating over it yields its training epochs.

    Attributes:
        manifest: The content of soft_labels/manifest.json, which describes the images and the labels.
        epochs: How many epochs to train. If fewer are stored, they are used repeatedly.

    Examples:
        >>> import torch
        >>> from srel_hub import load_condensed
        >>> condensed = load_condensed("runs/quickstart/dataset", epochs=300)
        >>> condensed.pixels.shape, condensed.labels.shape
        (torch.Size([50, 3, 8, 8]), torch.Size([50]))
        >>> for epoch in condensed:
        ...     pixel_values, logits = epoch.batch(torch.arange(20))
    """

    def __init__(self, store: Store, manifest: Manifest, epochs: int) -> None:
        self.manifest, self.epochs = manifest, epochs
        self._store = store
        self._labels = SoftLabels(manifest, partial(label_file_path, store))

    @cached_property
    def download_bytes(self) -> int:
        """How many bytes are still to be downloaded for these epochs, without the teacher; 0 for a local folder."""
        return sum(size for _, size in missing_downloads(self._store, self.manifest, self.epochs))

    @cached_property
    def _parquet(self) -> list[Path]:
        return [self._store.fetch(name) for name in data_files(self._store, self.manifest)]

    def require_rows(self) -> None:
        """Check that columns, class names and number of rows match the manifest, without reading rows.

        `load_condensed` already runs this check.

        Raises:
            UserError: If anything differs. The message describes the first difference.

        Examples:
            >>> from srel_hub import load_condensed
            >>> load_condensed("runs/quickstart/dataset").require_rows()
        """
        with reading(f"{self._store}: data/ cannot be read"):
            rows = sum(pyarrow.parquet.read_metadata(file).num_rows for file in self._parquet)
            schemas = [pyarrow.parquet.read_schema(file) for file in self._parquet]
            features = [datasets.Features.from_arrow_schema(schema) for schema in schemas]
        manifest = self.manifest
        if any(set(f) != {"image", "label"} or not isinstance(f["image"], datasets.Image) for f in features):
            raise UserError(
                f"{self._store}: data/ has the columns {str(features)[:200]}; it must have an image and its class"
            )
        names = [getattr(f["label"], "names", ()) for f in features]
        if rows != manifest.num_images or any(len(n) != manifest.num_classes for n in names):
            raise UserError(
                f"{self._store}: the labels are for {manifest.num_images} images of {manifest.num_classes} classes, "
                f"but the dataset has {rows} images of {len(names[0])} classes; it is not the dataset that was labeled"
            )
        for file_names in names:
            require_class_names(f"{self._store}, the dataset", file_names, manifest)

    @cached_property
    def images(self) -> datasets.DatasetDict:
        """The images and their classes, as returned by `datasets.load_dataset`, with the split `train`.

        Raises:
            UserError: If the images are not those that were labeled.

        Examples:
            >>> from srel_hub import load_condensed
            >>> row = load_condensed("runs/quickstart/dataset").images["train"][0]
            >>> row["image"].size, row["label"]
            ((8, 8), 0)
        """
        _ = self.pixels  # checks the size of every image, so that hostile files cannot unpack to any size below
        with hide_progress_bars():
            return datasets.load_dataset("parquet", data_files={"train": [str(file) for file in self._parquet]})

    @cached_property
    def _decoded(self) -> tuple[Tensor, Tensor]:
        """Pixels and labels, read from the files, because the cache of `datasets` may be outdated."""
        self.require_rows()
        labels = torch.empty(self.manifest.num_images, dtype=torch.int64)
        with reading(f"{self._store}: data/ cannot be read"):
            pixels = in_memory_or_mapped(len(labels), self.manifest.image_size, self._pictures(labels))
        return pixels, labels

    def _pictures(self, labels: Tensor) -> Iterator[Picture]:
        """Yield the number and the picture of every row, and write the row's class into `labels`."""
        rows = (row for file in self._parquet for row in read_parquet(file))
        for index, (content, row_label) in enumerate(rows):
            where = f"{self._store}: image {index}"
            if row_label is None or not 0 <= row_label < self.manifest.num_classes:
                raise UserError(f"{where}: its class is {row_label}; it must be in [0, {self.manifest.num_classes})")
            labels[index] = row_label
            yield index, decode_untrusted(content, self.manifest.image_size, where).permute(1, 2, 0).numpy()

    @property
    def pixels(self) -> Tensor:
        """All images as stored, uint8 [N, 3, H, W]; decoded on first use.

        They are mapped from a temporary file if they would take more than a quarter of the machine's memory.

        Raises:
            UserError: If the size or file format of an image differs from the manifest.

        Examples:
            >>> from srel_hub import load_condensed
            >>> load_condensed("runs/quickstart/dataset").pixels.dtype
            torch.uint8
        """
        return self._decoded[0]

    @property
    def labels(self) -> Tensor:
        """The class of every image, int64 [N]; read on first use.

        Raises:
            UserError: See `pixels`; also if an image has no class.

        Examples:
            >>> from srel_hub import load_condensed
            >>> load_condensed("runs/quickstart/dataset").labels[:10].tolist()
            [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
        """
        return self._decoded[1]

    def teacher(self) -> nn.Module:
        """Return the network that computed the labels, in eval mode on the CPU; the first one if there were several.

        It is a transformers model: it maps pixel values float32 [B, 3, H, W] to an output with `logits` [B, K]. If the
        published network has more classes than the dataset, these are the logits of the dataset's classes.

        Raises:
            UserError: If the teacher is missing, or its files differ from the manifest.

        Examples:
            >>> import torch
            >>> from srel_hub import load_condensed
            >>> condensed = load_condensed("runs/quickstart/dataset")
            >>> teacher = condensed.teacher()
            >>> pixel_values, logits = condensed[0].batch(torch.arange(20))
            >>> torch.allclose(teacher(pixel_values).logits, logits, rtol=1e-2, atol=1e-2)
            True
        """
        return self.classifier.model

    @property
    def classifier(self) -> "Classifier":
        """The teacher with its class names and normalization, on the CPU."""
        return self.classifiers[0]

    @cached_property
    def classifiers(self) -> list["Classifier"]:
        """All networks whose logits were averaged, the teacher first, on the CPU."""
        store = teacher_store(self._store, self.manifest)
        members = [("", self.manifest.teacher.sha256)]
        members += [(f"{member.folder}/", member.sha256) for member in self.manifest.committee]
        return [self._load_classifier(store, folder, digests) for folder, digests in members]

    def _load_classifier(self, store: Store, folder: str, digests: Mapping[str, str]) -> "Classifier":
        # Imported here: transformers takes a second and imports accelerate, and trainings on stored labels need none.
        from srel_hub.teachers.classifier import load

        place = store.fetch(f"{folder}config.json").parent
        for name in (*TEACHER_FILES, *OPTIONAL_TEACHER_FILES):
            file, expected = store.fetch(f"{folder}{name}"), digests.get(name)
            if expected is not None and sha256(file) != expected:
                raise UserError(
                    f"{store}: this is not the teacher that labeled this dataset (the sha256 of {folder}{name} differs)"
                )
        try:
            return load(place, CPU)
        except CodeNeededError as error:
            raise CodeNeededError(str(error).replace(str(place), f"{store}/{folder}".rstrip("/"))) from None

    @cached_property
    def labeller(self) -> Labeller:
        """The function that computes logits float32 [B, K] from views uint8 [B, 3, H, W], on the CPU."""
        return make_labeller(self.classifiers, FLOAT32, CPU, self.manifest.group_size)

    def __len__(self) -> int:
        """Return the number of training epochs."""
        return self.epochs

    def __getitem__(self, epoch: SupportsIndex) -> Epoch:
        """Return training epoch `epoch`, from 0; its label files are downloaded and checked now.

        Raises:
            IndexError: If there is no such epoch.
            UserError: If a label file differs from the manifest, or `epoch` is not an integer.

        Examples:
            >>> from srel_hub import load_condensed
            >>> condensed = load_condensed("runs/quickstart/dataset", epochs=300)
            >>> len(condensed), len(condensed[299])
            (300, 50)
        """
        number = whole_number("epoch", epoch)
        if not 0 <= number < self.epochs:
            raise IndexError(f"epoch {number} is out of range: there are {self.epochs} epochs")
        manifest = self.manifest
        if manifest.epochs == 0:
            return sampled_epoch(self.pixels, self.labeller, manifest.augment, manifest.seed, number)
        table = normalization_table(manifest.mean, manifest.std)
        return stored_epoch(self.pixels, table, self._labels, manifest.pool_epoch(number))

    def __iter__(self) -> Iterator[Epoch]:
        """Yield the training epochs in order. While one trains, a thread downloads the labels of the next.

        Examples:
            >>> from torch.utils.data import DataLoader
            >>> from srel_hub import load_condensed
            >>> for epoch in load_condensed("runs/quickstart/dataset", epochs=2):
            ...     for batch in DataLoader(epoch, batch_size=50, shuffle=True):
            ...         targets = (batch["logits"] / 4).softmax(1)
        """
        for epoch in range(self.epochs):
            current = self[epoch]
            if epoch + 1 < self.epochs and self.manifest.epochs > 0:
                following = self.manifest.pool_epoch(epoch + 1)
                # A daemon thread, so that a program that leaves the loop does not wait for the download.
                threading.Thread(target=self._prefetch, args=(following,), daemon=True).start()
            yield current

    def _prefetch(self, epoch: int) -> None:
        with contextlib.suppress(Exception):  # the same error is raised when the epoch is used
            self._labels.prepare(epoch)


def require_class_names(owner: str, names: Sequence[str], manifest: Manifest) -> None:
    """Check that class names and their order match the manifest.

    Raises:
        UserError: If a name differs. The message describes the first difference and names the `owner` of the names.
    """
    for index, (name, expected) in enumerate(itertools.zip_longest(names, manifest.class_names)):
        if name != expected:
            raise UserError(f"class {index} is {name!r} in {owner}, but {expected!r} in the manifest")
