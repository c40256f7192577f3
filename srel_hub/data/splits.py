"""A split of a real dataset: labels read and images decoded when called for, as uint8 RGB of one size."""

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

from srel_hub.data.class_names import SHOWN, Classes, more
from srel_hub.errors import UserError
from srel_hub.storage.decode import LARGEST_SIDE, SMALLEST_SIDE, Frame, fit, read_picture
from srel_hub.storage.files import atomic_write
from srel_hub.storage.mapped_images import Picture, in_memory, map_pixels, write_pixels


COUNTED = 256  # images at once


class Progress(Protocol):
    """Passes items on and shows how far they are (`Run.progress`)."""

    def __call__(self, items: Iterable[Any], total: int | None, title: str, unit: str) -> Iterator[Any]: ...


@dataclass(frozen=True)
class Images:
    """Decoded images: `pixels` uint8 [N, 3, H, W], `labels` int64 [N]."""

    pixels: Tensor
    labels: Tensor

    @property
    def size(self) -> tuple[int, int]:
        return self.pixels.shape[2], self.pixels.shape[3]


class Split(Protocol):
    """One split, found and checked. Its labels are read, and its images decoded, only when called for."""

    @property
    def labels(self) -> Tensor:
        """int64 [N]."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the first image."""

    @property
    def fingerprint(self) -> str | None:
        """Changes with the data, as far as that can be known without reading it; None for data in memory."""

    def images(self, frame: Frame | None, rows: Tensor | None = None, file: Path | None = None) -> Images:
        """These rows (int64, in any order; None: all), each brought to `frame`; None leaves the images as they are.

        Args:
            file: where the pixels are kept and mapped from; None: in memory.

        Raises:
            UserError: naming the rows that cannot be read, or that differ in size.
        """


def read_label_column(table: Any, label: str, progress: Progress) -> list[Any]:
    """All values of the label column."""
    if isinstance(table, datasets.Dataset):
        return list(table[label][:])
    rows = progress(table.select_columns([label]), None, "read labels", "row")
    return [row[label] for row in rows]


@dataclass(frozen=True)
class TableSplit:
    """A split of a `datasets` table, in memory-mapped rows or streamed."""

    name: str
    where: str
    table: Any
    image: str
    label: str
    classes: Classes
    progress: Progress

    @cached_property
    def labels(self) -> Tensor:
        return self.classes.indices(read_label_column(self.table, self.label, self.progress), self.where)

    def check(self, every_class: bool) -> None:
        """What can be known without decoding; a streamed split is not read for it.

        Raises:
            UserError: naming rows without a class, or classes without a row.
        """
        if isinstance(self.table, datasets.Dataset):
            if len(self.table) == 0:
                raise UserError(f"{self.where}: there are no images")
            labels = self.labels
            if every_class:
                require_every_class(labels, self.classes.names)

    @property
    def size(self) -> tuple[int, int]:
        _, picture = next(_pictures(zip([0], [0], self._encoded([0]), strict=True), None, self.where))
        height, width, _ = picture.shape
        return height, width

    @property
    def fingerprint(self) -> str:
        known = self.table._fingerprint if isinstance(self.table, datasets.Dataset) else "streamed"
        return f"{self.where}, {self.image}: {known}"

    def images(self, frame: Frame | None, rows: Tensor | None = None, file: Path | None = None) -> Images:
        wanted = torch.arange(len(self.labels)) if rows is None else rows
        rising, order = wanted.sort()
        encoded = self.progress(self._encoded(rising.tolist()), len(rising), f"decode {self.where}", "image")
        pictures = _pictures(zip(order.tolist(), rising.tolist(), encoded, strict=True), frame, self.where)
        if file is None:
            return Images(in_memory(len(wanted), pictures), self.labels[wanted])
        with atomic_write(file) as temporary:
            write_pixels(temporary, len(wanted), pictures)
        return Images(map_pixels(file), self.labels[wanted])

    def _encoded(self, numbers: Sequence[int]) -> Iterator[Any]:
        """The undecoded image of these rows, which rise."""
        table = self.table.select_columns([self.image]).cast_column(self.image, datasets.Image(decode=False))
        if isinstance(table, datasets.Dataset):
            yield from (row[self.image] for row in table.select(numbers))
            return
        wanted = iter(numbers)
        number = next(wanted, None)
        for index, row in enumerate(table):
            if index == number:
                yield row[self.image]
                number = next(wanted, None)
            if number is None:
                return


def require_every_class(labels: Tensor, class_names: Sequence[str]) -> None:
    """Refuse a training split that lacks a class.

    Raises:
        UserError: naming the empty classes.
    """
    counts = labels.bincount(minlength=len(class_names)).tolist()
    empty = [name for name, count in zip(class_names, counts, strict=True) if count == 0]
    if empty:
        listed = ", ".join(empty[:SHOWN] + more(empty))
        raise UserError(f"the training split has no image of: {listed}; add some or remove the class")


def _pictures(encoded: Iterable[tuple[int, int, Any]], frame: Frame | None, where: str) -> Iterator[Picture]:
    """Decode (place, row, value) one by one, to places and pictures uint8 [H, W, 3].

    Raises:
        UserError: at the end, naming the rows that cannot be read or differ in size.
    """
    faults: list[str] = []
    shape: tuple[int, ...] | None = None
    for place, row, value in encoded:
        try:
            picture = read_picture(value, frame, f"{where}: row {row}")
        except UserError as error:
            faults.append(str(error))
            continue
        if shape is None:
            shape = picture.shape
            _require_sides(shape, where)
        if picture.shape != shape:
            faults.append(
                f"{where}: row {row} is {picture.shape[1]} x {picture.shape[0]} pixels, the first is {shape[1]} "
                f"x {shape[0]}; set source.image_size to bring all images to one size"
            )
            continue
        if not faults:
            yield place, picture
    if faults:
        raise UserError("\n".join(faults[:SHOWN] + more(faults)))
    if shape is None:
        raise UserError(f"{where}: there are no images")


def _require_sides(shape: tuple[int, ...], where: str) -> None:
    height, width = shape[:2]
    if min(height, width) < SMALLEST_SIDE or max(height, width) > LARGEST_SIDE:
        allowed = f"{SMALLEST_SIDE} to {LARGEST_SIDE} a side; set source.image_size"
        raise UserError(f"{where}: images of {width} x {height} pixels; allowed are {allowed}")


@dataclass(frozen=True)
class DecodedSplit:
    """A split that is in memory already."""

    whole: Images

    @property
    def labels(self) -> Tensor:
        return self.whole.labels

    @property
    def size(self) -> tuple[int, int]:
        return self.whole.size

    @property
    def fingerprint(self) -> None:
        return None

    def images(self, frame: Frame | None, rows: Tensor | None = None, file: Path | None = None) -> Images:
        chosen = self.whole if rows is None else Images(self.whole.pixels[rows], self.whole.labels[rows])
        if frame is None or frame.size == chosen.size:
            return chosen
        pictures = (Image.fromarray(array) for array in chosen.pixels.permute(0, 2, 3, 1).numpy())
        pixels = torch.from_numpy(np.stack([np.asarray(fit(picture, frame)) for picture in pictures]))
        return Images(pixels.permute(0, 3, 1, 2).contiguous(), chosen.labels)


def channel_statistics(pixels: Tensor) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and standard deviation per RGB channel in [0, 1], to four places."""
    counts = torch.zeros(3, 256, dtype=torch.float64)
    for some in pixels.split(COUNTED):
        counts += torch.stack([some[:, channel].flatten().bincount(minlength=256) for channel in range(3)])
    values = torch.arange(256, dtype=torch.float64) / 255
    share = counts / counts.sum(1, keepdim=True)
    mean = share @ values
    std = (share @ values**2 - mean**2).clamp(min=0).sqrt()
    rounded = [[round(float(v), 4) for v in row] for row in (mean, std.clamp(min=1 / 255))]
    return tuple(rounded[0]), tuple(rounded[1])  # type: ignore[return-value]


def random_subset(labels: Tensor, per_class: int, num_classes: int, generator: torch.Generator) -> Tensor:
    """Rows (int64) of `per_class` random images of every class, of all of a class that has fewer."""
    chosen = []
    for label in range(num_classes):
        members = (labels == label).nonzero()[:, 0]
        chosen.append(members[torch.randperm(len(members), generator=generator)[:per_class]])
    return torch.cat(chosen)
