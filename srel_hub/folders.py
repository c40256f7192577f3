"""Local folders of image files: what `datasets` would take for something else than its owner meant, told instead."""

import csv
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from srel_hub.classes import SHOWN, more
from srel_hub.faults import UserError


METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
HARMLESS = (".txt", ".md", ".json", ".yaml", ".yml", ".db", ".html", ".pdf", ".zip")
LEADING_ZERO = re.compile(r"^[-+]?0\d+$")

Files = Mapping[str, Sequence[str]]  # of every split


def check_folder(root: Path, files: Files, labelled_by_number: bool) -> list[str]:
    """Compare what lies in a folder with what `datasets` found there.

    Args:
        files: the files that it found, by split.
        labelled_by_number: whether it read the labels as numbers.

    Returns:
        remarks that the user should see.

    Raises:
        UserError: for linked folders, which are passed over; for class folders of one name in several places, which
            become one class; for labels in a metadata.csv that lose their leading zeros.
    """
    faults = [f"{link}: a link to a folder, which is not followed; copy or move the folder" for link in _links(root)]
    if not any(Path(file).name in METADATA for split in files.values() for file in split):
        faults += [
            f"the class {name} has images in {' and '.join(places)}; a class folder lies in its split's folder, and "
            "there is one of each name"
            for split in files.values()
            for name, places in _places(split).items()
            if len(places) > 1
        ]
    if labelled_by_number:
        faults += [fault for split in files.values() for file in split for fault in _lost_zeros(Path(file))]
    if faults:
        raise UserError("\n".join(faults[:SHOWN] + more(faults)))
    return _ignored(root, {Path(file).resolve() for split in files.values() for file in split})


def _links(root: Path) -> Iterator[Path]:
    for folder, names, _ in os.walk(root):
        yield from (Path(folder) / name for name in sorted(names) if (Path(folder) / name).is_symlink())


def _places(files: Sequence[str]) -> dict[str, list[str]]:
    """The folders behind each class name."""
    folders = sorted({Path(file).parent for file in files})
    return {name: [str(f) for f in folders if f.name == name] for name in {folder.name for folder in folders}}


def _lost_zeros(file: Path) -> Iterator[str]:
    if file.name != "metadata.csv":
        return
    with file.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            for column, value in row.items():
                if column != "file_name" and value is not None and LEADING_ZERO.match(value.strip()):
                    yield f"{file}: the {column} {value} is read as a number, {int(value)}; write a name that is none"
                    return


def _ignored(root: Path, used: set[Path]) -> list[str]:
    """What is neither hidden nor used nor harmless."""
    left = [
        file
        for file in sorted(root.rglob("*"))
        if file.is_file()
        and file.suffix.lower() not in HARMLESS
        and not any(part.startswith((".", "__")) for part in file.relative_to(root).parts)
        and file.resolve() not in used
    ]
    if not left:
        return []
    shown = ", ".join(str(file) for file in left[:3])
    return [f"{root}: files passed over: {len(left)} ({shown}{', ...' if len(left) > 3 else ''})"]
