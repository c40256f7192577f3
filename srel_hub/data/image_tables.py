"""Make a `datasets` table of the images and labels of each split of a local folder."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import datasets
import pyarrow as pa
from datasets.table import InMemoryTable

from srel_hub import config
from srel_hub.data.columns import find_columns
from srel_hub.data.folders import LAYOUTS, ImageFolder, ImageSplit
from srel_hub.data.metadata import conflicting_rows, misread_numbers, read_metadata
from srel_hub.data.split_folders import find_split
from srel_hub.data.tree import File, image_suffixes, shown, suffix_of
from srel_hub.errors import ErrorCollector, UserError, first_few


IMAGE, LABEL = "image", "label"  # the columns, named as `datasets` names them
Tables = dict[str, datasets.Dataset]


def image_tables(folder: ImageFolder, spec: config.Source, requested: Mapping[str, str]) -> Tables:
    """Return the table of each requested split, and note in `folder.unread` what is not read.

    Args:
        folder: the folder, whose splits may have problems.
        spec: the recipe's section.
        requested: the split of the folder, by the name in the recipe.

    Raises:
        UserError: if a requested split cannot be used. The message lists all problems.
    """
    errors = ErrorCollector()
    chosen = {name: folder.splits[split] for name, split in requested.items()}
    for split in chosen.values():
        errors.extend(first_few([f"{folder.root}: {problem}" for problem in split.problems]))
    if any(split.is_unlabeled for split in chosen.values()):
        errors.extend([LAYOUTS])
    errors.raise_all()
    names = _class_names(folder, spec)
    tables = {}
    for name, split in chosen.items():
        with errors.collect():
            if split.metadata:
                tables[name] = _metadata_table(folder, split, spec, name)
            else:
                tables[name] = _class_table(folder.root, split, names)
    errors.raise_all()
    return tables


def _class_names(folder: ImageFolder, spec: config.Source) -> list[str]:
    """Return the names of all class folders of the splits in the recipe, in alphabetical order.

    An empty class folder of the training split is a class too, so that it is reported as a class without images.
    """
    train = None if spec.train_split is None else find_split(folder.splits, spec.train_split)
    splits = {train, None if spec.eval_split is None else find_split(folder.splits, spec.eval_split)}
    usable = [split for split in folder.splits.values() if not split.problems]
    used = usable if train is None else [split for split in usable if split.name in splits]
    return sorted({name for split in used for name, images in split.classes.items() if images or split.name == train})


def _class_table(root: Path, split: ImageSplit, names: Sequence[str]) -> datasets.Dataset:
    """Return a table with the columns `image` and `label`, in the order of the paths."""
    labels = {name: index for index, name in enumerate(names)}
    rows = sorted((file, labels[name]) for name, images in split.classes.items() for file in images)
    features = datasets.Features({IMAGE: datasets.Image(), LABEL: datasets.ClassLabel(names=list(names))})
    columns = {LABEL: pa.array([label for _, label in rows], pa.int64())}
    return _table(root, [file for file, _ in rows], pa.table(columns), features)


def _metadata_table(folder: ImageFolder, split: ImageSplit, spec: config.Source, name: str) -> datasets.Dataset:
    """Return a table with the column `image` and all columns of the metadata files, in the order of their rows.

    Raises:
        UserError: if a metadata file cannot be used, an image has two labels, or all rows of a class are left out.
    """
    root = folder.root
    read = [read_metadata(root, file.path) for file in split.metadata]
    try:
        table = pa.concat_tables([rows.table for rows in read], promote_options="default")
    except pa.ArrowException as error:
        files = ", ".join(shown(rows.file) for rows in read)
        raise UserError(f"{root}: the metadata files {files} differ in the types of their columns ({error})") from None
    paths = [path for rows in read for path in rows.paths]
    if IMAGE in table.column_names:
        table = table.drop_columns([IMAGE])
    features = datasets.Features({IMAGE: datasets.Image(), **datasets.Features.from_arrow_schema(table.schema)})
    _, label = find_columns(spec, features, name)
    labels = table.column(label).to_pylist()
    if isinstance(features[label], datasets.Value) and features[label].dtype.startswith("int"):
        problems = [problem for file in split.metadata for problem in misread_numbers(root / file.path, label)]
        if problems:
            raise UserError("\n".join(first_few(problems)))
    repeated, conflicting = conflicting_rows(paths, labels)
    if conflicting:
        problems = [f"{root / image}: this image is listed with two labels; keep one" for image in conflicting]
        raise UserError("\n".join(first_few(problems)))
    existing = _existing(root, split, paths)
    dropped = set(repeated)
    kept = [row for row, path in enumerate(paths) if path in existing and row not in dropped]
    _require_labels_kept(folder, split, labels, kept)
    _note_unread(folder, split, paths, existing, repeated)
    return _table(root, [existing[paths[row]] for row in kept], table.take(kept), features)


def _existing(root: Path, split: ImageSplit, paths: Sequence[str | None]) -> dict[str | None, File]:
    """Return the files that rows name, by path. Hidden files count: a row asks for them."""
    known: dict[str | None, File] = {file.path: file for file in split.files}
    for path in paths:
        if path is not None and path not in known and (root / path).is_file():
            status = (root / path).stat()
            known[path] = File(path, status.st_size, status.st_mtime_ns)
    return known


def _require_labels_kept(folder: ImageFolder, split: ImageSplit, labels: Sequence[object], kept: Sequence[int]) -> None:
    """Require that some image of every label exists.

    Raises:
        UserError: if all images of a class are missing. The message lists these classes.
    """
    where = f"{folder.root}: {', '.join(shown(file.path) for file in split.metadata)}"
    if not kept:
        raise UserError(f"{where}: no row names an existing image; paths must be relative to the folder of this file")
    lost = sorted({str(label) for label in labels if label is not None} - {str(labels[row]) for row in kept})
    if lost:
        raise UserError(
            f"{where}: no image of {', '.join(first_few(lost))} exists, so these classes would be lost; restore the "
            "images or remove the rows"
        )


def _note_unread(
    folder: ImageFolder,
    split: ImageSplit,
    paths: Sequence[str | None],
    files: Mapping[str | None, File],
    repeated: Sequence[int],
) -> None:
    suffixes, listed = image_suffixes(), {path for path in paths if path is not None}
    for reason, found in (
        ("rows of a metadata file whose image does not exist", [path for path in paths if path not in files]),
        ("rows of a metadata file that repeat an earlier row with the same label", [paths[row] for row in repeated]),
        (
            "images without a row in a metadata file",
            [file.path for file in split.files if suffix_of(file.path) in suffixes and file.path not in listed],
        ),
    ):
        if found:
            folder.unread.setdefault(reason, []).extend(path or "(no file_name)" for path in found)


def _table(root: Path, files: Sequence[File], columns: pa.Table, features: datasets.Features) -> datasets.Dataset:
    """Return a table in memory whose images are paths. Its fingerprint changes when a file changes."""
    stamps = [[file.path, file.size, file.modified] for file in files]
    content = json.dumps([str(root), stamps, columns.to_pydict()], default=str)
    paths = pa.array([os.path.join(root, file.path) for file in files], pa.string())
    images = pa.StructArray.from_arrays([pa.nulls(len(files), pa.binary()), paths], names=["bytes", "path"])
    table = pa.table({IMAGE: images, **dict(zip(columns.column_names, columns.columns, strict=True))})
    return datasets.Dataset(
        InMemoryTable(table.cast(features.arrow_schema)),
        info=datasets.DatasetInfo(features=features),
        fingerprint=hashlib.sha256(content.encode()).hexdigest()[:16],
    )
