"""What decoding the images of a split showed: identical images, and images that become almost black."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from srel_hub.errors import first_few
from srel_hub.storage.decode import Decoded


DIGEST_BYTES = 16  # of each image; two of 10^9 different images are equal with a probability below 10^-20
TWELVE_BITS = 4095  # cameras and scanners store values of 12 bits in 16 bits
EXAMPLES = 3  # of identical images that a remark names
SEPARATOR = "\0"  # of names in a file


@dataclass(frozen=True)
class Examined:
    """The decoded images of a split, or of a part of it.

    Attributes:
        where: the dataset and split, which begin messages.
        rows: the rows of the images in the split, int64 [N].
        labels: int64 [N].
        digests: a digest of each image's pixels and size, uint8 [N, DIGEST_BYTES].
        files: the name of each image's file, or '' if it has none.
        class_names: by index.
        remarks: about images that can be decoded, but lose their content. They are not saved.
    """

    where: str
    rows: Tensor
    labels: Tensor
    digests: Tensor
    files: tuple[str, ...]
    class_names: tuple[str, ...]
    remarks: tuple[str, ...] = ()

    def name(self, index: int) -> str:
        """Return how a message names an image."""
        file = self.files[index]
        return f"row {int(self.rows[index])}" + (f" ({file})" if file else "")

    def labeled(self, index: int) -> str:
        """Return how a message names an image and its class."""
        return f"{self.name(index)}: {self.class_names[int(self.labels[index])]}"


class Examiner:
    """Collects what decoding shows, image by image.

    Args:
        where: the dataset and split, which begin messages.
        count: number of images.
    """

    def __init__(self, where: str, count: int) -> None:
        self._where, self._deep, self._peak = where, 0, 0
        self._digests = np.zeros((count, DIGEST_BYTES), np.uint8)
        self._files = [""] * count

    def add(self, place: int, value: Any, decoded: Decoded) -> None:
        """Add an image: its place among the images, its undecoded value, and what was decoded."""
        pixels = np.ascontiguousarray(decoded.pixels)
        digest = blake2b(str(pixels.shape).encode(), digest_size=DIGEST_BYTES)
        digest.update(pixels.data)
        self._digests[place] = np.frombuffer(digest.digest(), np.uint8)
        self._files[place] = value["path"] or ""
        if decoded.peak is not None:
            self._deep, self._peak = self._deep + 1, max(self._peak, decoded.peak)

    def examined(self, rows: Tensor, labels: Tensor, class_names: tuple[str, ...]) -> Examined:
        """Return the images that were added."""
        digests, files = torch.from_numpy(self._digests), tuple(self._files)
        return Examined(self._where, rows, labels, digests, files, class_names, self._remarks())

    def _remarks(self) -> tuple[str, ...]:
        """Return a remark if images with 16 bits use so little of their range that they become almost black."""
        if not self._deep or self._peak > TWELVE_BITS:
            return ()
        return (
            f"{self._where}: no value of the {self._deep:,} images with 16 bits per channel exceeds {self._peak:,} of "
            "65,535, so they become almost black; if they hold 12 bits, multiply their values by 16, or save them with "
            "8 bits",
        )


def save_examined(file: Path, examined: Examined) -> None:
    """Write a safetensors file that `load_examined` reads."""
    texts = {"where": [examined.where], "files": examined.files, "class_names": examined.class_names}
    tensors = {name: getattr(examined, name).contiguous() for name in ("rows", "labels", "digests")}
    save_file(tensors | {name: _to_bytes(names) for name, names in texts.items()}, file)


def load_examined(file: Path) -> Examined:
    """Read a file that `save_examined` wrote."""
    with safe_open(file, framework="pt") as tensors:
        values = {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118 (not a mapping)
    texts = {name: _to_texts(values.pop(name)) for name in ("where", "files", "class_names")}
    return Examined(where=texts["where"][0], files=texts["files"], class_names=texts["class_names"], **values)


def _to_bytes(names: Sequence[str]) -> Tensor:
    return torch.frombuffer(
        bytearray(SEPARATOR.join(names).encode(errors="surrogateescape") + b"\0"), dtype=torch.uint8
    )


def _to_texts(content: Tensor) -> tuple[str, ...]:
    return tuple(content.numpy().tobytes()[:-1].decode(errors="surrogateescape").split(SEPARATOR))


def copies_within(examined: Examined) -> list[str]:
    """Return remarks about images of a split that are identical: the same class, and different classes."""
    groups = list(_groups(_keys(examined.digests)))
    labels = examined.labels.numpy()
    contradicting = [group for group in groups if len(set(labels[group].tolist())) > 1]
    remarks = []
    if groups:
        copies = sum(len(group) - 1 for group in groups)
        listed = _examples(groups, lambda group: " and ".join(first_few([examined.name(i) for i in group])))
        total = len(examined.rows)
        remarks.append(f"{examined.where}: copies of other images: {copies:,} of {total:,} images: {listed}")
    if contradicting:
        count = sum(map(len, contradicting))
        listed = _examples(contradicting, lambda group: " and ".join(first_few([examined.labeled(i) for i in group])))
        remarks.append(
            f"{examined.where}: identical images with different labels: {count:,}; correct the labels or remove the "
            f"images: {listed}"
        )
    return remarks


def copies_across(one: Examined, other: Examined) -> list[str]:
    """Return a remark if images of one split are identical to images of another."""
    first_with = {key: index for index, key in reversed(list(enumerate(_keys(one.digests).tolist())))}
    keys = _keys(other.digests).tolist()
    pairs = [(first_with[key], index) for index, key in enumerate(keys) if key in first_with]
    if not pairs:
        return []
    listed = _examples(pairs, lambda pair: f"{one.name(pair[0])} and {other.name(pair[1])}")
    differing = sum(int(one.labels[own]) != int(other.labels[theirs]) for own, theirs in pairs)
    labels = f" ({differing:,} of them with another label)" if differing else ""
    return [
        f"{other.where}: images that are also in {one.where}: {len(pairs):,} of {len(keys):,}{labels}, so "
        f"accuracies will be too high; remove the copies: {listed}"
    ]


def _keys(digests: Tensor) -> NDArray[Any]:
    """Return the digests as an array [N] of one value per image."""
    return np.ascontiguousarray(digests.numpy()).view(f"V{DIGEST_BYTES}")[:, 0]


def _groups(keys: NDArray[Any]) -> Iterator[list[int]]:
    """Yield the indices of equal keys, for keys that occur several times, in order of their first index."""
    _, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
    order = np.argsort(inverse, kind="stable")
    bounds = [0, *counts.cumsum().tolist()]
    groups = [order[start:stop].tolist() for start, stop in pairwise(bounds) if stop - start > 1]
    yield from sorted(groups)


def _examples(items: Sequence[Any], describe: Callable[[Any], str]) -> str:
    listed = "; ".join(map(describe, items[:EXAMPLES]))
    return listed + ("; ..." if len(items) > EXAMPLES else "")
