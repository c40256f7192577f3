"""A mistyped path is found at once, by every command and field, without a request to the Hub."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands.test_program import failure
from conftest import refused
from local_hub.client import Hub

from srel_hub import UnavailableError, UserError, load_condensed, load_recipe, verify_dataset
from srel_hub.commands.program import main


TYPO, RIGHT = "runs/quikstart/dataset", "runs/quickstart/dataset"
COMMANDS = {
    "verify": ["verify", TYPO],
    "compare": ["compare", TYPO],
    "report": ["report", TYPO],
    "status": ["status", TYPO],
    "export": ["export", TYPO, "rethinkdc", "out"],
    "init": ["init", TYPO, "--out", "x.yaml"],
    "recipe": ["recipe", "show", TYPO],
    "plan": ["plan", TYPO],
    "condense": ["condense", TYPO],
    "continual": ["continual", TYPO],
    "sweep": ["sweep", TYPO, "seed=1,2"],
}
FIELDS = {
    "source.path": ["source.builtin=null", f"source.path={TYPO}"],
    "squeeze.pretrained": [f"squeeze.pretrained={TYPO}"],
    "relabel.teacher": [f"relabel.teacher={TYPO}"],
    "recover.teachers.0": [f"recover.teachers=[{TYPO}]"],
    "squeeze.network.model": [f"squeeze.network={{model: {TYPO}}}"],
    "evaluate.students.0.model": [f"evaluate.students=[{{model: {TYPO}}}]"],
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: Hub) -> None:
    """A working directory with a folder of a similar name, and a Hub that logs requests."""
    (tmp_path / RIGHT).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    hub.faults()


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_suggests_the_nearest_path(name: str, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    if name in ("condense", "continual"):
        with pytest.raises(SystemExit) as stopped:
            main(COMMANDS[name])
        status, printed = stopped.value.code, capsys.readouterr().err
    else:
        status, printed = 2, failure(capsys, *COMMANDS[name])
    assert status == 2 and f"did you mean {RIGHT}?" in printed and hub.log() == []


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_suggests_the_nearest_path(field: str, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    printed = refused(capsys, "quickstart", *FIELDS[field])
    assert f"{field}={TYPO}: there is no such folder" in printed and f"did you mean {RIGHT}?" in printed
    assert hub.log() == []


@pytest.mark.parametrize("function", [load_condensed, verify_dataset, load_recipe])
def test_a_function_suggests_the_nearest_path(function: Callable[[str], Any], hub: Hub) -> None:
    with pytest.raises(UserError, match=f"did you mean {RIGHT}"):
        function(TYPO)
    assert hub.log() == []


def test_a_file_is_not_a_dataset(capsys: pytest.CaptureFixture[str]) -> None:
    Path("notes.txt").touch()
    for command in ("verify", "compare", "report"):
        assert "notes.txt is a file; pass the folder that contains the dataset" in failure(capsys, command, "notes.txt")


UNREACHABLE = {
    "verify": ["verify", "org/typo"],
    "compare": ["compare", "org/typo"],
    "report": ["report", "org/typo"],
    "init": ["init", "org/typo"],
    "plan": ["plan", "quickstart", "source.builtin=null", "source.path=org/typo"],
    "plan with a teacher": ["plan", "quickstart", "squeeze.pretrained=org/typo"],
}


@pytest.mark.parametrize(("name", "fault"), [*((name, "cut") for name in UNREACHABLE), ("init", "503")])
def test_without_the_hub_both_possibilities_are_named_soon(
    name: str, fault: str, hub: Hub, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    hub.faults({"kind": fault, "times": 999})
    assert main(UNREACHABLE[name]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and "[Errno" not in line
    assert "there is no local folder org/typo either" in line, line
    assert "the Hub" in line and "cache" in line
    assert len(hub.log()) <= 4 and "Retrying" not in caplog.text


@pytest.mark.parametrize("words", [["verify"], ["compare"], ["report"], ["init"]], ids="".join)
def test_without_the_hub_a_name_beside_a_local_folder_is_a_mistyped_path(
    words: list[str], hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.faults({"kind": "cut", "times": 999})
    printed = failure(capsys, *words, "runs/quikstart")
    assert "there is no such folder (did you mean runs/quickstart?)" in printed


def test_with_the_hub_a_name_beside_a_local_folder_may_be_a_repository(
    hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder may have the name of a user on the Hub. tests/labels/test_load.py loads a dataset beside one."""
    for command in ("verify", "compare", "report", "init"):
        printed = failure(capsys, command, "runs/quikstart")
        assert "not a local folder" in printed or "there is no local folder of this name" in printed
        assert "(did you mean runs/quickstart?)" in printed


def test_an_unreachable_hub_does_not_hide_mistakes(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    hub.faults({"kind": "cut", "times": 999})
    printed = failure(capsys, "compare", "org/typo", TYPO)
    assert "there is no local folder org/typo either" in printed and f"did you mean {RIGHT}?" in printed
    printed = refused(capsys, "quickstart", f"recover.teachers=[org/typo, {TYPO}]")
    assert "recover.teachers.0=org/typo: the Hub cannot be reached" in printed and f"did you mean {RIGHT}?" in printed


def test_functions_raise_an_error_that_can_be_caught(hub: Hub) -> None:
    hub.faults({"kind": "cut", "times": 999})
    for function in (load_condensed, verify_dataset):
        with pytest.raises(UnavailableError, match="the Hub cannot be reached"):
            function("org/typo")
