"""Some rows of a split, as a split of its own."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from srel_hub.data.splits import Images, Split
from srel_hub.storage.decode import Frame


@dataclass(frozen=True)
class SelectedSplit:
    """Some rows of another split. Messages about images still state the rows of that split.

    Attributes:
        whole: the other split.
        rows: int64 [N], its rows.
        labels: int64 [N], the classes of these rows, which may be numbered differently than in `whole`.
        part: what messages call the rows, if the other split was divided; '' if it was not.
    """

    whole: Split
    rows: Tensor
    labels: Tensor
    part: str = ""

    @property
    def size(self) -> tuple[int, int]:
        """Return (height, width) of the first of these images, in pixels; decodes it."""
        return self.whole.images(None, self.rows[:1]).size

    @property
    def fingerprint(self) -> str | None:
        """Return the fingerprint of the other split with a digest of the rows and classes (Split.fingerprint)."""
        if self.whole.fingerprint is None:
            return None
        digest = hashlib.sha256(self.rows.numpy().tobytes() + self.labels.numpy().tobytes())
        return f"{self.whole.fingerprint}, rows {digest.hexdigest()}"

    def images(self, frame: Frame | None, rows: Tensor | None = None, file: Path | None = None) -> Images:
        """Decode images (Split.images)."""
        labels, chosen = (self.labels, self.rows) if rows is None else (self.labels[rows], self.rows[rows])
        images = self.whole.images(frame, chosen, file)
        examined = images.examined
        if examined is not None and self.part:
            examined = replace(examined, where=f"{examined.where}, {self.part}")
        return replace(images, labels=labels, examined=examined)

    def select(self, rows: Tensor) -> "SelectedSplit":
        """Return some of these rows, int64 [M], as a split of the same other split."""
        return replace(self, rows=self.rows[rows], labels=self.labels[rows])


def rows_of_whole(split: Split) -> tuple[Split, Tensor]:
    """Return the split that a split is selected from, or the split itself, and the rows in it, int64 [N]."""
    if isinstance(split, SelectedSplit):
        return split.whole, split.rows
    return split, torch.arange(len(split.labels))


def select_rows(split: Split, rows: Tensor) -> SelectedSplit:
    """Return the rows of a split, int64 [M], as a split."""
    if isinstance(split, SelectedSplit):
        return split.select(rows)
    return SelectedSplit(split, rows, split.labels[rows])
