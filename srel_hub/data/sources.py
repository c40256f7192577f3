"""The real dataset: the built-in digits, a local folder, or a dataset on the Hub, as uint8 RGB images of one size."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import datasets

from srel_hub import config
from srel_hub.config import is_local
from srel_hub.data.builtin import DIGITS, load_digits
from srel_hub.data.class_names import (
    Classes,
    classes_of_column,
    classes_of_values,
    describe_mismatch,
    require_usable_names,
)
from srel_hub.data.class_subset import find_classes, keep_classes
from srel_hub.data.columns import find_columns
from srel_hub.data.eval_split import MadeSplit, divide, require_no_eval_split
from srel_hub.data.folder_checks import check_folder
from srel_hub.data.folders import LAYOUTS
from srel_hub.data.opening import dataset_path, find_builder, local_folder, open_tables
from srel_hub.data.readable import without_unreadable
from srel_hub.data.splits import Progress, Split, TableSplit, empty_classes, read_label_column, require_every_class
from srel_hub.errors import ErrorCollector, UserError, first_few, reading


@dataclass(frozen=True)
class Source:
    """A dataset that has been found and checked.

    Attributes:
        class_names: by index; None if the names can only be read from a split that no stage needs.
        train: the training split; None if no stage needs it or the recipe names none.
        eval: the split that students and teachers are scored on; None if the recipe names none.
        remarks: for the user to see.
        layout: how files were assigned to splits and classes, in a few words.
        splits: names of all splits, also of those that are not opened.
        unread: files that are not read, by reason. Paths are relative to a local folder.
        skipped: the names of the images that were left out because they cannot be read, by split; None if the recipe
            does not skip them.
        whole_names: names of the classes before a selection by `source.classes`; None without a selection.
        kept: indices of the selected classes among `whole_names`, by class; None without a selection.
        made_eval: how the eval split was made from training images; None if the dataset has one, or the recipe needs
            none.
    """

    class_names: tuple[str, ...] | None = None
    train: Split | None = None
    eval: Split | None = None
    remarks: tuple[str, ...] = ()
    layout: str = ""
    splits: tuple[str, ...] = ()
    unread: Mapping[str, Sequence[str]] = field(default_factory=dict)
    skipped: Mapping[str, tuple[str, ...]] | None = None
    whole_names: tuple[str, ...] | None = None
    kept: tuple[int, ...] | None = None
    made_eval: MadeSplit | None = None


def add_builtin_metadata(spec: config.Source) -> config.Source:
    """Return the section with title, license and citation of a built-in dataset, where the recipe sets none."""
    if spec.builtin is None:
        return spec
    missing = {name: value for name, value in DIGITS.items() if getattr(spec, name) in (None, "unknown")}
    return replace(spec, **missing)  # type: ignore[arg-type]


def open_source(spec: config.Source, progress: Progress, train: bool = True) -> Source:
    """Find splits, columns and classes of a dataset, and check them. Select classes and make an eval split, if needed.

    Args:
        spec: the recipe's section.
        progress: shown while labels are read or images decoded.
        train: whether to open the training split.

    Returns:
        the dataset, before any image is decoded.

    Raises:
        UserError: if the dataset cannot be used. The message lists all problems.
    """
    if spec.eval_fraction is None:
        return _select(spec, _open_whole(spec, progress, train))
    require_no_eval_split(spec, split_names(spec))
    source = _select(spec, _open_whole(replace(spec, eval_split=None), progress, train=True))
    assert source.train is not None and source.class_names is not None
    training, evaluation, made = divide(source.train, source.class_names, spec)
    return replace(source, train=training if train else None, eval=evaluation, made_eval=made)


def _select(spec: config.Source, source: Source) -> Source:
    """Return the classes of a dataset that `source.classes` lists, in the dataset's order; all without a list."""
    names = source.class_names
    if spec.classes is None or names is None:
        return source
    kept = sorted(find_classes(spec.classes, names, "source.classes", "the dataset"))
    train, evaluation = (None if split is None else keep_classes(split, kept) for split in (source.train, source.eval))
    selected = tuple(names[index] for index in kept)
    if train is not None:
        require_every_class(train.labels, selected)
    remarks = source.remarks
    if evaluation is not None and (empty := empty_classes(evaluation.labels, selected)):
        if len(empty) == len(selected):
            raise UserError(f"{spec.path}, split {spec.eval_split}: there is no image of the classes in source.classes")
        remarks += (_not_scored(f"{spec.path}, split {spec.eval_split}", empty),)
    return replace(
        source,
        class_names=selected,
        train=train,
        eval=evaluation,
        remarks=remarks,
        whole_names=names,
        kept=tuple(kept),
    )


def _open_whole(spec: config.Source, progress: Progress, train: bool) -> Source:
    """Open a dataset with all of its classes (open_source)."""
    if spec.builtin is not None:
        return Source(*load_digits(), layout="the built-in digits", splits=("train", "test"))
    names = {"train": spec.train_split if train else None, "eval": spec.eval_split}
    requested = [name for name in names.values() if name is not None]
    if not requested:
        return Source() if spec.train_split is None else Source(_class_names_only(spec))
    found = open_tables(spec, requested)
    tables = found.tables
    columns, errors = {}, ErrorCollector()
    for name, table in tables.items():
        with errors.collect():
            columns[name] = find_columns(spec, table.features or {}, name)
    errors.raise_all()
    if len(set(columns.values())) > 1:
        listed = "; ".join(f"{name}: {image} and {label}" for name, (image, label) in columns.items())
        raise UserError(
            f"source.path={spec.path}: the splits differ in their image and label columns ({listed}); set "
            "source.image_column and source.label_column"
        )
    image, label = columns[requested[0]]
    with reading(f"source.path={spec.path}"):
        remarks = [*found.remarks, *_check_folder(spec, found.files, label, tables[requested[0]].features[label])]
    splits = _make_splits(spec, tables, image, label, progress)
    for split in splits.values():
        with errors.collect():
            split.check(every_class=split.name == spec.train_split and spec.classes is None)
    errors.raise_all()
    skipped: dict[str, tuple[str, ...]] = {}
    if spec.on_bad_image == "skip":
        for name, split in splits.items():
            splits[name], skipped[name], notes = without_unreadable(split, str(spec.path))
            remarks += notes
            with errors.collect():
                splits[name].check(every_class=name == spec.train_split and spec.classes is None)
        errors.raise_all()
    opened = {role: splits[name] for role, name in names.items() if name is not None}
    if spec.classes is None and spec.eval_split is not None and isinstance(tables[spec.eval_split], datasets.Dataset):
        remarks += _classes_not_scored(opened["eval"])
    return Source(
        class_names=splits[requested[0]].classes.names,
        train=opened.get("train"),
        eval=opened.get("eval"),
        remarks=tuple(remarks),
        layout=found.layout,
        splits=found.splits,
        unread=found.unread,
        skipped=skipped if spec.on_bad_image == "skip" else None,
    )


def split_names(spec: config.Source) -> list[str]:
    """Return the names of all splits. No data is downloaded.

    Raises:
        UserError: if `load_dataset` cannot open the path.
    """
    path, folder = dataset_path(spec), local_folder(spec)
    if folder is not None:
        return list(folder.splits)
    builder = find_builder(spec, path, None)
    return [str(name) for name in builder.config.data_files or builder.info.splits or {}]


def _classes_not_scored(split: TableSplit) -> list[str]:
    """Return a remark if the eval split has no image of some classes."""
    empty = empty_classes(split.labels, split.classes.names)
    return [_not_scored(split.where, empty)] if empty else []


def _not_scored(where: str, empty: Sequence[str]) -> str:
    return f"{where}: there is no image of {', '.join(first_few(empty))}, so these classes are not scored"


def _class_names_only(spec: config.Source) -> tuple[str, ...] | None:
    """Return the class names of a training split that no stage needs, if its columns state them."""
    assert spec.train_split is not None
    tables = open_tables(replace(spec, streaming=True), [spec.train_split]).tables
    features = tables[spec.train_split].features or {}
    _, label = find_columns(spec, features, spec.train_split)
    classes = classes_of_column(features[label])
    return None if classes is None else classes.names


def _check_folder(spec: config.Source, files: Mapping[str, Sequence[str]], label: str, feature: Any) -> list[str]:
    """Return remarks on a local folder whose README.md names image files, and none for other sources."""
    if not files or not is_local(str(spec.path)):
        return []
    is_number = isinstance(feature, datasets.Value) and feature.dtype.startswith(("int", "float"))
    return check_folder(Path(dataset_path(spec)), files, label if is_number else None)


def _make_splits(
    spec: config.Source, tables: dict[str, Any], image: str, label: str, progress: Progress
) -> dict[str, TableSplit]:
    """Return the splits, all with the classes of the first.

    Raises:
        UserError: if the classes of the splits differ, or there are fewer than two.
    """
    first, *others = tables
    classes_by_split = {name: classes_of_column(table.features[label]) for name, table in tables.items()}
    classes = classes_by_split[first]
    if classes is None:
        values = read_label_column(tables[first], label, progress)
        classes = classes_of_values(values)
        classes.indices(values, f"{spec.path}, split {first}")  # rows without a label come before missing classes
    for other in others:
        _require_same_classes(spec, label, (first, classes_by_split[first]), (other, classes_by_split[other]))
    require_usable_names(classes.names, str(spec.path))
    if len(classes.names) < 2:
        raise UserError(
            f"{spec.path}: at least 2 classes are required, but {len(classes.names)} found "
            f"({', '.join(classes.names) or 'none'}). {LAYOUTS}"
        )
    return {
        name: TableSplit(name, f"{spec.path}, split {name}", table, image, label, classes, progress)
        for name, table in tables.items()
    }


def _require_same_classes(
    spec: config.Source, label: str, first: tuple[str, Classes | None], other: tuple[str, Classes | None]
) -> None:
    """Compare the classes that the label columns of two splits name; None if they name none.

    Raises:
        UserError: if the classes differ, or only one of the columns names its classes.
    """
    (first_name, first_classes), (other_name, other_classes) = first, other
    if (first_classes is None) != (other_classes is None):
        named, plain = (other_name, first_name) if first_classes is None else (first_name, other_name)
        raise UserError(
            f"{spec.path}: the column {label} is a ClassLabel in split {named}, but has plain values in split {plain}; "
            "store both in the same way"
        )
    if first_classes is None or other_classes is None:
        return
    who = f"{spec.path}, split {other_name}"
    mismatch = describe_mismatch(other_classes.names, first_classes.names, who, f"split {first_name}")
    if mismatch:
        raise UserError(mismatch)
