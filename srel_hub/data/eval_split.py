"""An eval split for a dataset without one (`source.eval_fraction`): a part of each class's training images.

The choice depends on the bytes of the images and on a seed. It is therefore the same for any order and any names of
files or rows. Identical images of a class stay on the same side, so that none is both trained and scored on.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import torch
from torch import Tensor

from srel_hub import config
from srel_hub.data.selected_split import rows_of_whole, select_rows
from srel_hub.data.splits import Split, TableSplit
from srel_hub.errors import UserError, first_few, reading


EVAL_SPLITS = ("test", "validation", "valid", "val", "eval", "dev")  # names that an eval split goes by


@dataclass(frozen=True)
class MadeSplit:
    """How an eval split was made, for the cards.

    Attributes:
        fraction: the share of each class's images that was requested.
        seed: `source.eval_seed`.
        train_images: images that are left for training.
        eval_images: images that were set aside.
        sha256: a digest of the eval images, which does not depend on their order.
    """

    fraction: float
    seed: int
    train_images: int
    eval_images: int
    sha256: str


def require_no_eval_split(spec: config.Source, available: Sequence[str]) -> None:
    """Check that a dataset to divide has no eval split, unless the recipe sets `eval_split` to null.

    Args:
        spec: the recipe's section.
        available: the names of the dataset's splits.

    Raises:
        UserError: if there is an eval split. The message names it.
    """
    if spec.eval_split is None:
        return
    existing = [name for name in (spec.eval_split, *EVAL_SPLITS) if name in available and name != spec.train_split]
    if existing:
        raise UserError(
            f"source.eval_fraction={spec.eval_fraction:g}: {spec.path} already has the split {existing[0]}; remove "
            f"source.eval_fraction and set source.eval_split={existing[0]} to use it, or set source.eval_split=null to "
            "divide the training split anyway"
        )


def divide(split: Split, class_names: Sequence[str], spec: config.Source) -> tuple[Split, Split, MadeSplit]:
    """Divide a training split into training and eval images.

    Args:
        split: the training split.
        class_names: by index.
        spec: the recipe's section, which sets `eval_fraction` and `eval_seed`.

    Returns:
        the training images, the eval images, and how they were divided.

    Raises:
        UserError: if a class has too few different images, or the split is streamed.
    """
    fraction, seed = spec.eval_fraction, spec.eval_seed
    assert fraction is not None
    where = f"source.eval_fraction={fraction:g}"
    keys = [hashlib.sha256(f"{seed} {digest}".encode()).hexdigest() for digest in _digests(split, where)]
    is_eval = torch.zeros(len(keys), dtype=torch.bool)
    too_small = []
    for label, name in enumerate(class_names):
        rows = (split.labels == label).nonzero()[:, 0].tolist()
        groups = _identical(rows, keys)
        if len(groups) < 2:
            too_small.append(f"{name!r} has {len(rows)} image{'s' if len(rows) != 1 else ''}")
            continue
        is_eval[_choose(groups, fraction)] = True
    if too_small:
        raise UserError(
            f"{where}: each class needs at least two different images, one for training and one for evaluation, but "
            f"{', '.join(first_few(too_small))}; add images, or remove these classes (source.classes)"
        )
    train, evaluation = (
        replace(select_rows(split, mask.nonzero()[:, 0]), part=part)
        for mask, part in ((~is_eval, "images for training"), (is_eval, "images for evaluation"))
    )
    chosen = sorted(key for key, is_chosen in zip(keys, is_eval.tolist(), strict=True) if is_chosen)
    digest = hashlib.sha256("\n".join(chosen).encode()).hexdigest()
    return train, evaluation, MadeSplit(fraction, seed, len(train.labels), len(evaluation.labels), digest)


def _identical(rows: Sequence[int], keys: Sequence[str]) -> list[list[int]]:
    """Group the rows with the same key, and order the groups by it."""
    groups: dict[str, list[int]] = {}
    for row in rows:
        groups.setdefault(keys[row], []).append(row)
    return [groups[key] for key in sorted(groups)]


def _choose(groups: Sequence[Sequence[int]], fraction: float) -> Tensor:
    """Return the rows to set aside: whole groups, together at most the fraction, but at least one group."""
    count = sum(map(len, groups))
    target = min(count - 1, max(1, round(fraction * count)))
    chosen: list[int] = []
    for group in groups:
        if len(chosen) + len(group) <= target:
            chosen += group
    return torch.tensor(chosen or min(groups, key=len))


def _digests(split: Split, where: str) -> Iterator[str]:
    """Yield the sha256 of the undecoded bytes of every image."""
    split, rows = rows_of_whole(split)
    assert isinstance(split, TableSplit), "the built-in dataset has an eval split"
    if not isinstance(split.table, datasets.Dataset):
        raise UserError(
            f"{where}: {split.where} is streamed, so its images cannot be divided without reading all of them; set "
            "source.streaming=false, or use a dataset with an eval split (source.eval_split)"
        )
    encoded = split.progress(split.encoded(rows.tolist()), len(rows), "divide the training split", "image")
    for row, value in zip(rows.tolist(), encoded, strict=True):
        with reading(f"{split.where}: row {row} cannot be read"):
            yield hashlib.sha256(_bytes(value)).hexdigest()


def _bytes(value: Any) -> bytes:
    """Return the bytes of an undecoded image; none for an empty row, which is reported when images are decoded."""
    if value is None:
        return b""
    return bytes(value["bytes"]) if value["bytes"] is not None else Path(value["path"]).read_bytes()
