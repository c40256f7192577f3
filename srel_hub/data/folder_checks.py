"""Local folders of image files: what `datasets` would take for something else than its owner meant, told instead."""

import csv
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from srel_hub.data.class_names import SHOWN, more
from srel_hub.errors import UserError


METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
HARMLESS = (".txt", ".md", ".json", ".yaml", ".yml", ".db", ".html", ".pdf", ".zip")
NUMBER = re.compile(r"^[-+]?\d+$")

Files = Mapping[str, Sequence[str]]  # of every split


def check_folder(root: Path, files: Files, number_column: str | None) -> list[str]:
    """Compare what lies in a folder with what `datasets` found there.

    Args:
        files: the files that it found, by split.
        number_column: the label column, where its values were read as numbers.

    Returns:
        remarks that the user should see.

    Raises:
        UserError: for linked folders, which are passed over; for class folders of one name in several places, which
            become one class; for labels in a metadata.csv that are not written as the numbers that they are read as.
    """
    faults = [
        f"{link}: a link to a folder, which is not followed; copy or move the folder" for link in linked_folders(root)
    ]
    if not any(Path(file).name in METADATA for split in files.values() for file in split):
        faults += [
            f"the class {name} has images in {' and '.join(places)}; a class folder lies in its split's folder, and "
            "there is one of each name"
            for split in files.values()
            for name, places in _places(split).items()
            if len(places) > 1
        ]
    if number_column is not None:
        found = [Path(file) for split in files.values() for file in split]
        faults += [fault for file in found for fault in _misread(file, number_column)]
    if faults:
        raise UserError("\n".join(faults[:SHOWN] + more(faults)))
    return _ignored(root, {Path(file).resolve() for split in files.values() for file in split})


def linked_folders(root: Path) -> Iterator[Path]:
    """Links to folders, but for those in hidden ones, where nobody looks for images."""
    for folder, names, _ in os.walk(root):
        names[:] = [name for name in names if not name.startswith((".", "__"))]
        yield from (Path(folder) / name for name in sorted(names) if (Path(folder) / name).is_symlink())


def _places(files: Sequence[str]) -> dict[str, list[str]]:
    """The folders behind each class name."""
    folders = sorted({Path(file).parent for file in files})
    return {name: [str(f) for f in folders if f.name == name] for name in {folder.name for folder in folders}}


def _misread(file: Path, column: str) -> Iterator[str]:
    """The first label such as 007, which becomes 7."""
    if file.name != "metadata.csv":
        return
    with file.open(encoding="utf-8-sig", newline="") as lines:
        for row in csv.DictReader(lines):
            value = row.get(column) or ""
            if NUMBER.match(value.strip()) and str(int(value)) != value:
                yield f"{file}: the {column} {value} is read as the number {int(value)}; use names instead"
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
