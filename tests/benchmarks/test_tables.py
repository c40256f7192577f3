"""Every table of our own results in the README and in docs is what benchmarks/results gives."""

import re
import sys
from pathlib import Path

import pytest
from conftest import ROOT


sys.path.insert(0, str(ROOT / "benchmarks"))
import tables


@pytest.mark.parametrize("page", [*tables.pages()], ids=lambda page: page.relative_to(ROOT).as_posix())
def test_tables_are_those_of_the_results(page: Path) -> None:
    assert tables.fill(page.read_text()) == page.read_text(), "run: python benchmarks/tables.py"


def test_every_table_has_a_place_and_every_place_a_table() -> None:
    marked = [name for page in tables.pages() for name in re.findall("<!-- table: ([\\w-]+) -->", page.read_text())]
    assert set(marked) == set(tables.TABLES)
    assert sum(page.read_text().count("<!-- end of table -->") for page in tables.pages()) == len(marked)


def test_results_name_their_machine_versions_and_commit() -> None:
    for file in sorted((ROOT / "benchmarks" / "results").glob("*.json")):
        content = tables.file(file.stem)
        assert content["device"] and content["versions"]["torch"] and content["commit"], file
