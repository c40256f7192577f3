"""The command `completion`."""

import argparse
from typing import Any

from srel_hub.commands.command import Command


SHELLS = ("bash", "zsh", "tcsh")
PATHS = ("RECIPE", "RECIPE_OR_RUN", "RUN", "RUN_OR_DATASET", "RUN_OR_REPO", "REPO_OR_FOLDER", "DATASET", "PATH")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help=f"one of {', '.join(SHELLS)}")


def _run(arguments: argparse.Namespace) -> None:
    from srel_hub.errors import UserError

    try:
        import shtab
    except ImportError:
        raise UserError(
            "the package shtab, which writes the completion script, is not installed; run pip install "
            "'srel_hub[completion]'"
        ) from None
    print(shtab.complete(_program_parser(shtab.FILE), arguments.shell))


def _program_parser(file: Any) -> argparse.ArgumentParser:
    """Return one parser of all commands for shtab. It completes file names where a path is expected."""
    from srel_hub.commands.program import COMMANDS  # program imports this module

    program = argparse.ArgumentParser("srel-hub")
    commands = program.add_subparsers()
    for command in COMMANDS:
        parser = commands.add_parser(command.name, help=command.summary)
        command.add_arguments(parser)
        for action in parser._actions:  # argparse has no public list of them
            if action.metavar in (*PATHS, "FILE", "FOLDER"):
                action.complete = file  # type: ignore[attr-defined]  # where shtab looks
    return program


COMPLETION = Command(
    name="completion",
    group="shell",
    summary="Print a completion script for bash, zsh or tcsh",
    description=(
        "Print a script that completes commands, options and file names in a shell. Needs "
        "pip install 'srel_hub[completion]'."
    ),
    examples=(
        ('eval "$(srel-hub completion bash)"', "complete in this shell; put the line in ~/.bashrc to keep it"),
        ("srel-hub completion zsh > ~/.zfunc/_srel-hub", "write a script where zsh finds it"),
    ),
    add_arguments=_add_arguments,
    run=_run,
)
