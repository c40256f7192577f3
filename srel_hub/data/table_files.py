"""Decide which data file of a local folder (parquet, arrow, tar, zip, JSON, CSV) belongs to which split."""

import re
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from srel_hub.data.split_folders import METADATA, SPLITS, in_order, listed
from srel_hub.data.tree import File, Tree, image_suffixes, shown, suffix_of
from srel_hub.errors import UserError


# In this order: if a folder has parquet files, then its JSON and CSV files are descriptions.
FORMATS = {
    "parquet": (".parquet", ".geoparquet", ".gpq"),
    "arrow": (".arrow",),
    "webdataset": (".tar",),
    "lance": (".lance",),
    "vortex": (".vortex",),
    "hdf5": (".hdf5", ".h5"),
    "zip": (".zip",),
    "json": (".json", ".jsonl", ".ndjson"),
    "csv": (".csv", ".tsv"),
}
BINARY = ("parquet", "arrow", "webdataset", "lance", "vortex", "hdf5")  # these may hold images
# Words in file names, as `datasets` splits them. Whole words only: "restrain.parquet" is no training split.
WORDS = {**SPLITS, "testing": "test", "eval": "test", "evaluation": "test"}
SEPARATORS = re.compile(r"[-._ 0-9]+")
SHARD = re.compile(r"^data/(\w+(?:\.\w+)*)-\d{5}-of-\d{5}[^/]*$")  # as `push_to_hub` names files
DESCRIPTIONS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "config.json", *METADATA)


@dataclass(frozen=True)
class TableFolder:
    """A local folder of data files.

    Attributes:
        root: the folder.
        kind: a key of FORMATS.
        splits: paths below the root, by split.
        unread: paths that are not read, by reason.
    """

    root: Path
    kind: str
    splits: dict[str, list[str]]
    unread: dict[str, list[str]]


def table_kind(tree: Tree) -> str | None:
    """Return the first format of FORMATS that occurs in a folder, or None."""
    suffixes = {suffix_of(file.path) for file in _data_files(tree)}
    return next((kind for kind, known in FORMATS.items() if suffixes & set(known)), None)


def read_table_folder(tree: Tree, kind: str, named: Collection[str] = ()) -> TableFolder:
    """Decide which data file belongs to which split.

    Args:
        tree: the listed folder.
        kind: a key of FORMATS.
        named: names of splits in the recipe.

    Raises:
        UserError: if only some of the files are named like splits, or a file is named like two.
    """
    files = [file.path for file in _data_files(tree) if suffix_of(file.path) in FORMATS[kind]]
    words = {**{name.lower(): name for name in named}, **WORDS}
    by_split: dict[str | None, list[str]] = {}
    for path in files:
        by_split.setdefault(_split_of_file(tree.root, path, words), []).append(path)
    rest = by_split.pop(None, [])
    if rest and by_split:
        known = ", ".join(f"{split}: {listed(paths)}" for split, paths in by_split.items())
        raise UserError(
            f"{tree.root}: some {kind} files are named like splits ({known}), but others are not: {listed(rest)}. Add "
            "the name of their split to their names, as train-2.parquet, or move them elsewhere"
        )
    splits = in_order({str(split): paths for split, paths in by_split.items()}) or {"train": rest}
    for path in files if kind == "zip" else ():
        _check_archive(tree.root, path)
    used = set(files)
    others = [file.path for file in tree.files if file.path not in used]
    unread = {**tree.unread, f"files other than {kind}": others, "hidden folders": list(tree.hidden)}
    return TableFolder(tree.root, kind, splits, {reason: list(paths) for reason, paths in unread.items() if paths})


def _data_files(tree: Tree) -> list[File]:
    return [file for file in tree.files if Path(file.path).name not in DESCRIPTIONS]


def _split_of_file(root: Path, path: str, words: Mapping[str, str]) -> str | None:
    """Return the split that a path names, by a folder that is called like a split or by a word in the file's name.

    Raises:
        UserError: if the path names two splits.
    """
    shard = SHARD.match(path)
    if shard:  # the whole name is the split: `train_clean` is not `train`
        return SPLITS.get(shard[1].lower(), shard[1])
    *folders, name = path.split("/")
    found = {words[folder.lower()] for folder in folders if folder.lower() in words}
    found |= {words[word] for word in SEPARATORS.split(Path(name).stem.lower()) if word in words}
    if len(found) > 1:
        raise UserError(
            f"{root}: {shown(path)} is named like {len(found)} splits ({', '.join(sorted(found))}); rename it or its "
            "folder"
        )
    return next(iter(found), None)


def _check_archive(root: Path, path: str) -> None:
    """Refuse an archive of class folders: `datasets` takes the name of the archive's folder as the class of all images.

    Raises:
        UserError: if the archive has images and no metadata file, or is damaged.
    """
    try:
        with zipfile.ZipFile(root / path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{root / path}: this archive cannot be read ({error}); replace it") from None
    has_images = any(suffix_of(name) in image_suffixes() for name in names)
    if has_images and not any(Path(name).name in METADATA for name in names):
        raise UserError(
            f"{root / path}: class folders are not read from a zip archive; unpack it, and set source.path to the "
            "unpacked folder"
        )
