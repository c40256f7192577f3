"""Every benchmark runs on a small case, or at least all of its recipes load."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ROOT

from srel_hub.config import Network, Recover, load_recipe
from srel_hub.studies.sweep.points import read_sweep


sys.path.insert(0, str(ROOT / "benchmarks"))
import architectures
import continual
import crop
import faithful
import grid
import labels
import measured
import memory
import methods
import pipeline
import recover
import relabel
import train


TINY = recover.Case(Network(model="convnet", width=0.05), 8, 4, stack=2)


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run in an empty folder, and keep the results there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(measured, "RESULTS", tmp_path / "results")
    return tmp_path


def test_speed_benchmarks_run() -> None:
    against_published = recover.compare_with_published(TINY)
    assert set(against_published["times"]) >= {"published", "ours", "bare"}  # type: ignore[call-overload]
    assert recover.flops(TINY) > 0 and recover.compare_with_one_by_one(TINY)["ratio"]
    assert relabel.compare_with_published(TINY, 4)["ratio"] and train.compare_with_published(TINY, 4)["ratio"]
    assert crop.measure(2, 8)["ratio_to_pillow"]


def test_the_pipeline_benchmark_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "CASE", TINY)
    monkeypatch.setattr(pipeline, "ITERATIONS", 1)
    monkeypatch.setattr(pipeline, "EPOCHS", 1)
    stages = pipeline.compare()["milliseconds"]
    assert set(stages) == {"recover", "relabel", "student"}  # type: ignore[call-overload]


def test_cases_are_measured_once_and_resume(work: Path) -> None:
    calls = []

    def case(name: str) -> dict[str, str]:
        calls.append(name)
        return {"name": name}

    cases = {name: lambda name=name: case(name) for name in "ab"}
    assert not measured.run("two", cases, budget=-1) and calls == []
    assert measured.run("two", cases) and measured.run("two", cases) and calls == ["a", "b"]
    assert json.loads((work / "results" / "two.json").read_text())["results"]["b"] == {"name": "b"}


@pytest.mark.skipif(sys.platform != "linux", reason="peaks are reset by /proc")
def test_the_memory_benchmark_runs(work: Path) -> None:
    result = memory.measure(work, classes=2, ipc=2)
    assert result["images"] == 4 and len(result["reading_mib"]) == memory.EPOCHS  # type: ignore[arg-type]


@pytest.mark.parametrize("changes", architectures.WEIGHTS.values(), ids=architectures.WEIGHTS)
def test_the_benchmark_of_architectures_measures_each_weight(changes: dict[str, object]) -> None:
    teacher = recover.Case(Network(model="convnet", width=0.05), 8, 10).classifier()
    result = architectures.measure(teacher, replace(Recover(ipc=2, iterations=2), **changes))  # type: ignore[arg-type]
    assert 0 <= result["recognized"] <= 1 and len(result["cross_entropy"]) == 2


def test_recipes_of_benchmarks_load() -> None:
    for name, (recipe, _) in labels.REDUCED.items():
        for changes in labels.variants(40, 10).values():
            assert load_recipe(recipe, [*labels.overrides(name, "DATA"), *changes]).relabel.epochs
    for dataset, ipc in methods.BUDGETS:
        for method in methods.METHODS:
            recipe, overrides = methods.overrides(dataset, None if dataset == "digits" else "DATA", ipc, method)
            assert load_recipe(recipe, overrides).recover.ipc == ipc
    assert load_recipe("cifar10_ipc10", [*faithful.REDUCED, "source.path=DATA"]).evaluate.seeds == 3
    changes = [change.replace("SIDE", "32") for change in continual.CHANGES]
    assert load_recipe("cifar10_ipc10", changes).recover.statistics == "class"
    path, *arguments = grid.command("DATA")
    assert {point.labels for point in read_sweep(path, arguments).points} == {("convnet",), ("bn_vit_tiny",)}
