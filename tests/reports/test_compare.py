"""Results of several runs are listed side by side, and never under one protocol if they have two."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from srel_hub.commands.program import main
from srel_hub.storage.files import read_json


def trial(finished: Path, root: Path, name: str, top1: dict[str, float], **evaluate: Any) -> Path:
    """Copy a finished run to another name, with other accuracies and another protocol."""
    folder = shutil.copytree(finished, root / name)
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    recipe["name"] = name
    recipe["evaluate"] |= evaluate
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    summary = read_json(folder / "evaluate" / "summary.json")
    for row in summary["students"][0]["rows"]:
        row["top1"]["mean"] = top1.get(row["row"], 0.5)
    (folder / "evaluate" / "summary.json").write_text(json.dumps(summary))
    return folder


def test_different_protocols_never_share_a_column(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = trial(finished, tmp_path, "one", {"condensed": 0.41})
    two = trial(finished, tmp_path, "two", {"condensed": 0.42})
    other = trial(finished, tmp_path, "other", {"condensed": 0.43}, epochs=3)
    named = trial(finished, tmp_path, "named", {"condensed": 0.44}, seeds=2, temperature=7.0)
    paths = [str(folder) for folder in (one, two, other, named)]
    assert main(["compare", *paths, "--csv", str(tmp_path / "all.csv"), "--plot", str(tmp_path / "all.png")]) == 0
    lines = capsys.readouterr().out.splitlines()
    head, *body = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    cells = {row[0]: row[5:8] for row in body if row[2] == "condensed"}
    assert head[5:8] == ["P1", "P2", "P3"]
    filled = {name: [bool(cell) for cell in row] for name, row in cells.items()}
    assert filled["one"] == filled["two"] == [True, False, False]
    assert filled["other"] == [False, True, False] and filled["named"] == [False, False, True]
    assert cells["two"][0].startswith("42.00")
    assert [line.strip() for line in lines if line.startswith("  P")] == [
        *("P1: its own 1", "P2: its own 2", "P3: its own 3")
    ]
    with (tmp_path / "all.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12 and {row["protocol"] for row in rows if row["dataset"] in ("one", "two")} == {"its own 1"}
    with Image.open(tmp_path / "all.png") as picture:
        assert picture.width > 600


def test_a_run_and_its_dataset_have_the_same_results(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(finished)]) == 0
    run = capsys.readouterr().out
    assert main(["compare", str(finished / "dataset")]) == 0
    dataset = capsys.readouterr().out
    assert run.splitlines()[2].split("|")[3:5] == dataset.splitlines()[2].split("|")[3:5]


def test_what_cannot_be_compared_is_refused_with_a_reason(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", str(finished), f"{finished}/"]) == 2
    assert "the same path occurs twice" in capsys.readouterr().err
    folder = trial(finished, tmp_path, "none", {})
    (folder / "evaluate" / "summary.json").write_text(json.dumps({"measured": False, "students": []}))
    assert main(["compare", str(folder)]) == 2
    assert "no students were evaluated" in capsys.readouterr().err
    assert main(["compare", str(tmp_path / "nowhere")]) == 2
    (folder / "evaluate" / "summary.json").write_text('{"measured": true, "students": [{"rows": [{}]}]}')
    assert main(["compare", str(folder)]) == 2
    assert "its results are not in the form that srel_hub writes" in capsys.readouterr().err
    (folder / "evaluate" / "summary.json").write_text("[")
    assert main(["compare", str(folder), str(tmp_path / "nowhere"), str(tmp_path)]) == 2
    printed = capsys.readouterr().err
    assert "evaluate/summary.json: its results are not" in printed and "nowhere: there is no such folder" in printed
    assert f"{tmp_path}: this is neither a run nor a condensed dataset" in printed


def test_runs_that_are_not_evaluated_are_listed_and_the_others_compared(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = trial(finished, tmp_path, "one", {"condensed": 0.41})
    unscored = trial(finished, tmp_path, "unscored", {})
    (unscored / "evaluate" / "summary.json").write_text(json.dumps({"measured": False, "students": []}))
    begun = trial(finished, tmp_path, "begun", {})
    for part in ("evaluate", "soft_labels", "dataset"):
        shutil.rmtree(begun / part)
    paths = [str(folder) for folder in (unscored, one, begun)]
    assert main(["compare", *paths, "--csv", str(tmp_path / "all.csv")]) == 0
    table, _, listed = capsys.readouterr().out.partition("\nnot evaluated:\n")
    assert "41.00" in table and "unscored" not in table and "begun" not in table
    assert listed.splitlines() == [
        f"  {unscored}: no students were evaluated, because source.eval_split is null",
        f"  {begun}: there are no results; run `srel-hub evaluate {begun}` first",
    ]
    with (tmp_path / "all.csv").open() as file:
        assert {row["dataset"] for row in csv.DictReader(file)} == {"one"}
    assert main(["compare", str(unscored), str(begun)]) == 2
    assert capsys.readouterr().err.count("\n") == 2
