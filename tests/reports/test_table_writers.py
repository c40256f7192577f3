"""Tables survive any text in their cells and are the same bytes on every system."""

import csv
from pathlib import Path

from srel_hub.reports.tables import markdown_table, write_csv


def test_a_markdown_table_aligns_numbers_and_keeps_its_columns() -> None:
    lines = markdown_table(["name", "images"], [["red|green", "1,000"], ["two\nlines", ""]], right={1})
    assert lines == ["| name | images |", "| --- | ---: |", r"| red\|green | 1,000 |", "| two lines |  |"]


def test_a_table_without_rows_is_its_header() -> None:
    assert markdown_table(["a"], []) == ["| a |", "| --- |"]


def test_a_csv_file_reads_back_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "table.csv"
    write_csv(file, ["name", "top1", "std"], [['red, "very"\nred', 0.5, None], ["grün", 1, 0.1]])
    assert b"\r" not in file.read_bytes()
    with file.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.reader(stream))
    assert rows == [["name", "top1", "std"], ['red, "very"\nred', "0.5", ""], ["grün", "1", "0.1"]]
