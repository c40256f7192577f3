"""Open the splits of a dataset as tables of `datasets`, from a local folder or from the Hub."""

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
from datasets.packaged_modules.arrow.arrow import Arrow
from datasets.packaged_modules.parquet.parquet import Parquet

from srel_hub import config
from srel_hub.config import is_local
from srel_hub.config.places import expanded, missing_place, nearest_place, unreachable
from srel_hub.data.damaged_files import damaged_files
from srel_hub.data.eval_split import EVAL_SPLITS
from srel_hub.data.folder_checks import linked_folders
from srel_hub.data.folders import ImageFolder
from srel_hub.data.image_tables import image_tables
from srel_hub.data.local_folder import escaped, read_local_folder
from srel_hub.data.reach import cache_if_unreachable
from srel_hub.data.split_folders import find_split, listed
from srel_hub.data.table_files import TableFolder
from srel_hub.errors import UserError, cause, machine_failure


STREAMED_BYTES = 20e9  # with `source.streaming: auto`, larger datasets are streamed instead of copied to disk
LOG_IN = "log in with `hf auth login` or set HF_TOKEN"


@dataclass(frozen=True)
class Opened:
    """Tables of `datasets`, and what is known about the files that they come from.

    Attributes:
        tables: `datasets.Dataset` or `datasets.IterableDataset`, by the name of the split in the recipe.
        layout, splits, unread, remarks: see Source.
        files: the image files of each split, if `datasets` has assigned them; else empty.
    """

    tables: dict[str, Any]
    layout: str
    splits: tuple[str, ...]
    unread: Mapping[str, Sequence[str]] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    files: Mapping[str, Sequence[str]] = field(default_factory=dict)


def open_tables(spec: config.Source, requested: Sequence[str]) -> Opened:
    """Open splits. Other splits are not downloaded."""
    path, folder = dataset_path(spec), local_folder(spec)
    if isinstance(folder, ImageFolder):
        chosen = _find_splits(spec, requested, tuple(folder.splits))
        with _naming_the_field(spec):
            tables = image_tables(folder, spec, chosen)
        has_metadata = any(folder.splits[split].metadata for split in chosen.values())
        layout = "image files with labels from metadata files" if has_metadata else "one folder of images per class"
        return Opened(tables, layout, tuple(folder.splits), folder.unread, tuple(folder.remarks))
    builder = find_builder(spec, path, folder)
    files = builder.config.data_files or {}
    available = tuple(str(name) for name in files or builder.info.splits or {})
    if folder is None:
        chosen = _find_splits(spec, requested, available, exact=True)
        layout = "README.md assigns files to splits" if Path(path).exists() else "a dataset on the Hub"
    else:
        chosen = _find_splits(spec, requested, available)
        layout = f"{folder.kind} files"
    names = list(chosen.values())
    streaming = spec.streaming if spec.streaming != "auto" else _bytes(builder, files, names) > STREAMED_BYTES
    unread = {} if folder is None else folder.unread
    with _opening(spec, builder.builder_configs):
        if isinstance(builder, (Parquet, Arrow)):
            tables = {name: _load_alone(spec, path, builder, split, bool(streaming)) for name, split in chosen.items()}
            return Opened(tables, layout, available, unread)
        # The classes of an image folder are the folders of all splits, so all splits are opened. If one of them is not
        # needed and not local, the dataset is streamed, because then nothing of it is downloaded.
        remote = any("://" in file for name in available for file in files.get(name, []))
        not_needed = set(names) < set(available)
        # `read_picture` decodes the images; `datasets` would also do it, in threads, when it streams from the Hub.
        threads = {"decode_num_threads": 0} if "decode_num_threads" in vars(builder.config) else {}
        data_files = None if folder is None else {name: escaped(files[name]) for name in available}
        loaded = _load(
            spec, path, streaming=bool(streaming) or (remote and not_needed), data_files=data_files, **threads
        )
    by_name = {name: loaded[split] for name, split in chosen.items()}
    assigned = {} if folder is not None else {str(name): list(paths) for name, paths in files.items()}
    return Opened(by_name, layout, available, unread, files=assigned)


def dataset_path(spec: config.Source) -> str:
    """Return the path for `datasets`. A local folder is absolute: `csv` would be the name of a format."""
    assert spec.path is not None
    path = os.path.expanduser(spec.path) if spec.path.startswith("~") else spec.path
    return os.path.abspath(path) if is_local(path) else path


def local_folder(spec: config.Source) -> ImageFolder | TableFolder | None:
    """Return the files of a local folder by split; None for the Hub, and for a folder whose README.md names its files.

    Raises:
        UserError: if there is no such folder, or it cannot be read unambiguously.
    """
    path = dataset_path(spec)
    missing = missing_place(path)
    if missing is not None:
        raise UserError(f"source.path={spec.path}: {missing}")
    if not is_local(path):
        return None
    if Path(path).is_file():
        raise UserError(f"source.path={spec.path} is a file; set it to the folder that contains the file")
    if spec.revision is not None:
        raise UserError(
            f"source.revision={spec.revision}: {spec.path} is a local folder without revisions; remove source.revision"
        )
    named = [name for name in (spec.train_split, spec.eval_split) if name is not None]
    with _naming_the_field(spec):
        return read_local_folder(Path(path), named)


@contextlib.contextmanager
def _naming_the_field(spec: config.Source) -> Iterator[None]:
    """Begin the messages about a folder with the recipe's field, and the path as it is in the recipe.

    Raises:
        UserError: the error, with these messages.
    """
    try:
        yield
    except UserError as error:
        path = dataset_path(spec)
        lines = [
            f"source.path={spec.path}{line.removeprefix(path)}" if line.startswith(path) else line
            for line in str(error).splitlines()
        ]
        raise UserError("\n".join(lines)) from None


def _find_splits(
    spec: config.Source, requested: Sequence[str], available: Sequence[str], exact: bool = False
) -> dict[str, str]:
    """Return the split that each name in the recipe stands for.

    Args:
        spec: the recipe's section.
        requested: names in the recipe.
        available: the splits of the dataset.
        exact: whether the names must be equal. In a local folder, `val` is the split `validation`.

    Raises:
        UserError: if a split is missing, or two names stand for the same split.
    """
    chosen: dict[str, str | None]
    if exact:
        chosen = {name: name if name in available else None for name in requested}
    else:
        chosen = {name: find_split(available, name) for name in requested}
    missing = [_missing_split(spec, name, available) for name, split in chosen.items() if split is None]
    if missing:
        raise UserError("\n".join(missing))
    if len(set(chosen.values())) < len(chosen):
        raise UserError(
            f"source.train_split={spec.train_split} and source.eval_split={spec.eval_split} are the same split, "
            f"{next(iter(chosen.values()))}; set source.eval_split to another split, or to null to skip the evaluation"
        )
    return {name: str(split) for name, split in chosen.items()}


def _load_alone(spec: config.Source, path: str, builder: Any, name: str, streaming: bool) -> Any:
    """Load one split of a dataset whose files store class names, with the class names of that split's files.

    If the splits were loaded together, all would get the features of the first one, and a different order of classes in
    another split would be lost silently. If the files have no class names, those of the dataset's card are used.
    """
    files = builder.config.data_files
    options = {"streaming": streaming, "data_files": {name: escaped(files[name])} if len(files) > 1 else None}
    table = _load(spec, path, **options)[name]
    features_of_card = builder.info.features
    has_names = any(isinstance(feature, datasets.ClassLabel) for feature in (table.features or {}).values())
    if has_names or features_of_card is None or options["data_files"] is None:
        return table
    return _load(spec, path, **options, features=features_of_card)[name]


def _load(spec: config.Source, path: str, **options: Any) -> Any:
    return datasets.load_dataset(path, name=spec.config, revision=spec.revision, **options)


def find_builder(spec: config.Source, path: str, folder: TableFolder | None) -> Any:
    """Return the builder of `datasets`, which lists splits and features before any download."""
    data_files = (
        None if folder is None else {name: escaped(files, folder.root) for name, files in folder.splits.items()}
    )
    with (
        contextlib.nullcontext() if Path(path).exists() else cache_if_unreachable(path, spec.revision) as failure,
        _opening(spec, unreachable_because=failure),
    ):
        builder = datasets.load_dataset_builder(path, name=spec.config, revision=spec.revision, data_files=data_files)
    if folder is not None:
        found = {Path(file) for files in (builder.config.data_files or {}).values() for file in files}
        expected = [path for paths in folder.splits.values() for path in paths]
        # `datasets` leaves out a file without an error if it does not understand its name, such as `a::b.parquet`.
        lost = [path for path in expected if folder.root / path not in found]
        if lost or len(found) != len(expected):
            raise UserError(
                f"{folder.root}: load_dataset cannot open {listed(lost)}; rename these files so that their names have "
                "no `::` and no line break"
            )
    return builder


@contextlib.contextmanager
def _opening(
    spec: config.Source, configs: Iterable[str] = (), unreachable_because: str | None = None
) -> Iterator[None]:
    """Turn whatever `datasets` raises about a dataset into a UserError that explains it.

    Args:
        spec: The recipe's section.
        configs: The names of the dataset's configurations, as far as they are known.
        unreachable_because: Why the Hub cannot be used, so that only the cache is; None if it can be used.

    Raises:
        UserError: If the dataset cannot be opened.
        OSError: If the machine failed, for example because its disk is full, or the Hub cannot be reached.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # other people's files make `datasets` raise almost anything
        if unreachable_because is not None and isinstance(error, ConnectionError):
            reason = f"the Hub cannot be reached ({unreachable_because}), and the dataset is not in the cache"
            raise unreachable(f"source.path={spec.path}", str(spec.path), reason) from None
        failure = machine_failure(error)
        if failure is not None:
            raise failure from None
        if str(error).startswith("Not enough disk space"):
            raise OSError(errno.ENOSPC, str(error), str(datasets.config.HF_DATASETS_CACHE)) from error
        names = list(configs)
        listed = f"; configurations of this dataset: {', '.join(names)}" if len(names) > 1 else ""
        raise UserError(_explain(spec, error) + listed) from error


def _reason(error: BaseException) -> str:
    if isinstance(error, datasets.exceptions.DatasetGenerationCastError):
        # Its message names the columns and the file; its cause prints two whole schemas.
        return " ".join(str(error).split()).removeprefix("An error occurred while generating the dataset ")
    return cause(error)


def _explain(spec: config.Source, error: BaseException) -> str:
    """Explain why `datasets` cannot open a dataset, and what to do about it."""
    reason = _reason(error)
    if is_local(str(spec.path)):
        folder = expanded(str(spec.path))
        links = [str(link) for link in linked_folders(folder)]
        hint = f"; links to folders are not followed: {', '.join(links[:3])}" if links else ""
        damaged = "".join(f"\n{problem}" for problem in damaged_files(folder))
        return f"source.path={spec.path}: load_dataset cannot open this folder: {reason}{hint}{damaged}"
    if "gated dataset" in reason:
        return (
            f"source.path={spec.path}: this dataset is gated on the Hub; request access on the dataset's page, then "
            f"{LOG_IN}"
        )
    if "doesn't exist on the Hub or cannot be accessed" in reason:
        return (
            f"source.path={spec.path}: this is not a local folder, and not a dataset on the Hub that you can access"
            f"{nearest_place(str(spec.path))}; check the spelling; if it is private, {LOG_IN}"
        )
    if "config" in reason.lower():
        return f"source.config={spec.config}: {' '.join(str(error).split())}"
    return f"source.path={spec.path}: load_dataset cannot open this dataset, from disk or from the Hub: {reason}"


def _missing_split(spec: config.Source, name: str, available: Sequence[str]) -> str:
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
