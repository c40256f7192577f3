"""Every figure that the README tells of our own runs is in benchmarks/results."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT


sys.path.insert(0, str(ROOT / "benchmarks"))
import tables


README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize(
    "lines",
    [
        *(tables.speed, tables.quickstart, lambda: tables.label_sizes("tiny"), tables.protocols),
        *(lambda: tables.methods("cifar10"), tables.digits, tables.architectures),
        *(tables.grid, tables.continual, tables.cost),
    ],
    ids=[
        *("speed", "quickstart", "labels", "protocols", "methods", "digits", "architectures"),
        *("grid", "continual", "cost"),
    ],
)
def test_the_readmes_tables_are_those_of_the_results(lines: "Iterator[str]") -> None:
    for line in lines():  # type: ignore[operator]
        assert line in README, f"python benchmarks/tables.py gives: {line}"


def test_results_tell_their_machine_versions_and_commit() -> None:
    for file in Path(ROOT / "benchmarks" / "results").glob("*.json"):
        if file.stem != "memory":
            told = tables.json.loads(file.read_text())
            assert told["device"] and told["versions"]["torch"] and told["commit"], file
