"""Write tables as Markdown and as CSV."""

import csv
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], right: Collection[int] = ()) -> list[str]:
    """Return the lines of a Markdown table.

    Cells may hold any text: `|` is escaped and line breaks become spaces. Other Markdown in them stays in effect.

    Args:
        header: The titles of the columns.
        rows: One text per column and row.
        right: Indices of the columns to align to the right, such as those of numbers.

    Returns:
        The header, the line that sets the alignment, and one line per row.
    """
    rule = ["---:" if column in right else "---" for column in range(len(header))]
    return [_line(header), f"| {' | '.join(rule)} |", *(_line(row) for row in rows)]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(_one_line(cell) for cell in cells)} |"


def _one_line(cell: str) -> str:
    return " ".join(cell.splitlines()).replace("|", r"\|")


def write_csv(file: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    r"""Write a CSV file in UTF-8 with a header line; `None` becomes an empty cell.

    Lines end in `\n` on every system, so that equal tables are equal files. The file is written in place: inside a
    run, call this within `storage.files.atomic_write`. Because it is written in place, the `--csv` of a command may
    also be a pipe or `/dev/stdout`.
    """
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
