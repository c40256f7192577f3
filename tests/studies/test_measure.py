"""The table of costs: what it holds, that memory is the network's own, what is refused before anything is measured."""

import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import execute

from srel_hub.commands.program import main
from srel_hub.studies.measure import DEFAULTS, PAPER, lines, network_of, paper_figures


ASKED = ["convnet:0.5", "convnet:0.05"]  # the larger one first: its peak must not become the other's
OPTIONS = ["--size=32", "--batch=32", "--classes=40", "--iterations=2", "--precision=float32"]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """What the command prints, and what it writes."""
    file, printed = tmp_path_factory.mktemp("cost") / "cost.json", io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(["measure", *ASKED, *OPTIONS, f"--json={file}"]) == 0
    return printed.getvalue(), json.loads(file.read_text())


def rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| c")]


def test_each_network_has_its_line_in_the_order_asked(table: tuple[str, dict[str, Any]]) -> None:
    assert [row[0] for row in rows(table[0])] == ["convnet x 0.5", "convnet x 0.05"]


def test_the_table_is_that_of_the_file(table: tuple[str, dict[str, Any]]) -> None:
    text, found = table
    assert text == "\n".join(lines(found)) + "\n"
    for row, told in zip(rows(text), found["results"], strict=True):
        assert row[1] == f"{told['parameters']:,}"
        assert float(row[2]) == pytest.approx(told["ms"], rel=0.01)


def test_it_tells_what_it_was_measured_on(table: tuple[str, dict[str, Any]]) -> None:
    text, found = table
    assert found["device"] in text and f"torch {found['versions']['torch']}" in text
    assert "float32; 32 images of 32 x 32 pixels at a time, of 40 classes; median of 2 iterations" in text


def test_a_wider_network_takes_more_memory(table: tuple[str, dict[str, Any]]) -> None:
    wide, narrow = table[1]["results"]
    for told in ("parameters", "peak_bytes", "forecast_bytes"):
        assert wide[told] > narrow[told] > 0
    assert wide["peak_bytes"] > wide["forecast_bytes"] / 2  # the forecast is of this work, not of another


def test_the_papers_figures_stand_by_its_own_networks_and_images_only() -> None:
    for name in DEFAULTS:
        assert paper_figures(network_of(name, 64), 64, 100) == PAPER[f"{name} x 1"]
        assert paper_figures(network_of(f"{name}:1", 64), 64, 100) == PAPER[f"{name} x 1"]
        assert paper_figures(network_of(f"{name}:0.5", 64), 64, 100) is None
        assert paper_figures(network_of(name, 32), 32, 100) is None
        assert paper_figures(network_of(name, 64), 64, 50) is None
    assert paper_figures(network_of("mobilenet_v2", 64), 64, 100) is None


def test_the_paper_is_named_where_its_figures_are(table: tuple[str, dict[str, Any]]) -> None:
    text, found = table
    assert "paper's figures" not in text
    cited = {**found, "results": [{**row, "paper": PAPER["convnet x 1"]} for row in found["results"]]}
    assert "| 0.24 | 4.2 GB |" in "\n".join(lines(cited)) and "paper's figures" in "\n".join(lines(cited))


def test_what_did_not_fit_is_told(table: tuple[str, dict[str, Any]]) -> None:
    found = table[1]
    none = {**found, "results": [{**row, "ms": None, "peak_bytes": None} for row in found["results"]]}
    assert "| out of memory |  |" in "\n".join(lines(none))


def test_a_large_image_is_for_the_stem_of_large_images() -> None:
    assert [network_of("resnet18", side).stem for side in (64, 127, 128, 224)] == ["small"] * 2 + ["imagenet"] * 2
    assert network_of("convnet", 224).stem == "small"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["convet"], "MODEL=convet: model: input should be one of resnet18,"),
        (["convnet:wide"], "MODEL=convnet:wide: width: input should be a valid number"),
        (["convnet:0"], "MODEL=convnet:0: width: input should be greater than 0"),
        (
            ["org/net:0.5"],
            "MODEL=org/net:0.5: width=0.5: org/net is as wide as its config.json says; leave it out",
        ),
        (["deit_tiny:0.1"], "MODEL=deit_tiny:0.1: ViTForImageClassification has no BatchNorm2d layer"),
        (["convnet", "--batch=20", "--classes=10"], "--batch=20: must be at most --classes=10"),
        (["convnet", "--iterations=0"], "--iterations=0: must be at least 1"),
        (["convnet", "--json=no/such/file.json"], "--json=no/such/file.json: there is no such folder"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_refusals(capfd: pytest.CaptureFixture[str], arguments: list[str], told: str) -> None:
    assert main(["measure", *arguments]) == 2
    said = capfd.readouterr()
    assert said.err.startswith(f"error: {told}") and said.err.count("\n") == 1 and not said.out


@pytest.mark.long
def test_help(tmp_path: Path) -> None:
    done = execute(sys.executable, "-m", "srel_hub", "measure", "--help", cwd=tmp_path)
    assert done.returncode == 0 and "MODEL[:WIDTH]" in done.stdout and "--alone" not in done.stdout
