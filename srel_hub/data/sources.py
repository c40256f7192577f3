"""The real dataset: the built-in digits, or anything that `load_dataset` opens, as uint8 RGB images of one size."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
from datasets.packaged_modules.arrow.arrow import Arrow
from datasets.packaged_modules.parquet.parquet import Parquet

from srel_hub import config
from srel_hub.config import is_local
from srel_hub.data.builtin import DIGITS, load_digits
from srel_hub.data.class_names import Classes, classes_of_column, classes_of_values, describe_mismatch
from srel_hub.data.class_subset import find_classes, keep_classes
from srel_hub.data.columns import find_columns
from srel_hub.data.eval_split import EVAL_SPLITS, MadeSplit, divide, require_no_eval_split
from srel_hub.data.folder_checks import check_folder, linked_folders
from srel_hub.data.splits import Progress, Split, TableSplit, empty_classes, read_label_column, require_every_class
from srel_hub.errors import ErrorCollector, UserError, first_few, first_line


STREAMED_BYTES = 20e9  # with `source.streaming: auto`, larger datasets are streamed instead of copied to disk
LOG_IN = "log in with `hf auth login` or set HF_TOKEN"


@dataclass(frozen=True)
class Source:
    """A dataset that has been found and checked.

    Attributes:
        class_names: by index; None if the names can only be read from a split that no stage needs.
        train: the training split; None if no stage needs it or the recipe names none.
        eval: the split that students and teachers are scored on; None if the recipe names none.
        remarks: for the user to see.
        whole_names: names of the classes before a selection by `source.classes`; None without a selection.
        kept: indices of the selected classes among `whole_names`, by class; None without a selection.
        made_eval: how the eval split was made from training images; None if the dataset has one, or the recipe needs
            none.
    """

    class_names: tuple[str, ...] | None = None
    train: Split | None = None
    eval: Split | None = None
    remarks: tuple[str, ...] = ()
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
    return Source(selected, train, evaluation, remarks, whole_names=names, kept=tuple(kept))


def _open_whole(spec: config.Source, progress: Progress, train: bool) -> Source:
    """Open a dataset with all of its classes (open_source)."""
    if spec.builtin is not None:
        return Source(*load_digits())
    names = {"train": spec.train_split if train else None, "eval": spec.eval_split}
    requested = [name for name in names.values() if name is not None]
    if not requested:
        return Source() if spec.train_split is None else Source(_class_names_only(spec))
    tables, files = _open_tables(spec, requested)
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
    remarks = _check_folder(spec, files, label, tables[requested[0]].features[label])
    splits = _make_splits(spec, tables, image, label, progress)
    for split in splits.values():
        with errors.collect():
            split.check(every_class=split.name == spec.train_split and spec.classes is None)
    errors.raise_all()
    opened = {role: splits[name] for role, name in names.items() if name is not None}
    if spec.classes is None and spec.eval_split is not None and isinstance(tables[spec.eval_split], datasets.Dataset):
        remarks += _classes_not_scored(opened["eval"])
    return Source(splits[requested[0]].classes.names, opened.get("train"), opened.get("eval"), tuple(remarks))


def split_names(spec: config.Source) -> list[str]:
    """Return the names of all splits. No data is downloaded.

    Raises:
        UserError: if `load_dataset` cannot open the path.
    """
    assert spec.path is not None
    builder = _builder(spec, str(Path(spec.path).expanduser()) if spec.path.startswith("~") else spec.path)
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
    tables, _ = _open_tables(replace(spec, streaming=True), [spec.train_split])
    features = tables[spec.train_split].features or {}
    _, label = find_columns(spec, features, spec.train_split)
    classes = classes_of_column(features[label])
    return None if classes is None else classes.names


def _open_tables(spec: config.Source, requested: Sequence[str]) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """Open splits with `datasets`. Other splits are not downloaded.

    Returns:
        the tables by split, and the files by split if the dataset consists of image files, else {}.
    """
    assert spec.path is not None
    path = str(Path(spec.path).expanduser()) if spec.path.startswith("~") else spec.path
    builder = _builder(spec, path)
    files = builder.config.data_files or {}
    available = [str(name) for name in files or builder.info.splits or {}]
    missing = [_missing_split(spec, name, available) for name in requested if name not in available]
    if missing:
        raise UserError("\n".join(missing))
    streaming = spec.streaming if spec.streaming != "auto" else _bytes(builder, files, requested) > STREAMED_BYTES
    try:
        if isinstance(builder, (Parquet, Arrow)):
            return {name: _load_alone(spec, path, builder, name, bool(streaming)) for name in requested}, {}
        # The classes of an image folder are the folders of all splits, so all splits are opened. If one of them is not
        # needed and not local, the dataset is streamed, because then nothing of it is downloaded.
        remote = any("://" in file for name in available for file in files.get(name, []))
        not_needed = set(requested) < set(available)
        # `read_picture` decodes the images; `datasets` would also do it, in threads, when it streams from the Hub.
        threads = {"decode_num_threads": 0} if "decode_num_threads" in vars(builder.config) else {}
        tables = _load(spec, path, streaming=bool(streaming) or (remote and not_needed), **threads)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise UserError(_explain(spec, error)) from None
    return {name: tables[name] for name in requested}, {str(name): list(paths) for name, paths in files.items()}


def _check_folder(spec: config.Source, files: dict[str, list[str]], label: str, feature: Any) -> list[str]:
    """Return remarks on a local folder of image files, and none for other sources, whose `files` is empty."""
    if not files or not is_local(str(spec.path)):
        return []
    is_number = isinstance(feature, datasets.Value) and feature.dtype.startswith("int")
    return check_folder(Path(str(spec.path)).expanduser(), files, label if is_number else None)


def _load_alone(spec: config.Source, path: str, builder: Any, name: str, streaming: bool) -> Any:
    """Load one split of a dataset whose files store class names, with the class names of that split's files.

    If the splits were loaded together, all would get the features of the first one, and a different order of classes in
    another split would be lost silently. If the files have no class names, those of the dataset's card are used.
    """
    files = builder.config.data_files
    options = {"streaming": streaming, "data_files": {name: files[name]} if len(files) > 1 else None}
    table = _load(spec, path, **options)[name]
    features_of_card = builder.info.features
    has_names = any(isinstance(feature, datasets.ClassLabel) for feature in (table.features or {}).values())
    if has_names or features_of_card is None or options["data_files"] is None:
        return table
    return _load(spec, path, **options, features=features_of_card)[name]


def _load(spec: config.Source, path: str, **options: Any) -> Any:
    return datasets.load_dataset(path, name=spec.config, revision=spec.revision, **options)


def _builder(spec: config.Source, path: str) -> Any:
    """Return the builder of `datasets`, which lists splits and features before any download."""
    exists = Path(path).exists()
    if is_local(path) and not exists:
        raise UserError(f"source.path={path}: there is no such folder")
    if Path(path).is_file():
        raise UserError(f"source.path={path} is a file; set it to the folder that contains the file")
    if exists and spec.revision is not None:
        raise UserError(
            f"source.revision={spec.revision}: {path} is a local folder without revisions; remove source.revision"
        )
    try:
        return datasets.load_dataset_builder(path, name=spec.config, revision=spec.revision)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(_explain(spec, error)) from None


def _explain(spec: config.Source, error: BaseException) -> str:
    """Explain why `datasets` cannot open a dataset, and what to do about it."""
    reason = first_line(error)
    if is_local(str(spec.path)):
        links = [str(link) for link in linked_folders(Path(str(spec.path)).expanduser())]
        hint = f"; links to folders are not followed: {', '.join(links[:3])}" if links else ""
        return f"source.path={spec.path}: load_dataset cannot open this folder: {reason}{hint}"
    if "gated dataset" in reason:
        return (
            f"source.path={spec.path}: this dataset is gated on the Hub; request access on the dataset's page, then "
            f"{LOG_IN}"
        )
    if "doesn't exist on the Hub or cannot be accessed" in reason:
        return (
            f"source.path={spec.path}: this is not a local folder, and not a dataset on the Hub that you can access; "
            f"check the spelling; if it is private, {LOG_IN}"
        )
    if "config" in reason.lower():
        return f"source.config={spec.config}: {' '.join(str(error).split())}"
    return f"source.path={spec.path}: load_dataset cannot open this dataset, from disk or from the Hub: {reason}"


def _missing_split(spec: config.Source, name: str, available: list[str]) -> str:
    message = f"{spec.path} has no split of this name (available: {', '.join(available)})"
    if name != spec.eval_split:
        return f"source.train_split={name}: {message}"
    other = next((split for split in EVAL_SPLITS if split in available and split != spec.train_split), None)
    remedy = "source.eval_fraction=0.2 to set aside a fifth of each class's training images"
    return (
        f"source.eval_split={name}: {message}; set {remedy if other is None else f'source.eval_split={other}'}, or "
        "source.eval_split=null to skip the evaluation"
    )


def _bytes(builder: Any, files: Any, requested: Sequence[str]) -> float:
    """Return the size of splits according to the dataset's card, or else of their local files; 0 if unknown."""
    on_card = builder.info.splits or {}
    local = [Path(file) for name in requested if name in files for file in files[name] if "://" not in file]
    return float(
        sum(on_card[name].num_bytes for name in requested if name in on_card)
        or sum(file.stat().st_size for file in local)
    )


def _make_splits(
    spec: config.Source, tables: dict[str, Any], image: str, label: str, progress: Progress
) -> dict[str, TableSplit]:
    """Return the splits, all with the classes of the first.

    Raises:
        UserError: if the classes of the splits differ, or there are fewer than two.
    """
    first, *others = tables
    classes_by_split = {name: classes_of_column(table.features[label]) for name, table in tables.items()}
    classes = classes_by_split[first] or classes_of_values(read_label_column(tables[first], label, progress))
    for other in others:
        _require_same_classes(spec, label, (first, classes_by_split[first]), (other, classes_by_split[other]))
    if len(classes.names) < 2:
        raise UserError(f"{spec.path}: {len(classes.names)} class found; at least 2 are required")
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
