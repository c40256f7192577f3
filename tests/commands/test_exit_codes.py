"""The exit codes that the help of every command lists: 0, 1 for the machine and the Hub, 2 for mistakes."""

import sys
from pathlib import Path

import pytest
from local_hub.client import Hub

from srel_hub.commands.program import COMMANDS, main


# Another folder where a run, a dataset or a recipe is expected, or another mistake.
MISTAKES = {
    "init": ["folder"],
    "plan": ["folder"],
    "condense": ["folder"],
    "squeeze": ["folder"],
    "recover": ["folder"],
    "relabel": ["folder"],
    "evaluate": ["folder"],
    "status": ["folder"],
    "recipe": ["show", "folder"],
    "publish": ["folder"],
    "pictures": ["folder"],
    "inspect": ["folder"],
    "report": ["folder"],
    "verify": ["folder"],
    "compare": ["folder"],
    "export": ["folder", "rethinkdc", "out"],
    "sweep": ["folder", "seed=1,2"],
    "continual": ["folder"],
    "measure": ["folder"],
    "completion": ["fish"],
}


def status_of(words: list[str]) -> int:
    try:
        return main(words)
    except SystemExit as stopped:
        return int(stopped.code or 0)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder" / "notes").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", [command.name for command in COMMANDS])
def test_a_folder_that_is_something_else_is_a_mistake(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of([name, *MISTAKES[name]]) == 2
    captured = capsys.readouterr()
    assert "error: " in captured.err and "Traceback" not in captured.err and captured.out == ""
    assert ("fish" if name == "completion" else "folder") in captured.err
    assert sorted(str(path) for path in Path().rglob("*")) == ["folder", "folder/notes"]


def test_verify_tells_a_failed_check_from_what_is_no_dataset(
    own: Path, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = own / "dataset"
    assert main(["status", str(dataset)]) == 2
    assert "is a dataset instead of a run; pass a run directory" in capsys.readouterr().err
    assert main(["verify", str(dataset), "--fast"]) == 0
    (dataset / "metrics.json").unlink()
    assert main(["verify", str(dataset), "--fast"]) == 1
    assert "NOT what it claims to be" in capsys.readouterr().out
    (dataset / "soft_labels" / "manifest.json").write_text("{")
    assert main(["verify", str(dataset)]) == 1  # a dataset, but a damaged one
    capsys.readouterr()
    (dataset / "soft_labels" / "manifest.json").unlink()
    assert main(["verify", str(dataset)]) == 2
    captured = capsys.readouterr()
    assert "this folder is not a condensed dataset, because it has no soft_labels/manifest.json" in captured.err
    assert captured.out == ""
    assert main(["verify", "org/nothing"]) == 2
    hub.faults({"kind": "503", "times": 99})
    assert main(["verify", "org/nothing"]) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="/proc/self/mem is a file that cannot be read")
def test_files_of_a_run_that_cannot_be_read_are_a_problem_of_the_machine(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in ("metrics.jsonl", "dataset/soft_labels/manifest.json", "dataset/metrics.json"):
        (own / file).unlink()
        (own / file).symlink_to("/proc/self/mem")
    dataset = str(own / "dataset")
    for words in (["status", str(own)], ["export", dataset, "rethinkdc", "out"], ["compare", dataset]):
        assert main(words) == 1, words
        printed = capsys.readouterr().err
        assert printed.startswith("error: ") and "[Errno" not in printed
    assert not Path("out").exists()
