"""The consumer's side: images, labels replayed epoch by epoch, teacher.

    condensed = load_condensed("org/srel-in1k-ipc50", epochs=300, revision="v1.0")
    for epoch in condensed:                        # a torch Dataset an epoch; the next one is fetched meanwhile
        for batch in DataLoader(epoch, batch_size=128, shuffle=True):
            batch["pixel_values"], batch["logits"]

Any batch size, order and number of workers will do: a label belongs to its image's view, not to a batch.
"""

import contextlib
import itertools
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path

import datasets
import pyarrow.parquet
import torch
from torch import Tensor, nn

from srel_hub.core.augment import normalization_table
from srel_hub.core.engine import FLOAT32
from srel_hub.errors import UserError, first_line
from srel_hub.hub.repository import Folder, Repository, Store, open_repository
from srel_hub.labels.epochs import Epoch, sampled_epoch, stored_epoch
from srel_hub.labels.labeller import Labeller, make_labeller
from srel_hub.labels.manifest import TEACHER_FILES, Manifest
from srel_hub.labels.reader import SoftLabels
from srel_hub.runs.machine import total_memory
from srel_hub.storage.condensed_table import decode_untrusted, hide_progress_bars, read_parquet
from srel_hub.storage.files import sha256
from srel_hub.storage.mapped_images import Picture, in_memory, spilled
from srel_hub.teachers import classifier as classifiers
from srel_hub.teachers.classifier import Classifier


MOST_OF_MEMORY = 0.25  # of the machine's, that images may take
READ_OF_TEACHER = (*TEACHER_FILES, "preprocessor_config.json")


class Condensed:
    """A condensed dataset, opened by `load_condensed`. Iterating over it gives its training epochs.

    Attributes:
        manifest: what is known of the labels.
        epochs: how many epochs to train; the stored ones are cycled.
    """

    def __init__(self, store: Store, manifest: Manifest, epochs: int) -> None:
        self.manifest, self.epochs = manifest, epochs
        self._store = store
        self._labels = SoftLabels(manifest, partial(_fetch_labels, store))

    @cached_property
    def download_bytes(self) -> int:
        """What is still to be downloaded, without the teacher; 0 for a folder."""
        return sum(size for size, _ in _wanted(self._store, self.manifest, self.epochs))

    @cached_property
    def _parquet(self) -> list[Path]:
        return [self._store.fetch(name) for name in data_files(self._store, self.manifest)]

    def require_rows(self) -> None:
        """Refuse parquet files of other rows or columns than the manifest's, before any row is read.

        Raises:
            UserError: saying what differs.
        """
        try:
            rows = sum(pyarrow.parquet.read_metadata(file).num_rows for file in self._parquet)
            schemas = [pyarrow.parquet.read_schema(file) for file in self._parquet]
            columns = [datasets.Features.from_arrow_schema(schema) for schema in schemas]
        except Exception as error:  # whatever a stranger's file makes its reader stumble over
            raise UserError(f"{self._store}: data/ cannot be read: {first_line(error)}") from error
        manifest = self.manifest
        if any(set(each) != {"image", "label"} or not isinstance(each["image"], datasets.Image) for each in columns):
            raise UserError(f"{self._store}: data/ has the columns {str(columns)[:200]}, not an image and its class")
        names = [getattr(each["label"], "names", ()) for each in columns]
        if rows != manifest.num_images or any(len(each) != manifest.num_classes for each in names):
            raise UserError(
                f"{self._store}: the labels are for {manifest.num_images} images of {manifest.num_classes} classes, "
                f"the dataset has {rows} of {len(names[0])}: it is not the dataset that was labeled"
            )
        for each in names:
            require_names(f"{self._store}, the dataset", each, manifest)

    @cached_property
    def images(self) -> datasets.DatasetDict:
        """The images and their classes, as `load_dataset` gives them.

        Raises:
            UserError: where they are not those that were labeled.
        """
        _ = self.pixels  # each image is of the right size, so that what is unpacked here is bounded
        with hide_progress_bars():
            return datasets.load_dataset("parquet", data_files={"train": [str(file) for file in self._parquet]})

    @cached_property
    def _decoded(self) -> tuple[Tensor, Tensor]:
        """Pixels and labels, straight from the files: a cache of `datasets` goes by their names and dates."""
        self.require_rows()
        N, (H, W) = self.manifest.num_images, self.manifest.image_size
        labels = torch.empty(N, dtype=torch.int64)
        keep = in_memory if MOST_OF_MEMORY * total_memory() >= N * 3 * H * W else spilled
        try:
            pixels = keep(N, self._pictures(labels))
        except (pyarrow.ArrowException, OSError, TypeError) as error:
            raise UserError(f"{self._store}: data/ cannot be read: {first_line(error)}") from error
        return pixels, labels

    def _pictures(self, labels: Tensor) -> Iterator[Picture]:
        """Every row's picture; its label is put into `labels`."""
        rows = (row for file in self._parquet for row in read_parquet(file))
        for index, (content, own) in enumerate(rows):
            where = f"{self._store}: image {index}"
            if own is None or not 0 <= own < self.manifest.num_classes:
                raise UserError(f"{where}: its class is {own}")
            labels[index] = own
            yield index, decode_untrusted(content, self.manifest.image_size, where).permute(1, 2, 0).numpy()

    @property
    def pixels(self) -> Tensor:
        """All stored images, decoded once: uint8 [N, 3, H, W]; mapped from a temporary file where memory is short.

        Raises:
            UserError: for an image of another size or kind than the manifest says.
        """
        return self._decoded[0]

    @property
    def labels(self) -> Tensor:
        """int64 [N]: the class of every stored image.

        Raises:
            UserError: as `pixels`, and for a row without a class.
        """
        return self._decoded[1]

    def teacher(self) -> nn.Module:
        """The classifier that gave the labels, in eval mode; of several the first.

        Raises:
            UserError: if it is not there, or its weights are not those the manifest names.
        """
        return self.classifier.model

    @property
    def classifier(self) -> Classifier:
        """The teacher with its class names and normalization, on the CPU."""
        return self.classifiers[0]

    @cached_property
    def classifiers(self) -> list[Classifier]:
        """All whose logits were averaged, the teacher first, on the CPU."""
        store = teacher_store(self._store, self.manifest)
        members = [("", self.manifest.teacher.sha256)]
        members += [(f"{member.folder}/", member.sha256) for member in self.manifest.committee]
        return [self._classifier(store, folder, digests) for folder, digests in members]

    def _classifier(self, store: Store, folder: str, digests: Mapping[str, str]) -> Classifier:
        place = store.fetch(f"{folder}config.json").parent
        for name in READ_OF_TEACHER:
            file, expected = store.fetch(f"{folder}{name}"), digests.get(name)
            if expected is not None and sha256(file) != expected:
                raise UserError(
                    f"{store}: not the teacher that labeled this dataset (the sha256 of {folder}{name} differs)"
                )
        return classifiers.load(place, torch.device("cpu"))

    @cached_property
    def labeller(self) -> Labeller:
        """What gives the labels' logits for views uint8 [B, 3, H, W]."""
        return make_labeller(self.classifiers, FLOAT32, torch.device("cpu"), self.manifest.group_size)

    def __len__(self) -> int:
        return self.epochs

    def __getitem__(self, epoch: int) -> Epoch:
        """Training epoch `epoch`; its label file is opened now, and only now."""
        if not 0 <= epoch < self.epochs:
            raise IndexError(f"epoch {epoch} of {self.epochs}")
        manifest = self.manifest
        table = normalization_table(manifest.mean, manifest.std)
        if manifest.epochs == 0:
            return sampled_epoch(self.pixels, self.labeller, manifest.augment, manifest.seed, epoch)
        return stored_epoch(self.pixels, table, self._labels, manifest.pool_epoch(epoch))

    def __iter__(self) -> Iterator[Epoch]:
        for epoch in range(self.epochs):
            current = self[epoch]
            if epoch + 1 < self.epochs and self.manifest.epochs > 0:
                # A daemon, so that nobody who leaves waits for it.
                threading.Thread(
                    target=self._prefetch, args=(self.manifest.pool_epoch(epoch + 1),), daemon=True
                ).start()
            yield current

    def _prefetch(self, epoch: int) -> None:
        with contextlib.suppress(Exception):  # told when the epoch's turn comes
            self._labels.prepare(epoch)


def require_names(who: str, names: Sequence[str], manifest: Manifest) -> None:
    """Refuse other class names than the manifest's, or another order.

    Raises:
        UserError: with the first class that differs.
    """
    for index, (theirs, ours) in enumerate(itertools.zip_longest(names, manifest.class_names)):
        if theirs != ours:
            raise UserError(f"class {index} is {theirs!r} in {who}, {ours!r} in the manifest")


def _fetch_labels(store: Store, name: str) -> Path:
    return store.fetch(f"soft_labels/{name}")


def data_files(store: Store, manifest: Manifest) -> list[str]:
    """The parquet files of the split `train`, in order.

    Raises:
        UserError: where there are none, or one of several is missing.
    """
    there = [
        other.name for other in manifest.others
    ] or store.names()  # the manifest's list is whole, a cache may not be
    names = sorted(name for name in there if name.startswith("data/train-") and name.endswith(".parquet"))
    count = len(names)
    if names != [f"data/train-{index:05d}-of-{count:05d}.parquet" for index in range(count)] or not names:
        raise UserError(f"{store}: data/ holds {', '.join(names) or 'no train-*.parquet'}: it is not complete")
    return names


def teacher_store(store: Store, manifest: Manifest) -> Store:
    """Where the teacher lies: beside a folder, or in the repository that the manifest names.

    Raises:
        UserError, UnavailableError: where it cannot be found.
    """
    if isinstance(store, Folder):
        beside = store.path.resolve().parent / "teacher_repo"
        if beside.is_dir():
            return Folder(beside)
        if manifest.teacher.repo_id is None:
            raise UserError(f"{store}: its teacher was not published, and there is no {beside}")
    if manifest.teacher.repo_id is None:
        raise UserError(f"{store}: its teacher was not published")
    return open_repository(manifest.teacher.repo_id, "model", manifest.teacher.tag, "config.json")


def _wanted(store: Store, manifest: Manifest, epochs: int) -> Iterator[tuple[int, str]]:
    """Size and kind of every file that is needed for these epochs and not here yet."""
    if isinstance(store, Repository) and store.files is not None:
        used = {manifest.pool_epoch(epoch) for epoch in range(epochs)}
        labels = [f"soft_labels/{file.name}" for file in manifest.files if file.epoch in used]
        for kind, names in (("images", data_files(store, manifest)), ("soft labels", labels)):
            for name in names:
                blob = store.blob(name)
                if blob is not None and not (store.snapshot / name).exists():
                    yield blob.size, kind
