"""The real dataset: scikit-learn's digits or anything `load_dataset` opens, as uint8 RGB images of one size."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from datasets.packaged_modules.arrow.arrow import Arrow
from datasets.packaged_modules.parquet.parquet import Parquet

from srel_hub import config
from srel_hub.config import is_local
from srel_hub.data import class_names as classes
from srel_hub.data.folder_checks import check_folder, linked_folders
from srel_hub.data.splits import DecodedSplit, Images, Progress, Split, TableSplit, read_label_column
from srel_hub.errors import ErrorCollector, UserError, first_line


DIGITS_SPLIT_SEED = 0
LAYOUTS = (
    "Layouts that work: train/ant/1.jpg, train/bee/2.jpg, a folder for each of two or more classes and no image "
    "beside the folders; train/1.jpg with train/metadata.csv (file_name,label); parquet. Labels are class labels, "
    "strings or whole numbers"
)
STREAMED_BYTES = 20e9  # `source.streaming: auto` makes no local copy of more
DIGITS = {
    "title": "Optical Recognition of Handwritten Digits (8 x 8)",
    "homepage": "https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
    "license": "cc-by-4.0",
    "terms": "CC BY 4.0 at the UCI Machine Learning Repository; credit the authors.",
    "citation": (
        "@misc{alpaydin1998digits,\n  author = {Alpaydin, E. and Kaynak, C.},\n"
        "  title = {Optical Recognition of Handwritten Digits},\n  year = {1998},\n"
        "  publisher = {UCI Machine Learning Repository},\n  doi = {10.24432/C50P49}\n}"
    ),
}


@dataclass(frozen=True)
class Source:
    """A dataset that has been found and checked. A split is None where no stage needs it or the recipe sets none.

    `class_names` is None where nothing tells them. `remarks` are what the user should hear.
    """

    class_names: tuple[str, ...] | None = None
    train: Split | None = None
    eval: Split | None = None
    remarks: tuple[str, ...] = ()


def add_builtin_metadata(spec: config.Source) -> config.Source:
    """The section with what is known of a built-in dataset filled in, where the recipe does not say otherwise."""
    if spec.builtin is None:
        return spec
    known = {name: value for name, value in DIGITS.items() if getattr(spec, name) in (None, "unknown")}
    return replace(spec, **known)  # type: ignore[arg-type]


def open_source(spec: config.Source, progress: Progress, train: bool = True) -> Source:
    """Find splits, columns and classes, and check them. `progress` is shown while a split is read.

    Args:
        train: whether the training split is opened.

    Raises:
        UserError: with every fault found, before any image is decoded.
    """
    if spec.builtin is not None:
        return _digits()
    names = {"train": spec.train_split if train else None, "eval": spec.eval_split}
    wanted = [name for name in names.values() if name is not None]
    if not wanted:
        return Source() if spec.train_split is None else Source(_names_alone(spec))
    tables, files = _tables(spec, wanted)
    found, faults = {}, ErrorCollector()
    for name, table in tables.items():
        with faults.collect():
            found[name] = _columns(spec, table.features or {}, name)
    faults.raise_all()
    if len(set(found.values())) > 1:
        told = "; ".join(f"{name}: {image} and {label}" for name, (image, label) in found.items())
        raise UserError(f"source.path={spec.path}: the splits differ in their image and label columns ({told})")
    image, label = found[wanted[0]]
    remarks = _check_folder(spec, files, label, tables[wanted[0]].features[label])
    splits = _splits(spec, tables, image, label, progress)
    for split in splits.values():
        with faults.collect():
            split.check(every_class=split.name == spec.train_split)
    faults.raise_all()
    opened = {role: splits[name] for role, name in names.items() if name is not None}
    if spec.eval_split is not None and isinstance(tables[spec.eval_split], datasets.Dataset):
        remarks += _classes_not_scored(opened["eval"])
    return Source(splits[wanted[0]].classes.names, opened.get("train"), opened.get("eval"), tuple(remarks))


def _classes_not_scored(split: TableSplit) -> list[str]:
    """A remark where the eval split lacks classes, so that accuracies say nothing of them."""
    names = split.classes.names
    counts = split.labels.bincount(minlength=len(names)).tolist()
    empty = [name for name, count in zip(names, counts, strict=True) if count == 0]
    listed = ", ".join(empty[: classes.SHOWN] + classes.more(empty))
    return [f"{split.where}: no image of {listed}; accuracies say nothing of them"] if empty else []


def _names_alone(spec: config.Source) -> tuple[str, ...] | None:
    """The class names of a training split that no stage needs, where they can be had without reading it."""
    assert spec.train_split is not None
    tables, _ = _tables(replace(spec, streaming=True), [spec.train_split])
    features = tables[spec.train_split].features or {}
    _, label = _columns(spec, features, spec.train_split)
    named = classes.classes_of_column(features[label])
    return None if named is None else named.names


def _tables(spec: config.Source, wanted: Sequence[str]) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """The wanted splits, as `datasets` opens them; of other splits nothing is downloaded.

    Returns:
        the tables, and the files of every split where these are image files with or without metadata.
    """
    assert spec.path is not None
    path = str(Path(spec.path).expanduser()) if spec.path.startswith("~") else spec.path
    builder = _builder(spec, path)
    files = builder.config.data_files or {}
    there = [str(name) for name in files or builder.info.splits or {}]
    missing = [_missing_split(spec, name, there) for name in wanted if name not in there]
    if missing:
        raise UserError("\n".join(missing))
    streaming = spec.streaming if spec.streaming != "auto" else _bytes(builder, files, wanted) > STREAMED_BYTES
    try:
        if isinstance(builder, (Parquet, Arrow)):
            return {name: _load_alone(spec, path, builder, name, bool(streaming)) for name in wanted}, {}
        # Class names are those of the folders of all splits, so all are opened; streamed, none is downloaded for it.
        remote = any("://" in file for name in there for file in files.get(name, []))
        unwanted = set(wanted) < set(there)
        threads = {"decode_num_threads": 0} if "decode_num_threads" in vars(builder.config) else {}  # we decode
        loaded = _load(spec, path, streaming=bool(streaming) or (remote and unwanted), **threads)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise UserError(_refused(spec, error)) from None
    return {name: loaded[name] for name in wanted}, {str(name): list(found) for name, found in files.items()}


def _check_folder(spec: config.Source, files: dict[str, list[str]], label: str, feature: Any) -> list[str]:
    """Remarks on a local folder of image files; `files` is empty for other sources."""
    if not files or not is_local(str(spec.path)):
        return []
    number = isinstance(feature, datasets.Value) and feature.dtype.startswith("int")
    return check_folder(Path(str(spec.path)).expanduser(), files, label if number else None)


def _load_alone(spec: config.Source, path: str, builder: Any, name: str, streaming: bool) -> Any:
    """One split of a dataset whose files store their class names, with the names that it stores itself.

    `datasets` would give all splits the features of the first, and another order in the second would be lost without a
    word. Where the files name no classes, the dataset's card may.
    """
    files = builder.config.data_files
    options = {"streaming": streaming, "data_files": {name: files[name]} if len(files) > 1 else None}
    table = _load(spec, path, **options)[name]
    told = builder.info.features
    named = any(isinstance(feature, datasets.ClassLabel) for feature in (table.features or {}).values())
    if named or told is None or options["data_files"] is None:
        return table
    return _load(spec, path, **options, features=told)[name]


def _load(spec: config.Source, path: str, **options: Any) -> Any:
    return datasets.load_dataset(path, name=spec.config, revision=spec.revision, **options)


def _builder(spec: config.Source, path: str) -> Any:
    local = Path(path).exists()
    if is_local(path) and not local:
        raise UserError(f"source.path={path}: there is no such folder")
    if Path(path).is_file():
        raise UserError(f"source.path={path} is a file; give the folder that it lies in")
    if local and spec.revision is not None:
        raise UserError(f"source.revision={spec.revision}: {path} is a local folder, which has no revisions")
    try:
        return datasets.load_dataset_builder(path, name=spec.config, revision=spec.revision)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(_refused(spec, error)) from None


def _refused(spec: config.Source, error: BaseException) -> str:
    """Why `datasets` did not open it, and what to do about it."""
    reason = first_line(error)
    if is_local(str(spec.path)):
        links = [str(link) for link in linked_folders(Path(str(spec.path)).expanduser())]
        hint = f"; links to folders are not followed: {', '.join(links[:3])}" if links else ""
        return f"source.path={spec.path}: no folder that load_dataset opens: {reason}{hint}"
    if "gated dataset" in reason:
        return (
            f"source.path={spec.path}: gated on the Hub. Ask for access on the dataset's page there, then log in with "
            "`hf auth login` or set HF_TOKEN"
        )
    if "doesn't exist on the Hub or cannot be accessed" in reason:
        return (
            f"source.path={spec.path}: neither a local folder nor a dataset on the Hub that you may read; check the "
            "spelling; if it is private, log in with `hf auth login` or set HF_TOKEN"
        )
    if "config" in reason.lower():
        return f"source.config={spec.config}: {' '.join(str(error).split())}"
    return f"source.path={spec.path}: no local folder or Hub dataset that load_dataset opens: {reason}"


def _missing_split(spec: config.Source, name: str, found: list[str]) -> str:
    field = "eval_split" if name == spec.eval_split else "train_split"
    way_out = (
        "; source.eval_split=null does without evaluation, or move a fifth of each class's images to a folder of it"
        if field == "eval_split"
        else ""
    )
    return f"source.{field}={name}: {spec.path} has no such split (there are: {', '.join(found)}){way_out}"


def _bytes(builder: Any, files: Any, wanted: Sequence[str]) -> float:
    """Bytes of the wanted splits, as the dataset's card tells them or as the local files have them; 0 if unknown."""
    told = builder.info.splits or {}
    local = [Path(file) for name in wanted if name in files for file in files[name] if "://" not in file]
    return float(sum(told[name].num_bytes for name in wanted if name in told) or sum(f.stat().st_size for f in local))


def _columns(spec: config.Source, features: Any, split: str) -> tuple[str, str]:
    """Names of the image and the label column.

    Raises:
        UserError: with what is wrong with both.
    """
    where = f"{spec.path}, split {split}"
    there = ", ".join(f"{name} ({_kind(feature)})" for name, feature in features.items())
    faults = ErrorCollector()
    image = label = ""
    with faults.collect():
        certain = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
        likely = [name for name, feature in features.items() if _holds_bytes(feature)]
        image = _column(spec.image_column, "image_column", certain or likely, _images(features), where, there)
    with faults.collect():
        certain = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
        plain = [name for name, feature in features.items() if _is_label(feature)]
        likely = plain if len(plain) == 1 else [name for name in ("label", "labels") if name in plain]
        label = _column(spec.label_column, "label_column", certain or likely, certain + plain, where, there)
    faults.raise_all()
    return image, label


def _column(named: str | None, field: str, candidates: list[str], usable: list[str], where: str, there: str) -> str:
    if named is not None and named in usable:
        return named
    what = {"image_column": "images", "label_column": "class labels, strings or whole numbers"}[field]
    if named is not None:
        raise UserError(f"source.{field}={named}: {where} has no column of that name with {what} (columns: {there})")
    if len(candidates) == 1:
        return candidates[0]
    if usable:
        raise UserError(f"{where}: which column? set source.{field} to one of {', '.join(usable)} (columns: {there})")
    raise UserError(f"{where}: no column with {what} (columns: {there}). {LAYOUTS}")


def _kind(feature: Any) -> str:
    return str(feature.dtype) if isinstance(feature, datasets.Value) else type(feature).__name__


def _holds_bytes(feature: Any) -> bool:
    return isinstance(feature, dict) and "bytes" in feature


def _images(features: Any) -> list[str]:
    """Columns that are images, or may be cast to them: bytes, with or without a path, and paths."""
    return [
        name
        for name, feature in features.items()
        if isinstance(feature, datasets.Image)
        or _holds_bytes(feature)
        or (isinstance(feature, datasets.Value) and feature.dtype in ("binary", "large_binary", "string"))
    ]


def _is_label(feature: Any) -> bool:
    return isinstance(feature, datasets.Value) and feature.dtype.removeprefix("large_").startswith(
        ("string", "int", "uint", "bool")
    )


def _splits(
    spec: config.Source, tables: dict[str, Any], image: str, label: str, progress: Progress
) -> "dict[str, TableSplit]":
    """The opened splits under one set of classes.

    Raises:
        UserError: where the splits name different classes, or there are fewer than two.
    """
    known = {name: classes.classes_of_column(table.features[label]) for name, table in tables.items()}
    first, *others = tables
    named = known[first]
    if named is None:
        named = classes.classes_of_values(read_label_column(tables[first], label, progress))
    for other in others:
        theirs = known[other]
        wrong = theirs and classes.describe_mismatch(
            theirs.names, named.names, f"{spec.path}, split {other}", f"split {first}"
        )
        if wrong or (theirs is None) != (known[first] is None):
            raise UserError(
                wrong or f"{spec.path}: {label} is a ClassLabel in one of {first}, {other}, plain in the other"
            )
    if len(named.names) < 2:
        raise UserError(f"{spec.path}: {len(named.names)} class; at least two are needed")
    return {
        name: TableSplit(name, f"{spec.path}, split {name}", table, image, label, named, progress)
        for name, table in tables.items()
    }


def _digits() -> Source:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UserError("source.builtin=digits needs scikit-learn: pip install 'srel_hub[viz]'") from None
    digits = load_digits()
    gray = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    pixels = torch.from_numpy(gray)[:, None].expand(-1, 3, -1, -1).contiguous()
    labels = torch.from_numpy(digits.target).long()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(DIGITS_SPLIT_SEED))
    halves = order[: len(order) // 2], order[len(order) // 2 :]
    train, evaluation = (Images(pixels[half], labels[half]) for half in halves)
    return Source(tuple(str(name) for name in digits.target_names), DecodedSplit(train), DecodedSplit(evaluation))
