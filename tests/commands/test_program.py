"""The program: its help pages, what they import, and what a mistake on the command line prints."""

import re
import subprocess
import sys
from typing import get_args

import pytest
from conftest import ROOT

from srel_hub.commands import continual, export, measure
from srel_hub.commands.command import EXIT_CODES, Command, Parser
from srel_hub.commands.program import COMMANDS, GROUPS, help_page, main
from srel_hub.commands.reference import reference
from srel_hub.reports.export import DDRANKING
from srel_hub.studies.continual.protocol import Labels
from srel_hub.studies.measure import PAPER


BY_NAME = {command.name: command for command in COMMANDS}
STAGES = {"condense", "squeeze", "recover", "relabel", "evaluate", "publish", "pictures"}
NEED_AN_ARGUMENT = sorted(BY_NAME.keys() - {"measure"})
SLOW = ("torch", "transformers", "datasets", "pydantic", "accelerate", "numpy", "huggingface_hub", "yaml", "shtab")


def failure(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Return what a command line prints that is refused with status 2."""
    capsys.readouterr()
    try:
        status = main(words)
    except SystemExit as stopped:
        status = int(stopped.code or 0)
    captured = capsys.readouterr()
    assert status == 2 and not captured.out and "Traceback" not in captured.err
    return captured.err


def test_the_help_fits_on_a_page_and_lists_every_command_under_its_group() -> None:
    lines = help_page().splitlines()
    assert len(lines) <= 45 and max(map(len, lines)) <= 100
    listed: dict[str, list[str]] = {}
    for line in lines:
        if line.rstrip(":") in GROUPS.values():
            listed[line.rstrip(":")] = []
        elif listed and (entry := re.match(r"  (\w+) +\w", line)):
            listed[[*listed][-1]].append(entry[1])
    for group, title in GROUPS.items():
        assert listed[title] == [command.name for command in COMMANDS if command.group == group]


def test_without_arguments_it_prints_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["--help"], ["-h"]):
        assert main(words) == 0
        assert capsys.readouterr().out == help_page() + "\n"


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_the_help_of_a_command_has_arguments_examples_and_exit_codes(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([command.name, "--help"])
    page = capsys.readouterr().out
    assert stopped.value.code == 0 and page.startswith(f"usage: srel-hub {command.name} ")
    assert "--help" in page and " ".join(command.description.split()[:4]) in page
    for words, meaning in command.examples:
        assert f"  {words}\n" in page and meaning in page
    codes = page[page.index("exit codes:") :]
    assert all(f"\n  {code}" in codes for code in EXIT_CODES)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_examples_are_command_lines_of_the_command(command: Command) -> None:
    for words, _ in command.examples:
        _, name, *arguments = re.sub(r'^eval "\$\(|\)"$| > .*', "", words).split()
        assert name == command.name
        Parser(command).parse(arguments)


def test_help_imports_nothing_slow() -> None:
    """In one new process, for all pages: this one has imported everything."""
    code = (
        "import contextlib, sys\n"
        "from srel_hub.commands.program import COMMANDS, main\n"
        "main(['--help'])\n"
        "for command in COMMANDS:\n"
        "    with contextlib.suppress(SystemExit):\n"
        "        main([command.name, '--help'])\n"
        "print(*sys.modules, sep='\\n', file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.count("exit codes:") == len(COMMANDS)
    assert {name.split(".")[0] for name in done.stderr.split()} & set(SLOW) == set()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["condens", "quickstart"], "unknown command condens; did you mean condense?"),
        (["stauts"], "unknown command stauts; did you mean status?"),
        (["--verison"], "unknown option --verison; did you mean --version?"),
        (["verify", "--fsat"], "unknown option --fsat; did you mean --fast?"),
        (["verify", "org/name", "--revison=v1.0"], "unknown option --revison; did you mean --revision?"),
        (["condense", "quickstart", "--devices", "2"], "unknown option --devices\n"),
        (["recipe", "shwo"], "did you mean show?"),
        (["export", "a", "rethinkd", "b"], "did you mean rethinkdc?"),
        (["continual", "run", "--labels", "sen"], "did you mean seen?"),
        (["plan", "quickstart", "--devices", "two"], "argument --devices: invalid int value: 'two'"),
        (["recipe", "show", "quickstart", "--ipc", "5"], "unknown option --ipc\n"),
        (["qqqqqq"], "unknown command qqqqqq\n"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistyped_word_suggests_the_nearest(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = failure(capsys, *words)
    assert f"error: {message}" in printed or message in printed
    assert "--help" in printed.splitlines()[-1]


@pytest.mark.parametrize("name", NEED_AN_ARGUMENT)
def test_a_missing_argument_prints_the_usage_and_what_to_type(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    printed = failure(capsys, name)
    assert printed.startswith(f"usage: srel-hub {name} ")
    assert f"example: {BY_NAME[name].examples[0][0]}\n" in printed
    required = re.search("the following arguments are required: (.*)", printed)
    assert required and "section.key=value" not in required[1]


def test_the_recipe_may_stand_before_or_after_options() -> None:
    plan = Parser(BY_NAME["plan"])
    for words in (["run", "a=1", "--devices", "3", "b=-2"], ["--devices=3", "run", "a=1", "b=-2"]):
        arguments = plan.parse(words)
        assert (arguments.recipe, arguments.overrides, arguments.devices) == ("run", ["a=1", "b=-2"], 3)
    assert Parser(BY_NAME["continual"]).parse(["run", "--order", "-1"]).order == -1


def test_choices_are_those_of_the_code() -> None:
    """They are repeated in the commands because importing the code for `--help` would take seconds."""
    assert get_args(Labels) == continual.LABELS
    assert export.DATASETS == DDRANKING
    assert [f"{network} x 1" for network in measure.NETWORKS] == list(PAPER)


def test_recipe_reports_what_is_missing_or_too_much(capsys: pytest.CaptureFixture[str]) -> None:
    assert "recipe show: the recipe is missing" in failure(capsys, "recipe", "show")
    assert "recipe schema: takes no further argument, got quickstart" in failure(
        capsys, "recipe", "schema", "quickstart"
    )


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_knows_every_command(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(command.name in script for command in COMMANDS) and "--device-tflops" in script
    assert "--alone" not in script


def test_completion_without_shtab(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert "pip install 'srel_hub[completion]'" in failure(capsys, "completion", "bash")


def test_the_page_of_the_command_line_is_the_help() -> None:
    assert (ROOT / "docs" / "reference" / "cli.md").read_text() == reference()
