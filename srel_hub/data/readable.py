"""Leave out the images that cannot be read (`source.on_bad_image: skip`)."""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import datasets
import PIL

from srel_hub.config import fingerprint, is_local
from srel_hub.data.splits import TableSplit
from srel_hub.errors import UserError, first_few
from srel_hub.storage.decode import UnreadableImageError, decode
from srel_hub.storage.files import read_json, write_json


def unreadable_images(split: TableSplit) -> dict[int, str]:
    """Decode all images of a split, and return why some cannot be read, by row.

    The result is kept in the cache of `datasets`, so that it is computed once for all commands and processes. Its key
    changes when the data or Pillow changes.

    Raises:
        UserError: if the split is streamed, because its rows cannot be left out before they were downloaded.
        OSError: if the machine failed, so that nothing is known about an image.
    """
    if not isinstance(split.table, datasets.Dataset):
        raise UserError(
            f"source.on_bad_image=skip: {split.where} is streamed, but all images must be checked before the run; set "
            "source.streaming=false"
        )
    key = fingerprint([split.fingerprint, len(split.table), PIL.__version__])[:32]
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "srel_hub"
    file = folder / f"unreadable-{key}.json"
    with suppress(FileNotFoundError, json.JSONDecodeError):
        return {int(row): reason for row, reason in read_json(file).items()}
    problems = dict(_problems(split))
    folder.mkdir(parents=True, exist_ok=True)
    write_json(file, problems)
    return problems


def _problems(split: TableSplit) -> Iterator[tuple[int, str]]:
    count = len(split.table)
    encoded = split.progress(split.encoded(range(count)), count, f"check {split.where}", "image")
    for row, value in enumerate(encoded):
        try:
            decode(value, None, f"row {row}")
        except UnreadableImageError as error:
            yield row, error.reason


def without_unreadable(split: TableSplit, root: str) -> tuple[TableSplit, tuple[str, ...], list[str]]:
    """Leave out the images of a split that cannot be read.

    Args:
        split: the split, whose labels have been checked.
        root: the dataset's path. Files below a local folder are named relative to it.

    Returns:
        the split without them, their names, and a remark for the user that lists some of them with the reason.

    Raises:
        UserError: see `unreadable_images`.
    """
    problems = unreadable_images(split)
    if not problems:
        return split, (), []
    rows = sorted(problems)
    names = [
        _name(value["path"] if value else None, row, root) for row, value in zip(rows, split.encoded(rows), strict=True)
    ]
    listed = "; ".join(first_few([f"{name}: {problems[row]}" for row, name in zip(rows, names, strict=True)]))
    remark = f"{split.where}: unreadable images are skipped: {len(names):,} of {len(split.table):,} ({listed})"
    kept = split.table.select([row for row in range(len(split.table)) if row not in problems])
    return replace(split, table=kept), tuple(names), [remark]


def _name(path: str | None, row: int, root: str) -> str:
    """Return the name of an image for cards, which contain no path of the machine."""
    if not path:
        return f"row {row}"
    if "://" in path:
        return path.split("::")[0]  # zip://a/1.png::/home/me/train.zip
    folder, file = Path(root).expanduser().resolve(), Path(path)
    if is_local(root) and file.is_absolute() and file.resolve().is_relative_to(folder):
        return file.resolve().relative_to(folder).as_posix()
    return f"row {row} ({file.name})"
