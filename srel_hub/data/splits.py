"""A split of a real dataset. Labels are read and images decoded on demand, as uint8 RGB of one size."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import datasets
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from srel_hub.data.class_names import Classes
from srel_hub.data.examined import Examined, Examiner
from srel_hub.errors import UserError, first_few, reading
from srel_hub.storage.decode import LARGEST_SIDE, SMALLEST_SIDE, Frame, decode, fit, read_picture
from srel_hub.storage.files import atomic_write
from srel_hub.storage.mapped_images import Picture, in_memory, map_pixels, write_pixels


STATISTICS_BATCH = 256  # images whose pixel values are counted at once


class Progress(Protocol):
    """A function that yields items and shows a progress bar (`Run.progress`)."""

    def __call__(self, items: Iterable[Any], total: int | None, title: str, unit: str) -> Iterator[Any]:
        """Yield the items, under a bar with this title that counts up to `total` units."""


@dataclass(frozen=True)
class Images:
    """Decoded images of one size.

    Attributes:
        pixels: uint8 [N, 3, H, W].
        labels: int64 [N].
        examined: what decoding showed; None for data in memory.
    """

    pixels: Tensor
    labels: Tensor
    examined: Examined | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Return (height, width) in pixels."""
        return self.pixels.shape[2], self.pixels.shape[3]


class Split(Protocol):
    """A split that has been found and checked. Its labels are read and its images decoded only on demand."""

    @property
    def labels(self) -> Tensor:
        """Return the class index of every row, int64 [N]."""

    @property
    def size(self) -> tuple[int, int]:
        """Return (height, width) of the first image, in pixels."""

    @property
    def fingerprint(self) -> str | None:
        """Return a string that changes when the data changes, as far as this can be detected without reading the data.

        It is None for data in memory, which needs no cache.
        """

    def images(self, frame: Frame | None, rows: Tensor | None = None, file: Path | None = None) -> Images:
        """Decode images.

        Args:
            frame: the size to resize the images to; None keeps their own size, which must be the same for all.
            rows: int64 [M], the rows to decode, in any order; None for all.
            file: where to store the pixels, which are then memory-mapped; None keeps them in memory.

        Returns:
            the images in the order of `rows`.

        Raises:
            UserError: if rows cannot be read or differ in size. The message lists these rows.
        """


def read_label_column(table: Any, label: str, progress: Progress) -> list[Any]:
    """Return all values of the label column, in row order."""
    with reading(f"the column {label} cannot be read"):
        if isinstance(table, datasets.Dataset):
            return list(table[label][:])
        rows = progress(table.select_columns([label]), None, "read labels", "row")
        return [row[label] for row in rows]


@dataclass(frozen=True)
class TableSplit:
    """A split of a `datasets` table, memory-mapped or streamed.

    Attributes:
        name: the name of the split.
        where: the dataset and split, which begin messages.
        table: `datasets.Dataset` or `datasets.IterableDataset`.
        image: name of the image column.
        label: name of the label column.
        classes: the classes of the label column.
        progress: shown while labels are read or images decoded.
    """

    name: str
    where: str
    table: Any
    image: str
    label: str
    classes: Classes
    progress: Progress

    @cached_property
    def labels(self) -> Tensor:
        """Return the class index of every row, int64 [N]; read once."""
        return self.classes.indices(read_label_column(self.table, self.label, self.progress), self.where)

    def check(self, every_class: bool) -> None:
        """Check the labels and the number of images without decoding images. A streamed split is not read.

        Args:
            every_class: whether every class must have an image.

        Raises:
            UserError: if rows have no class, or classes have no image. The message lists them.
        """
        if isinstance(self.table, datasets.Dataset):
            if len(self.table) == 0:
                raise UserError(f"{self.where}: the split has no images")
            labels = self.labels
            if every_class:
                require_every_class(labels, self.classes.names)

    @property
    def size(self) -> tuple[int, int]:
        """Return (height, width) of the first image, in pixels; decodes it."""
        picture = read_picture(next(self.encoded([0]), None), None, f"{self.where}: row 0")
        _require_sides(picture.shape, self.where)
        height, width, _ = picture.shape
        return height, width

    @property
    def fingerprint(self) -> str:
        """Return the dataset, the split, the column and the fingerprint that `datasets` computed for the table."""
        fingerprint = self.table._fingerprint if isinstance(self.table, datasets.Dataset) else "streamed"
        return f"{self.where}, {self.image}: {fingerprint}"

    def images(self, frame: Frame | None, rows: Tensor | None = None, file: Path | None = None) -> Images:
        """Decode images (Split.images)."""
        rows = torch.arange(len(self.labels)) if rows is None else rows
        # Read in increasing order, because a streamed table has no other, and store each image at its place.
        increasing, places = rows.sort()
        encoded = self.progress(self.encoded(increasing.tolist()), len(rows), f"decode {self.where}", "image")
        numbered = zip(places.tolist(), increasing.tolist(), encoded, strict=True)
        examiner = Examiner(self.where, len(rows))
        pictures = _pictures(numbered, frame, self.where, examiner)
        if file is None:
            pixels = in_memory(len(rows), pictures)
        else:
            with atomic_write(file) as temporary:
                write_pixels(temporary, len(rows), pictures)
            pixels = map_pixels(file)
        labels = self.labels[rows]
        return Images(pixels, labels, examiner.examined(rows, labels, self.classes.names))

    def encoded(self, numbers: Sequence[int]) -> Iterator[Any]:
        """Yield the undecoded images of rows with increasing numbers (the first argument of `decode`)."""
        with reading(f"{self.where}: the images cannot be read"):
            yield from self._encoded(numbers)

    def _encoded(self, numbers: Sequence[int]) -> Iterator[Any]:
        # Other columns may hold images too; `decode=False` leaves the decoding to `decode`.
        table = self.table.select_columns([self.image]).cast_column(self.image, datasets.Image(decode=False))
        if isinstance(table, datasets.Dataset):
            yield from (row[self.image] for row in table.select(numbers))
            return
        remaining = iter(numbers)
        number = next(remaining, None)
        for index, row in enumerate(table):
            if index == number:
                yield row[self.image]
                number = next(remaining, None)
            if number is None:
                return  # the rest of the stream is not downloaded


def require_every_class(labels: Tensor, class_names: Sequence[str]) -> None:
    """Require at least one training image of every class.

    Args:
        labels: the labels of the training split, int64 [N].
        class_names: by index.

    Raises:
        UserError: if a class has no image. The message lists these classes.
    """
    empty = empty_classes(labels, class_names)
    if empty:
        listed = ", ".join(first_few(empty))
        raise UserError(f"the training split has no image of: {listed}; add images or remove these classes")


def empty_classes(labels: Tensor, class_names: Sequence[str]) -> list[str]:
    """Return the names of the classes that do not occur among the labels, int64 [N]."""
    counts = labels.bincount(minlength=len(class_names)).tolist()
    return [name for name, count in zip(class_names, counts, strict=True) if count == 0]


def _pictures(
    encoded: Iterable[tuple[int, int, Any]], frame: Frame | None, where: str, examiner: Examiner
) -> Iterator[Picture]:
    """Decode images one by one.

    Args:
        encoded: for each image the place in the result, the row in the dataset, and the undecoded value.
        frame: the size to resize the images to; None keeps their own size.
        where: the dataset and split, which begin messages.
        examiner: collects what decoding shows.

    Yields:
        the place, and the pixels uint8 [H, W, 3].

    Raises:
        UserError: at the end, if rows cannot be read or differ in size. The message lists all of these rows.
    """
    problems: list[str] = []
    shape: tuple[int, ...] | None = None
    for place, row, value in encoded:
        try:
            decoded = decode(value, frame, f"{where}: row {row}")
        except UserError as error:
            problems.append(str(error))
            continue
        picture = decoded.pixels
        if shape is None:
            shape = picture.shape
            _require_sides(shape, where)
        if picture.shape != shape:
            problems.append(
                f"{where}: row {row} has {picture.shape[1]} x {picture.shape[0]} pixels, but the first image has "
                f"{shape[1]} x {shape[0]}; set source.image_size to resize all images to one size"
            )
            continue
        if not problems:  # after a problem, continue only to find the others
            examiner.add(place, value, decoded)
            yield place, picture
    if problems:
        raise UserError("\n".join(first_few(problems)))
    if shape is None:
        raise UserError(f"{where}: the split has no images")


def _require_sides(shape: tuple[int, ...], where: str) -> None:
    height, width = shape[:2]
    if min(height, width) < SMALLEST_SIDE or max(height, width) > LARGEST_SIDE:
        allowed = f"each side must have {SMALLEST_SIDE} to {LARGEST_SIDE} pixels; set source.image_size to resize them"
        raise UserError(f"{where}: the images have {width} x {height} pixels; {allowed}")


@dataclass(frozen=True)
class DecodedSplit:
    """A split whose images are in memory."""

    whole: Images

    @property
    def labels(self) -> Tensor:
        """Return the class index of every row, int64 [N]."""
        return self.whole.labels

    @property
    def size(self) -> tuple[int, int]:
        """Return (height, width) of the images, in pixels."""
        return self.whole.size

    @property
    def fingerprint(self) -> None:
        """Return None, because data in memory is not cached."""
        return None

    def images(self, frame: Frame | None, rows: Tensor | None = None, file: Path | None = None) -> Images:
        """Return images at `frame` (Split.images); `file` is ignored."""
        chosen = self.whole if rows is None else Images(self.whole.pixels[rows], self.whole.labels[rows])
        if frame is None or frame.size == chosen.size:
            return chosen
        pictures = (Image.fromarray(array) for array in chosen.pixels.permute(0, 2, 3, 1).numpy())
        pixels = torch.from_numpy(np.stack([np.asarray(fit(picture, frame)) for picture in pictures]))
        return Images(pixels.permute(0, 3, 1, 2).contiguous(), chosen.labels)


def channel_statistics(pixels: Tensor) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Return mean and standard deviation of each RGB channel, in [0, 1], rounded to four decimals.

    They are computed from counts of the 256 values, so the result does not depend on the order of a sum.

    Args:
        pixels: uint8 [N, 3, H, W].
    """
    counts = torch.zeros(3, 256, dtype=torch.float64)
    for batch in pixels.split(STATISTICS_BATCH):
        counts += torch.stack([batch[:, channel].flatten().bincount(minlength=256) for channel in range(3)])
    values = torch.arange(256, dtype=torch.float64) / 255
    share = counts / counts.sum(1, keepdim=True)
    mean = share @ values
    std = (share @ values**2 - mean**2).clamp(min=0).sqrt()
    # A constant channel has no deviation to divide by; it gets that of one gray level.
    rounded = [[round(float(v), 4) for v in row] for row in (mean, std.clamp(min=1 / 255))]
    return tuple(rounded[0]), tuple(rounded[1])  # type: ignore[return-value]


def random_subset(labels: Tensor, per_class: int, num_classes: int, generator: torch.Generator) -> Tensor:
    """Draw `per_class` random rows of every class, or all rows of a class that has fewer.

    Returns:
        int64 [M], sorted by class.
    """
    subset = []
    for label in range(num_classes):
        members = (labels == label).nonzero()[:, 0]
        subset.append(members[torch.randperm(len(members), generator=generator)[:per_class]])
    return torch.cat(subset)
