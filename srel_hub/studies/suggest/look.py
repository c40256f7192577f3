"""The facts that `srel-hub init` reads from a dataset: splits, classes, counts, and the sizes of some images."""

import statistics
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import datasets

from srel_hub import config
from srel_hub.data.folders import LAYOUTS
from srel_hub.data.sources import open_source, split_names
from srel_hub.data.splits import TableSplit
from srel_hub.errors import UserError
from srel_hub.storage.decode import read_picture
from srel_hub.studies.suggest.rules import Data


SAMPLED = 200  # images that are decoded; enough for a median, and a second's work
EVAL_SPLITS = ("test", "validation", "valid", "val", "eval", "dev")  # names that an eval split goes by


def find_splits(spec: config.Source, fields: Iterable[str] = ()) -> config.Source:
    """Return the section with the names of its training and eval split filled in.

    Args:
        spec: The recipe's section `source`.
        fields: Names of the fields that the user set, which are kept.

    Raises:
        UserError: If the dataset has no training split, or no split to evaluate students on.
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
    if found is None:
        raise UserError(
            f"{spec.path}: there is no split to score students on (splits: {', '.join(names)}). Put 80 % of each "
            "class's "
            "images in train/CLASS/ and 20 % in test/CLASS/, name another split with source.eval_split=NAME, or add "
            "source.eval_split=null to skip scoring"
        )
    return replace(spec, eval_split=found)


def look(spec: config.Source) -> tuple[Data, tuple[str, ...]]:
    """Open a dataset and sample its images.

    Returns:
        the facts for the rules, and remarks for the user.

    Raises:
        UserError: if the dataset cannot be opened, has no images, or has fewer than two classes.
    """
    source = open_source(spec, _silent)
    train, names = source.train, source.class_names
    assert isinstance(train, TableSplit) and names is not None
    counts = train.labels.bincount(minlength=len(names))
    sides = list(shorter_sides(train))
    return Data(
        class_names=names,
        train_images=len(train.labels),
        smallest_class=int(counts.min()),
        eval_images=None if source.eval is None else len(source.eval.labels),
        side=round(statistics.median(sides)),
        sampled=len(sides),
    ), source.remarks


def shorter_sides(split: TableSplit) -> Iterator[int]:
    """Yield the shorter sides of images from the whole split, or of the first images of a streamed split."""
    table = split.table.select_columns([split.image]).cast_column(split.image, datasets.Image(decode=False))
    if isinstance(table, datasets.Dataset):
        step = max(1, len(table) // SAMPLED)
        table = table.select(range(0, len(table), step)[:SAMPLED])
    else:
        table = table.take(SAMPLED)
    for number, row in enumerate(table):
        yield min(read_picture(row[split.image], None, f"{split.where}: sampled image {number}").shape[:2])


def _silent(items: Iterable[Any], total: int | None, title: str, unit: str) -> Iterator[Any]:
    """Yield the items without a progress bar (`data.splits.Progress`)."""
    yield from items
