"""Every option that names an output is checked before the command does any work."""

import os
import stat
import sys
from pathlib import Path

import pytest
from commands.test_program import failure

from srel_hub.commands.command import Parser
from srel_hub.commands.output_files import Output, check_outputs
from srel_hub.commands.program import COMMANDS
from srel_hub.errors import UserError
from srel_hub.reports.plot_style import SUFFIXES, panels


# A command line of each option; its other arguments do not exist, so that an earlier check of them would be seen.
OUTPUTS = {
    "compare --csv": (["compare", "nowhere", "--csv"], ".csv"),
    "compare --plot": (["compare", "nowhere", "--plot"], ".png"),
    "report --out": (["report", "nowhere", "--out"], ".html"),
    "init --out": (["init", "nowhere", "--out"], ".yaml"),
    "measure --json": (["measure", "no_such_network", "--json"], ".json"),
    "export FOLDER": (["export", "nowhere", "rethinkdc"], ""),
}
FILES = [name for name in OUTPUTS if name != "export FOLDER"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory with a folder, a file and a read-only file."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    monkeypatch.chdir(tmp_path)


def test_every_option_that_names_an_output_is_tested() -> None:
    named = set()
    for command in COMMANDS:
        for action in Parser(command)._actions:
            if action.metavar in ("FILE", "FOLDER"):
                named.add(f"{command.name} {action.option_strings[0] if action.option_strings else action.metavar}")
    assert named == set(OUTPUTS)


def problem(capsys: pytest.CaptureFixture[str], option: str, value: str) -> str:
    """Return the only line that a command prints about an output, and check that it changed nothing."""
    before = sorted(Path().rglob("*"))
    words, _ = OUTPUTS[option]
    (line,) = failure(capsys, *words, value).splitlines()
    assert sorted(Path().rglob("*")) == before and Path("file").read_text() == "mine"
    assert line.startswith(f"error: {option.split()[1]}={value}: "), line
    return line


@pytest.mark.parametrize("option", FILES)
def test_a_file_that_cannot_be_written(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    suffix = OUTPUTS[option][1]
    assert f"the suffix .foo is not supported; allowed: {suffix}" in problem(capsys, option, "x.foo")
    assert f"the suffix is missing; allowed: {suffix}" in problem(capsys, option, "x")
    assert f"is a folder; pass the name of a file, such as folder/result{suffix}" in problem(capsys, option, "folder")
    assert "is a folder" in problem(capsys, option, "..")
    assert "there is no folder no/such; create it first" in problem(capsys, option, f"no/such/x{suffix}")
    assert "file is a file instead of a folder" in problem(capsys, option, f"file/x{suffix}")
    assert "use a shorter name" in problem(capsys, option, f"{'x' * 300}{suffix}")
    kept = Path(f"kept{suffix}")
    kept.touch()
    kept.chmod(stat.S_IREAD)
    assert "this file is read-only; make it writable, or choose another name" in problem(capsys, option, str(kept))


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is a folder in which nobody can create a file")
@pytest.mark.parametrize("option", OUTPUTS)
def test_a_folder_in_which_nothing_can_be_written(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no file can be written in /proc: " in problem(capsys, option, f"/proc/x{OUTPUTS[option][1]}")


@pytest.mark.parametrize("option", [name for name in FILES if name != "compare --csv"])
def test_a_device_is_never_replaced_by_a_file(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is not a regular file" in problem(capsys, option, os.devnull)


def test_a_csv_file_may_be_a_device_or_a_pipe(tmp_path: Path) -> None:
    check_outputs(Output("--csv", Path(os.devnull), (".csv",), in_place=True))
    link = Path("/dev/stdout")  # under pytest, and after `> out.csv`, it leads to a regular file
    if link.exists():
        check_outputs(Output("--csv", link, (".csv",), in_place=True))
        with pytest.raises(UserError, match="is not a regular file"):
            check_outputs(Output("--out", link, (".html",)))


def test_a_new_folder_that_cannot_be_created(capsys: pytest.CaptureFixture[str]) -> None:
    assert "already exists; choose another folder" in problem(capsys, "export FOLDER", "folder")
    assert "already exists; choose another folder" in problem(capsys, "export FOLDER", "file")
    assert "is a file instead of a folder" in problem(capsys, "export FOLDER", "file/a/b")


def test_all_problems_are_reported_and_two_outputs_differ() -> None:
    with pytest.raises(UserError) as caught:
        check_outputs(Output("--csv", Path("x.foo"), (".csv",)), Output("--plot", Path("no/x.png"), (".png",)))
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == ["--csv=x.foo", "--plot=no/x.png"]
    with pytest.raises(UserError, match=r"--a and --b are the same file, folder/\.\./x\.png"):
        check_outputs(Output("--a", Path("x.png"), (".png",)), Output("--b", Path("./folder/../x.png"), (".png",)))
    check_outputs(Output("--csv", None, (".csv",)), Output("--plot", Path("X.PNG"), (".png",)))


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".PNG"])
def test_plots_are_written_in_every_format_that_is_allowed_and_equal_plots_are_equal_files(suffix: str) -> None:
    pytest.importorskip("matplotlib")
    contents = []
    for name in ("one", "two"):
        with panels(Path(f"{name}{suffix}"), 1, 1, 1, 1) as drawn:
            drawn[0][0].plot([1, 2])
        contents.append(Path(f"{name}{suffix}").read_bytes())
    assert contents[0] == contents[1] and len(contents[0]) > 100
