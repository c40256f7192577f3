"""The facts that `srel-hub init` reads from a dataset: splits, classes, counts, and the sizes of some images."""

import statistics
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import datasets

from srel_hub import config
from srel_hub.data.eval_split import EVAL_SPLITS, require_no_eval_split
from srel_hub.data.folders import LAYOUTS
from srel_hub.data.selected_split import rows_of_whole
from srel_hub.data.sources import open_source, split_names
from srel_hub.data.split_folders import listed
from srel_hub.data.splits import Split, TableSplit
from srel_hub.errors import UserError
from srel_hub.storage.decode import read_header
from srel_hub.studies.suggest.rules import Data


SAMPLED = 200  # images whose headers are read; enough for a median
EVAL_FRACTION = 0.2  # of the training images that are set aside if the dataset has no eval split


def find_splits(spec: config.Source, fields: Iterable[str] = ()) -> config.Source:
    """Return the section with the names of its training and eval split filled in.

    Args:
        spec: The recipe's section `source`.
        fields: Names of the fields that the user set, which are kept.

    If there is no eval split, a part of the training images is set aside.

    Raises:
        UserError: If the dataset has no training split.
    """
    names = split_names(spec)
    if "train_split" not in fields:
        if "train" not in names:
            raise UserError(
                f"{spec.path}: there is no split named train (splits: {', '.join(names)}); add "
                "source.train_split=NAME. "
                f"{LAYOUTS}"
            )
        spec = replace(spec, train_split="train")
    if spec.train_split is None:
        raise UserError(
            "source.train_split=null: init needs the training images to choose a recipe; set source.train_split to "
            "the name of the training split"
        )
    if "eval_split" in fields:
        return spec
    found = next((name for name in EVAL_SPLITS if name in names and name != spec.train_split), None)
    fraction = spec.eval_fraction
    return replace(spec, eval_split=found, eval_fraction=EVAL_FRACTION if found is None and not fraction else fraction)


def look(spec: config.Source) -> tuple[Data, tuple[str, ...]]:
    """Open a dataset and sample its images.

    Returns:
        the facts for the rules, and remarks for the user, such as which files are not read.

    Raises:
        UserError: if the dataset cannot be opened, has no images, or has fewer than two classes.
    """
    if spec.eval_fraction is not None:
        require_no_eval_split(spec, split_names(spec))
    # Images are not set aside here, which would read all of them; only their number is needed.
    fraction = spec.eval_fraction or 0.0
    whole = spec if not fraction else replace(spec, eval_fraction=None, eval_split=None)
    source = open_source(whole, _silent)
    train, names = source.train, source.class_names
    assert train is not None and names is not None
    counts = train.labels.bincount(minlength=len(names))
    sides = list(shorter_sides(train))
    set_aside = round(fraction * len(train.labels))
    return Data(
        class_names=names,
        train_images=len(train.labels) - set_aside,
        smallest_class=max(1, int((1 - fraction) * int(counts.min()))),
        eval_images=len(source.eval.labels) if source.eval is not None else set_aside or None,
        side=round(statistics.median(sides)),
        sampled=len(sides),
    ), tuple(f"not read: {reason}: {listed(paths)}" for reason, paths in source.unread.items()) + source.remarks


def shorter_sides(split: Split) -> Iterator[int]:
    """Yield the shorter sides of images from the whole split, or of the first images of a streamed split."""
    split, rows = rows_of_whole(split)
    assert isinstance(split, TableSplit), "init takes no built-in dataset"
    step = max(1, len(rows) // SAMPLED) if isinstance(split.table, datasets.Dataset) else 1
    sampled = rows[::step][:SAMPLED].tolist()
    for row, value in zip(sampled, split.encoded(sampled), strict=True):
        yield min(read_header(value, f"{split.where}: row {row}")[0])


def _silent(items: Iterable[Any], total: int | None, title: str, unit: str) -> Iterator[Any]:
    """Yield the items without a progress bar (`data.splits.Progress`)."""
    yield from items
