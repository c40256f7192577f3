"""Sweeps: axes, shared stages that equal stages run alone, interruption, tables and mistakes."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import HUB
from hypothesis import given
from hypothesis import strategies as st
from runs import arguments, bytes_of, finish, world

from srel_hub.commands.program import main
from srel_hub.config import load_recipe
from srel_hub.config.recipe_files import SWEEPS
from srel_hub.errors import UserError
from srel_hub.runs.shared_stages import borrow, is_finished, lendable
from srel_hub.storage.files import read_json
from srel_hub.studies.sweep.axes import format_value, point_name
from srel_hub.studies.sweep.points import read_sweep
from srel_hub.studies.sweep.report import table
from srel_hub.studies.sweep.results import collect_results
from srel_hub.studies.sweep.run_sweep import shared_stages


AXES = ["recover.iterations=3,6,9", "squeeze.epochs=2,4"]
QUICK = ["relabel.epochs=4", "evaluate.epochs=2"]


def sweep_arguments(folder: Path, *more: str) -> list[str]:
    """Return the command line of a sweep with six points."""
    recipe = folder / "world.yaml"
    recipe = recipe if recipe.is_file() else world(folder)
    return [*arguments(recipe, folder / "runs"), *QUICK, *AXES, *more]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("swept")
    assert main(["sweep", *sweep_arguments(folder)]) == 0
    return folder


def test_points_share_their_common_stages(swept: Path) -> None:
    sweep = read_sweep(*_path_and_arguments(swept))
    assert len(sweep.points) == 6
    assert shared_stages(sweep) == "squeeze 2 of 6, recover 6 of 6, relabel 6 of 6, evaluate 6 of 6"
    teachers = {(point.folder / "teacher" / "model.safetensors").stat().st_ino for point in sweep.points}
    assert len(teachers) == 2  # linked, not copied


def _path_and_arguments(folder: Path) -> tuple[str, list[str]]:
    path, *rest = sweep_arguments(folder)
    return path, rest


def test_a_shared_stage_equals_the_stage_of_the_point_run_alone(swept: Path, tmp_path: Path) -> None:
    alone = arguments(swept / "world.yaml", tmp_path, *QUICK, "recover.iterations=9", "squeeze.epochs=4")
    finish(alone, tmp_path / "log.txt")
    parts = ("teacher", "images", "soft_labels", "evaluate")
    shared_run = swept / "runs" / "world-sweep" / "iterations-9-epochs-4"
    assert read_json(shared_run / "lent.json")["squeeze"] == "iterations-3-epochs-4"
    assert bytes_of(shared_run, parts) == bytes_of(tmp_path / "world", parts)


def test_table_csv_and_runs_agree(swept: Path) -> None:
    sweep = read_sweep(*_path_and_arguments(swept))
    lines = list(table(sweep, collect_results(sweep)))
    assert len(lines) == 2 + 6
    with (swept / "runs" / "world-sweep" / "iterations-epochs.csv").open() as file:
        records = list(csv.DictReader(file))
    assert len(records) == 6 * 3
    for record in records:
        run = (
            swept
            / "runs"
            / "world-sweep"
            / f"iterations-{record['recover.iterations']}-epochs-{record['squeeze.epochs']}"
        )
        rows = read_json(run / "evaluate" / "summary.json")["students"][0]["rows"]
        top1 = next(row["top1"] for row in rows if row["row"] == record["row"])
        assert float(record["top1"]) == top1["mean"] and float(record["std"]) == top1["std"]
        assert f"{100 * top1['mean']:.2f} +- {100 * top1['std']:.2f}" in "\n".join(lines)
    assert (swept / "runs" / "world-sweep" / "iterations-epochs.png").stat().st_size < 2**20


def test_a_complete_sweep_runs_nothing_and_shares_with_another_sweep(
    swept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = read_sweep(*_path_and_arguments(swept))
    before = {point.folder: (point.folder / "metrics.jsonl").read_bytes() for point in sweep.points}
    assert main(["sweep", *sweep_arguments(swept)]) == 0
    assert before == {point.folder: (point.folder / "metrics.jsonl").read_bytes() for point in sweep.points}
    overrides = [text for text in sweep_arguments(swept) if text not in AXES]
    assert main(["sweep", *overrides, "squeeze.epochs=4", "recover.iterations=9", "evaluate.temperature=1,4"]) == 0
    assert "squeeze 0 of 2, recover 0 of 2, relabel 0 of 2, evaluate 2 of 2" in capsys.readouterr().out


@pytest.mark.long
def test_a_killed_sweep_resumes_to_the_same_results(swept: Path, tmp_path: Path) -> None:
    shutil.copytree(swept / "source", tmp_path / "source")
    text = (swept / "world.yaml").read_text().replace(str(swept / "source"), str(tmp_path / "source"))
    (tmp_path / "world.yaml").write_text(text)
    command = [sys.executable, "-m", "srel_hub", "sweep", *sweep_arguments(tmp_path)]
    environment = HUB.environment(tmp_path / ".hf")
    root = tmp_path / "runs" / "world-sweep"
    with (tmp_path / "out.txt").open("w") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out, cwd=tmp_path)
        deadline = time.monotonic() + 120
        while not is_finished(root / "iterations-3-epochs-4", "recover") and time.monotonic() < deadline:
            assert process.poll() is None, (tmp_path / "out.txt").read_text()[-2000:]
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert not (root / "iterations-9-epochs-4").exists()
    assert main(["sweep", *sweep_arguments(tmp_path)]) == 0
    for name in ("iterations-epochs.csv", "iterations-epochs.md"):
        assert (root / name).read_bytes() == (swept / "runs" / "world-sweep" / name).read_bytes()


def test_incomplete_stages_and_those_of_another_recipe_are_not_lent(swept: Path, tmp_path: Path) -> None:
    donor = tmp_path / "donor"
    shutil.copytree(swept / "runs" / "world-sweep" / "iterations-9-epochs-4", donor)
    recipe = load_recipe(donor, ["name=other"])
    assert lendable(donor, recipe) == ("squeeze", "recover", "relabel")
    assert lendable(donor, load_recipe(donor, ["relabel.epochs=3"])) == ("squeeze", "recover")
    assert lendable(donor, load_recipe(donor, ["seed=5"])) == ()
    next((donor / "images").glob("*.parquet")).write_bytes(b"cut short")
    assert lendable(donor, recipe) == ("squeeze",)
    borrow(recipe, tmp_path / "goal", [donor])
    assert sorted(place.name for place in (tmp_path / "goal").iterdir()) == ["lent.json", "teacher", "units"]


@pytest.mark.parametrize("file", sorted(SWEEPS.glob("*.yaml")), ids=lambda file: file.stem)
def test_a_shipped_sweep_spans_its_points(file: Path) -> None:
    sweep = read_sweep(file.stem, ["recover.ipc=2"])
    assert len(sweep.points) >= 2
    assert {point.recipe.recover.ipc for point in sweep.points} == {2}
    if file.stem != "relabel_model":  # at the size of another recipe
        assert len(read_sweep("cifar10_ipc10", [file.stem]).points) == len(sweep.points)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to vary"),
        (["recover.iterations=5,x", "squeeze.epohs=1,2"], "must be a whole number of at least 1, got 'x'"),
        (["recover.iterations=5,x", "squeeze.epohs=1,2"], "did you mean epochs?"),
        (["recover.iterations=5,5"], "are the same run"),
        (["seed=" + ",".join(map(str, range(1001)))], "the sweep has 1,001 points; at most 1,000 are allowed"),
        (["nowhere", "seed=1,2"], "no recipe 'nowhere'"),
        (["seed=1,2", "seed=3,4"], "seed is varied twice, by seed=1,2 and seed=3,4; remove one of them"),
        (["seed=1,2", "seed=3"], "seed=3 has no effect, because seed=1,2 varies seed; remove one of them"),
        (
            ["seed=1,2", "recover.ipc=3", "recover.ipc=4"],
            "recover.ipc is set twice; recover.ipc=3 has no effect",
        ),
        (
            ["squeeze.network={model: convnet},{model: resnet18}", "squeeze.network.width=0.5"],
            "squeeze.network.width=0.5 has no effect, because squeeze.network=",
        ),
        (["name=a,b"], "name=a,b: name cannot be varied, because each point has its own; remove this axis"),
        (["recover_budget", "recover.iterations=5"], "has no effect, because recover_budget varies"),
        (
            ["recover_budget", "cifar10_ipc10"],
            "cifar10_ipc10: this recipe has no section sweep, so it adds no axes",
        ),
    ],
)
def test_a_mistake_is_reported_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["sweep", "quickstart", f"run.root={tmp_path / 'runs'}", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count(message) == 1
    assert not (tmp_path / "runs").exists()


def test_an_impossible_point_is_reported_before_the_first_one_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", *sweep_arguments(tmp_path), "squeeze.network.model=convnet,deit_tiny"]) == 2
    assert "has no BatchNorm2d layer" in capsys.readouterr().err
    assert not list((tmp_path / "runs").rglob("teacher"))


def test_a_sweep_file_is_not_a_recipe() -> None:
    with pytest.raises(UserError, match="srel-hub sweep temperature"):
        load_recipe("temperature")


def test_axes_of_a_file_may_set_several_fields(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(
        "extends: quickstart\nsweep:\n  network:\n    narrow: {squeeze.network.width: 0.5, squeeze.epochs: 3}\n"
        "    wide: {squeeze.network.width: 2}\n  recover.roll: [[0, 1], [0, 2]]\n"
    )
    sweep = read_sweep(str(tmp_path / "own.yaml"), [])
    assert [point.labels for point in sweep.points] == [
        *(("narrow", "[0, 1]"), ("narrow", "[0, 2]")),
        *(("wide", "[0, 1]"), ("wide", "[0, 2]")),
    ]
    assert [point.recipe.squeeze.epochs for point in sweep.points][0] == 3
    (tmp_path / "more.yaml").write_text("extends: quickstart\nsweep: {squeeze.epochs: [1, 2]}\n")
    with pytest.raises(UserError, match="squeeze.epochs is varied twice, by .*own.yaml and .*more.yaml; remove one"):
        read_sweep(str(tmp_path / "own.yaml"), [str(tmp_path / "more.yaml")])
    replaced = read_sweep(str(tmp_path / "own.yaml"), ["recover.roll=[0,3],[0,4]"])  # as an override replaces a value
    assert {point.recipe.recover.roll for point in replaced.points} == {(0, 3), (0, 4)}
    for wrong in ("sweep: 3", "sweep: {seed: 3}", "sweep: {x: {a: 1}}"):
        (tmp_path / "own.yaml").write_text(f"extends: quickstart\n{wrong}\n")
        with pytest.raises(UserError, match="sweep"):
            read_sweep(str(tmp_path / "own.yaml"), [])


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@given(st.lists(VALUES, min_size=2, max_size=4, unique_by=lambda value: json.dumps(value, sort_keys=True)))
def test_every_label_gives_a_valid_folder_name(values: list[object]) -> None:
    for value in values:
        name = point_name(["a.b", "c"], [format_value(value), "1"])
        assert 0 < len(name) <= 96 and name[0].isalnum()
        assert all(letter.isalnum() or letter in "._-" for letter in name)
