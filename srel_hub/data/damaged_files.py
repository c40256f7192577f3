"""Find the file that `datasets` could not read: its errors rarely name the file and the line."""

import csv
import json
import re
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pyarrow.json
import pyarrow.parquet
import yaml

from srel_hub.errors import UserError, reading
from srel_hub.storage.files import require_no_pointer


CARD = "README.md"
FENCE = "---"  # line above and below the metadata of a card
LISTED = 3
WHOLE_NUMBER = re.compile(r"[-+]?\d+$")
MISSING = ("", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None")  # what pandas reads as a missing value
BATCH = 64  # rows of a parquet file that are in memory at a time


def damaged_files(root: Path) -> list[str]:
    """Return which of the cards, tables and archives of a local folder cannot be read, with file and cause.

    Call it only after `datasets` failed, because it reads all of these files. At most three are listed.
    """
    return list(islice(_problems(root), LISTED))


def _problems(root: Path) -> Iterator[str]:
    for file in sorted(root.rglob("*")):
        if any(part.startswith(".") for part in file.relative_to(root).parts):
            continue
        if not _is_utf8(file.name):
            yield f"{_printable(str(file))}: its name is not UTF-8; rename it"
        if file.is_file():
            try:
                require_readable(file)
            except (UserError, OSError) as error:
                yield str(error)


def require_readable(file: Path) -> None:
    """Check a card, a table or an archive.

    Raises:
        UserError: If it cannot be read. The message has the line or row, and the cause.
    """
    check = CHECKS.get(CARD if file.name == CARD else file.suffix.lower())
    if check is not None:
        with reading(str(file)):
            require_no_pointer(file)
            check(file)


def _is_utf8(name: str) -> bool:
    return name == name.encode(errors="ignore").decode()


def _printable(name: str) -> str:
    return name.encode(errors="backslashreplace").decode()


def _check_card(file: Path) -> None:
    lines = file.read_text(encoding="utf-8").splitlines()
    if lines[:1] != [FENCE] or FENCE not in lines[1:]:
        return
    try:
        metadata = yaml.safe_load("\n".join(lines[1 : lines.index(FENCE, 1)]))
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f", line {error.problem_mark.line + 2}"
        raise UserError(f"{file}{line}: {error.problem or error.context}; correct the YAML") from error
    if not isinstance(metadata, dict | None):
        raise UserError(f"{file}: the metadata between the lines {FENCE} must be `key: value` lines")
    for name in _class_names(metadata):
        if not isinstance(name, str):
            raise UserError(f"{file}: the class name {name!r} is not text; put the name in quotes")


def _class_names(metadata: Any) -> Iterator[Any]:
    """Yield the names of all `class_label` in a card's metadata."""
    values = metadata.values() if isinstance(metadata, dict) else metadata if isinstance(metadata, list) else ()
    for value in values:
        yield from _class_names(value)
    label = metadata.get("class_label") if isinstance(metadata, dict) else None
    names = label.get("names") if isinstance(label, dict) else None
    yield from names.values() if isinstance(names, dict) else names if isinstance(names, list) else ()


def _check_csv(file: Path) -> None:
    with file.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.reader(stream)
        header = next(reader, [])
        columns: list[list[str]] = [[] for _ in header]
        for row in reader:
            if len(row) > len(header):
                raise ValueError(f"line {reader.line_num} has {len(row)} values, but the header has {len(header)}")
            for column, value in zip(columns, row, strict=False):
                column.append(value.strip())
    for name, column in zip(header, columns, strict=True):
        missing = [row for row, value in enumerate(column) if value in MISSING]
        if missing and all(value in MISSING or WHOLE_NUMBER.match(value) for value in column):
            raise ValueError(
                f"row {missing[0]} has no {name}, so the column is read as fractions; add it or remove the row"
            )


def _check_json_lines(file: Path) -> None:
    with file.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                try:
                    json.loads(line)
                except ValueError as error:
                    raise ValueError(f"line {number}: {error}") from None
    pyarrow.json.read_json(file)


def _check_parquet(file: Path) -> None:
    with pyarrow.parquet.ParquetFile(file) as table:
        for _ in table.iter_batches(batch_size=BATCH):
            pass


def _check_zip(file: Path) -> None:
    with ZipFile(file) as archive:
        broken = archive.testzip()
    if broken is not None:
        raise ValueError(f"its member {broken} is damaged")


CHECKS: dict[str, Callable[[Path], None]] = {
    CARD: _check_card,
    ".csv": _check_csv,
    ".jsonl": _check_json_lines,
    ".parquet": _check_parquet,
    ".zip": _check_zip,
}
