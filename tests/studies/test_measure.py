"""The command `measure`: its table and file, memory of each network alone, mistakes reported before measuring."""

import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import execute

from srel_hub.commands.program import main
from srel_hub.studies.measure import PAPER, paper_figures, parse_network, report_lines


NETWORKS = ["convnet:0.5", "convnet:0.05"]  # the larger one first: its peak must not become the other's
OPTIONS = ["--size=32", "--batch=32", "--classes=40", "--iterations=2", "--precision=float32"]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """Return the text that the command prints, and the JSON that it writes."""
    file, printed = tmp_path_factory.mktemp("cost") / "cost.json", io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(["measure", *NETWORKS, *OPTIONS, f"--json={file}"]) == 0
    return printed.getvalue(), json.loads(file.read_text())


def rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| c")]


@pytest.mark.long
def test_each_network_has_a_line_in_the_order_of_the_arguments(table: tuple[str, dict[str, Any]]) -> None:
    assert [row[0] for row in rows(table[0])] == ["convnet x 0.5", "convnet x 0.05"]


@pytest.mark.long
def test_the_table_agrees_with_the_file(table: tuple[str, dict[str, Any]]) -> None:
    text, figures = table
    assert text == "\n".join(report_lines(figures)) + "\n"
    for row, result in zip(rows(text), figures["results"], strict=True):
        assert row[1] == f"{result['parameters']:,}"
        assert float(row[2]) == pytest.approx(result["ms"], rel=0.01)


@pytest.mark.long
def test_the_report_names_device_versions_and_settings(table: tuple[str, dict[str, Any]]) -> None:
    text, figures = table
    assert figures["device"] in text and f"torch {figures['versions']['torch']}" in text
    assert "float32; batches of 32 images of 32 x 32 pixels, 40 classes; median of 2 iterations" in text


@pytest.mark.long
def test_a_wider_network_takes_more_memory(table: tuple[str, dict[str, Any]]) -> None:
    wide, narrow = table[1]["results"]
    for name in ("parameters", "peak_bytes", "forecast_bytes"):
        assert wide[name] > narrow[name] > 0
    assert wide["peak_bytes"] > wide["forecast_bytes"] / 2  # the forecast is for this work


def test_the_papers_figures_appear_only_beside_its_own_networks_and_images() -> None:
    for name in ("convnet", "resnet18", "resnet50"):
        assert paper_figures(parse_network(name, 64), 64, 100) == PAPER[f"{name} x 1"]
        assert paper_figures(parse_network(f"{name}:1", 64), 64, 100) == PAPER[f"{name} x 1"]
        assert paper_figures(parse_network(f"{name}:0.5", 64), 64, 100) is None
        assert paper_figures(parse_network(name, 32), 32, 100) is None
        assert paper_figures(parse_network(name, 64), 64, 50) is None
    assert paper_figures(parse_network("mobilenet_v2", 64), 64, 100) is None


@pytest.mark.long
def test_the_paper_is_cited_only_beside_its_figures(table: tuple[str, dict[str, Any]]) -> None:
    text, figures = table
    assert "paper's figures" not in text
    cited = {**figures, "results": [{**row, "paper": PAPER["convnet x 1"]} for row in figures["results"]]}
    assert "| 0.24 | 4.2 GB |" in "\n".join(report_lines(cited)) and "paper's figures" in "\n".join(report_lines(cited))


@pytest.mark.long
def test_a_network_that_does_not_fit_is_reported(table: tuple[str, dict[str, Any]]) -> None:
    figures = table[1]
    none = {**figures, "results": [{**row, "ms": None, "peak_bytes": None} for row in figures["results"]]}
    assert "| out of memory |  |" in "\n".join(report_lines(none))


def test_a_resnet_for_large_images_gets_the_imagenet_stem() -> None:
    assert [parse_network("resnet18", side).stem for side in (64, 127, 128, 224)] == ["small"] * 2 + ["imagenet"] * 2
    assert parse_network("convnet", 224).stem == "small"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["convet"], "MODEL=convet: model: must be one of resnet18,"),
        (["convnet:wide"], "MODEL=convnet:wide: width: must be a number above 0 and at most 64, got 'wide'"),
        (["convnet:0"], "MODEL=convnet:0: width: must be a number above 0 and at most 64, got '0'"),
        (
            ["org/net:0.5"],
            "MODEL=org/net:0.5: width=0.5: only networks with a name have a width, and that of org/net",
        ),
        (["deit_tiny:0.1"], "MODEL=deit_tiny:0.1: ViTForImageClassification has no BatchNorm2d layer"),
        (["convnet", "--batch=20", "--classes=10"], "--batch=20: must be at most --classes=10"),
        (["convnet", "--iterations=0"], "--iterations=0: must be at least 1"),
        (["convnet", "--json=no/such/file.json"], "--json=no/such/file.json: there is no folder no/such"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_a_mistake_is_reported_before_measuring(
    capfd: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["measure", *arguments]) == 2
    printed = capfd.readouterr()
    assert printed.err.startswith(f"error: {message}") and printed.err.count("\n") == 1 and not printed.out


@pytest.mark.long
def test_help(tmp_path: Path) -> None:
    done = execute(sys.executable, "-m", "srel_hub", "measure", "--help", cwd=tmp_path)
    assert done.returncode == 0 and "MODEL[:WIDTH]" in done.stdout and "--alone" not in done.stdout
