"""A run is its directory: renamed, moved or copied, it is worked on where it is, and gives the same bytes."""

import shutil
from pathlib import Path

import pytest
from conftest import refused
from runs import bytes_of, units_done, up_to

from srel_hub import condense_dataset, load_recipe
from srel_hub.commands.program import main
from srel_hub.condense import condense
from srel_hub.reports.publish import publish
from srel_hub.runs.stage_cli import cli


def moved(run: Path, place: str) -> Path:
    """Move a run to `place`, relative to the folder of its `runs`."""
    target = run.parent.parent / place
    target.parent.mkdir(exist_ok=True)
    return run.rename(target)


@pytest.mark.parametrize("place", ["runs/kept", "runs/first try (copy)", "elsewhere/colors", "elsewhere/dataset"])
def test_a_complete_run_is_complete_wherever_it_is(
    own: Path, place: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = bytes_of(own)
    run = moved(own, place)
    cli(condense, [str(run)])
    printed = capsys.readouterr()
    assert "is complete: nothing to do" in printed.err and f"{run.name}/dataset" in printed.out
    monkeypatch.chdir(run)
    cli(condense, ["."])
    with pytest.raises(SystemExit):  # there is nowhere to push to
        cli(publish, ["."])
    for command in ("plan", "status", "compare"):
        assert main([command, str(run)]) == 0
    assert main(["report", str(run)]) == 0 and (run / "report.html").is_file()
    assert condense_dataset(run).folder == condense_dataset(load_recipe(run)).folder
    assert bytes_of(run) == before and not own.exists()


def test_a_moved_run_resumes_with_the_bytes_of_one_that_was_not_moved(finished: Path, tmp_path: Path) -> None:
    half = up_to(finished, tmp_path / "runs" / "colors", "relabel")
    half = half.rename(tmp_path / "half done")
    cli(condense, [str(half)])
    assert {stage for stage, _ in units_done(half)} == {"relabel", "evaluate"}
    assert bytes_of(half) == bytes_of(finished)
    assert load_recipe(half / "recipe.yaml") == load_recipe(finished / "recipe.yaml")


def test_a_copy_and_its_original_are_independent(finished: Path, tmp_path: Path) -> None:
    original, copy = tmp_path / "runs" / finished.name, tmp_path / "runs" / "copy"
    for folder in (original, copy):
        shutil.copytree(finished, folder)

    def state(folder: Path) -> dict[Path, bytes]:
        return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}

    before = state(original)
    cli(condense, [str(copy), "relabel.epochs=1", "evaluate.seeds=1", "run.overwrite=true"])
    assert state(original) == before
    assert len(list((copy / "soft_labels").glob("*.safetensors"))) == 1
    changed = state(copy)
    cli(condense, [str(original)])
    assert state(copy) == changed and state(original) == before


def test_a_name_or_a_root_after_a_run_starts_another_one(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, root = moved(own, "runs/first try"), own.parent.parent / "others"
    renamed = load_recipe(run, ["name=other"])
    assert (renamed.name, Path(renamed.run.root).resolve()) == ("other", run.parent)
    assert "got 'first try'" in refused(capsys, str(run), f"run.root={root}")
    elsewhere = load_recipe(moved(run, "runs/kept"), [f"run.root={root}"])
    assert (elsewhere.name, elsewhere.run.root) == ("kept", str(root)) and not root.exists()


def test_a_folder_with_a_recipe_is_no_run(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"pass the run directory: {own}" in refused(capsys, str(own / "dataset"))
    download = shutil.copytree(own / "dataset", tmp_path / "download")
    before = bytes_of(tmp_path, ("download",))
    said = refused(capsys, str(download))
    assert "is not a run directory" in said and f"pass {download / 'recipe.yaml'}" in said
    assert bytes_of(tmp_path, ("download",)) == before
    assert load_recipe(download).name == "colors"


def test_a_folder_of_the_name_of_a_shipped_recipe_moves_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "quickstart").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_recipe("quickstart").run.root == "runs"
