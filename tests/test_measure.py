"""The cost table: what is asked, in order, with memory that grows with the network, beside the paper's like."""

import json
from pathlib import Path

import pytest
from conftest import execute

from srel_hub import measure
from srel_hub.measure import Cost, Setting
from srel_hub.recipe import Network


SMALL = ["--size", "8", "--batch", "4", "--classes", "4", "--iterations", "1", "--precision", "float32"]


def lines_of(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line[:1] == "|"]


def test_a_line_a_network_and_the_same_numbers_as_json(tmp_path: Path) -> None:
    command = ("python", "-m", "srel_hub.measure", "convnet:0.05", "resnet18:0.5", *SMALL, "--json", "cost.json")
    done = execute(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    kept = json.loads((tmp_path / "cost.json").read_text())
    _, _, *rows = lines_of(done.stdout)
    assert [row[0] for row in rows] == ["convnet x 0.05", "resnet18 x 0.5"]
    assert [row[2] for row in rows] == [f"{cost['ms']:.3g}" for cost in kept["results"]]
    small, large = kept["results"]
    assert 0 < small["peak_bytes"] < large["peak_bytes"] and 4 * large["parameters"] < large["peak_bytes"]
    assert kept["device"] and kept["versions"]["torch"] and kept["batch"] == 4


@pytest.mark.parametrize(
    ("size", "batch", "told"), [(64, 100, ["0.75", "7.6 GB"]), (64, 50, ["0.75", ""]), (32, 100, ["", ""])]
)
def test_the_papers_figures_stand_beside_the_like_alone(size: int, batch: int, told: list[str]) -> None:
    setting = Setting(size, batch, 200, 1, "float32", False)
    found = [Cost("resnet18 x 1", 10, 1.0, 2**30), Cost("resnet18 x 0.5", 10, 1.0, 2**30)]
    _, rule, *rows = lines_of("\n".join(measure.table(found, setting)))
    assert rows[0][4:] == told and rows[1][4:] == ["", ""]
    assert all(len(row) == len(rule) for row in rows)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["deit_tiny:0.25"], "has no BatchNorm2d layer"),
        (["resnet18", "nothing"], "nothing: model: input should be one of"),
        (["convnet:wide"], "convnet:wide: the width after the colon must be a number, got 'wide'"),
        (["--batch", "10", "--classes", "5"], "raise --classes=5"),
        (["--iterations", "0"], "--iterations=0: must be 1 or more"),
    ],
)
def test_mistakes_are_told(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert measure.main(arguments) == 2
    captured = capsys.readouterr()
    assert words in captured.err and not captured.out


def test_a_width_follows_a_colon() -> None:
    assert measure.read_network("convnet:0.5") == Network(model="convnet", width=0.5)
    assert measure.read_network("org/classifier") == Network(model="org/classifier")
