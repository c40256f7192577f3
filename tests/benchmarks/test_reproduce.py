"""Reproductions: in time slices, on another machine, and from the images of a larger run."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from conftest import ROOT, SMALL, make_source

from srel_hub.config import load_recipe
from srel_hub.config.recipe_files import recipe_names
from srel_hub.config.resources import RECIPES


sys.path.insert(0, str(ROOT / "benchmarks"))
import measured
import reproduce


SLOW = ["squeeze.epochs=30", "recover.iterations=60", "recover.stack=1", "relabel.epochs=20", "evaluate.epochs=20"]


def test_every_shipped_recipe_has_its_own_name_and_states_the_published_accuracy() -> None:
    names = [load_recipe(name).name for name in recipe_names()]
    assert len(set(names)) == len(names) > 60
    for name in recipe_names():
        head = (RECIPES / f"{name}.yaml").read_text().split("\nextends", 1)[0]
        assert any(word in head for word in ("% top-1", "No figure is published", "No published figure")), name


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(measured, "RESULTS", tmp_path / "results")
    make_source(tmp_path / "source", (8, 8), ["red", "green", "blue"])
    return tmp_path


def command(ipc: int, *more: str) -> list[str]:
    return ["cifar10", "cda", str(ipc), *SMALL, *SLOW, "source.path=source", *more]


@pytest.mark.long
def test_time_slices_on_two_machines_give_the_results_of_one_run(work: Path) -> None:
    state, run = work / "state", work / "runs/reproduce/cifar10_ipc10_cda"
    statuses = []
    for seconds in (5, 8, 11, 14, 20, 60, 120):  # a fast machine needs one slice of 14 s, a busy one several of 20
        statuses.append(reproduce.main(command(10, "--state", str(state), "--seconds", str(seconds))))
        assert list(state.glob("state-*"))
        if statuses[-1] == 0:
            break
        shutil.rmtree(run, ignore_errors=True)
    assert statuses[-1] == 0 and 143 in statuses
    sliced = json.loads((state / "reproduce-cifar10_ipc10_cda.json").read_text())
    shutil.rmtree(run.parent)
    assert reproduce.main(command(10)) == 0
    whole = json.loads((work / "results" / "reproduce-cifar10_ipc10_cda.json").read_text())
    assert sliced["results"]["students"] == whole["results"]["students"]
    assert sliced["results"]["published"] is None and sliced["results"]["device_seconds"]["recover"] > 0


@pytest.mark.long
def test_the_first_images_of_a_larger_run_equal_those_of_a_smaller_one(work: Path) -> None:
    larger = work / "runs/reproduce/cifar10_ipc10_cda"
    assert reproduce.main(command(10)) == 0
    assert reproduce.main(command(1, "--first-of", str(larger))) == 0
    smaller = work / "runs/reproduce/cifar10_ipc1_cda"
    first_record = json.loads((smaller / "metrics.jsonl").read_text().splitlines()[0])
    assert first_record["stage"] != "recover" and len(list((smaller / "images").glob("*"))) == 1
    shutil.rmtree(smaller)
    (shard,) = (work / "runs/reproduce/cifar10_ipc10_cda/images").glob("ipc-00000-*")
    assert reproduce.main(command(1)) == 0
    assert (smaller / "images" / shard.name).read_bytes() == shard.read_bytes()
