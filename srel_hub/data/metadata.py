"""Read the metadata files of an image folder: which image has which label."""

import csv
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from srel_hub.data.damaged_files import require_readable
from srel_hub.data.tree import shown
from srel_hub.errors import UserError, first_few, first_line


FILE_NAME = "file_name"  # the column that every metadata file must have
# Cells without a value, as in pandas, which `datasets` uses. A class may not have one of these names.
NO_VALUE = (
    *("", "NA", "N/A", "n/a", "<NA>", "#NA", "#N/A", "#N/A N/A", "NaN", "nan", "-NaN", "-nan", "NULL", "null", "None"),
    *("1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN"),
)
NUMBER = re.compile(r"^[-+]?\d+$")


@dataclass(frozen=True)
class Rows:
    """The rows of one metadata file.

    Attributes:
        file: the metadata file, below the root.
        table: all columns but FILE_NAME.
        paths: the image of each row, below the root; None if the row has none.
    """

    file: str
    table: pa.Table
    paths: list[str | None]


def read_metadata(root: Path, file: str) -> Rows:
    """Read a metadata file.

    Args:
        root: the folder of the dataset.
        file: the path of the metadata file below it.

    Raises:
        UserError: if it cannot be read or has no column FILE_NAME, or a row names a file outside of its folder.
    """
    try:
        table = _read_table(root / file)
    except (OSError, ValueError, TypeError, OverflowError, pa.ArrowException) as error:
        require_readable(root / file)  # it knows the line
        raise UserError(
            f"{root / file} cannot be read as a table ({first_line(error)}); it must be UTF-8 text with one line per "
            f"image and a column {FILE_NAME}"
        ) from None
    if table.column_names.count(FILE_NAME) != 1 or len(set(table.column_names)) < table.num_columns:
        raise UserError(
            f"{root / file} has the columns {', '.join(table.column_names)}; it must have one column {FILE_NAME}, with "
            "the path of each image relative to the folder of this file, and no two columns of one name"
        )
    names = table.column(FILE_NAME).to_pylist()
    folder = os.path.dirname(file)
    paths = [_path(folder, name) for name in names]
    outside = [
        f"{root / file}: row {row} has the {FILE_NAME} {name!r}, which is not a path inside the folder of this file; "
        "use a relative path"
        for row, (name, path) in enumerate(zip(names, paths, strict=True))
        if path is None and name is not None
    ]
    if outside:
        raise UserError("\n".join(first_few(outside)))
    return Rows(file, table.drop_columns([FILE_NAME]), paths)


def _path(folder: str, name: object) -> str | None:
    """Return the path below the root of a row's file; None if it is not inside the folder of the metadata file."""
    if not isinstance(name, str) or not name or os.path.isabs(name):
        return None
    below = os.path.normpath(name.replace("\\", "/"))
    if below == "." or below.startswith("../") or below == "..":
        return None
    return f"{folder}/{below}" if folder else below


def _read_table(file: Path) -> pa.Table:
    """Read a table of any supported format."""
    if file.suffix == ".parquet":
        return pa.parquet.read_table(file).replace_schema_metadata(None)
    if file.suffix == ".jsonl":
        return pa.json.read_json(file)
    table = pa.csv.read_csv(
        file,
        # Types are inferred from the first block, so the whole file is one block.
        pa.csv.ReadOptions(block_size=file.stat().st_size + 1),
        pa.csv.ParseOptions(newlines_in_values=True),
        pa.csv.ConvertOptions(null_values=NO_VALUE, strings_can_be_null=True),
    )
    if any(pa.types.is_binary(field.type) for field in table.schema):
        raise ValueError("it is not UTF-8 text")
    for index, column in enumerate(table.columns):
        if pa.types.is_floating(column.type) and _are_whole(column):  # 0.0 and 1.0 are classes too
            table = table.set_column(index, table.field(index).name, column.cast(pa.int64()))
    return table


def _are_whole(column: pa.ChunkedArray) -> bool:
    """Return whether all numbers of a floating-point column are whole and can be stored as int64."""
    small = pa.compute.less(pa.compute.abs(column), 2.0**53)
    whole = pa.compute.equal(column, pa.compute.round(column))
    return bool(pa.compute.all(pa.compute.and_(small, whole)).as_py())


def misread_numbers(file: Path, column: str) -> Iterator[str]:
    """Yield a message on the first label of a metadata.csv that changes when read as a number, such as 007."""
    if file.suffix != ".csv":
        return
    with file.open(encoding="utf-8-sig", newline="") as lines:
        for row in csv.DictReader(lines):
            value = row.get(column) or ""
            if NUMBER.match(value.strip()) and str(int(value)) != value:
                yield f"{file}: the {column} {value} is read as the number {int(value)}; use names instead of numbers"
                return


def conflicting_rows(paths: Sequence[str | None], labels: Sequence[object]) -> tuple[list[int], list[str]]:
    """Find images that are listed several times.

    Args:
        paths: the image of each row.
        labels: the label of each row.

    Returns:
        the rows that repeat an earlier row with the same label, and the images with more than one label.
    """
    first: dict[str, int] = {}
    repeated, conflicting = list[int](), dict[str, None]()
    for row, path in enumerate(paths):
        if path is None or first.setdefault(path, row) == row:
            continue
        if labels[first[path]] == labels[row]:
            repeated.append(row)
        else:
            conflicting[path] = None
    return repeated, [shown(path) for path in conflicting]
