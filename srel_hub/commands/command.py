"""What a command is, and the parser that suggests the nearest option to a mistyped one.

The modules of this package import neither torch nor any other slow module before a command runs, so that `--help`
prints at once.
"""

import argparse
import difflib
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NoReturn


Group = Literal["make", "publish", "use", "study", "shell"]

EXIT_CODES = {
    "0": "success",
    "1": "a problem with the machine, a disk or the Hub; repeat the same command to continue",
    "2": "a mistake in the command, the recipe or the data; the message says what to change",
    "130, 143": "stopped by Ctrl-C, or by SIGTERM; repeat the same command to continue",
}
WIDEST = 100  # columns of a help page; wider lines are hard to read
RECIPE_OR_RUN = "a recipe file, the name of a shipped recipe, or a run directory"
OVERRIDE = "section.key=value"


@dataclass(frozen=True)
class Command:
    """One command of the program.

    Attributes:
        group: the heading that it is listed under.
        summary: one line, for the list of commands.
        description: what it does, for its own help page.
        examples: two command lines, each with what it does; the first is suggested if an argument is missing.
        add_arguments: adds its arguments to a parser.
        run: runs it with the parsed arguments and returns the exit status; None is 0.
        exit_codes: the exit codes whose meaning differs from EXIT_CODES.
    """

    name: str
    group: Group
    summary: str
    description: str
    examples: tuple[tuple[str, str], tuple[str, str]]
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int | None]
    exit_codes: Mapping[str, str] = field(default_factory=dict)


class Parser(argparse.ArgumentParser):
    """The parser of one command. Every mistake prints the usage, what is wrong and what to type; exit status 2."""

    def __init__(self, command: Command, width: int | None = None) -> None:
        self.command = command
        columns = width or min(WIDEST, shutil.get_terminal_size().columns)
        super().__init__(
            prog=f"srel-hub {command.name}",
            description=textwrap.fill(command.description, columns),
            epilog=_epilog(command, columns),
            formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(
                prog, max_help_position=28, width=columns
            ),
        )
        command.add_arguments(self)

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """Parse a command line. Options may occur between and after the other arguments."""
        self._reject_unknown_options(words)
        return self.parse_intermixed_args(words)

    def _reject_unknown_options(self, words: Sequence[str]) -> None:
        """Report a mistyped option before a missing argument: argparse reports only the latter."""
        options = [option for action in self._actions for option in action.option_strings]
        listed = [action for action in self._actions if action.help != argparse.SUPPRESS]
        public = [option for action in listed for option in action.option_strings]
        for word in words:
            if word == "--":
                return
            name = word.split("=")[0]
            is_option = name.startswith("-") and not re.match(r"-\.?\d", name)  # "-1" is a value
            if is_option and not any(option.startswith(name) for option in options):
                self.error(f"unknown option {name}{suggestion(name, public)}")

    def error(self, message: str) -> NoReturn:
        """Print what is wrong and what to type, and exit."""
        choice = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)
        if choice:
            message += suggestion(choice[1], re.findall(r"[\w.-]+", choice[2]))
        self.print_usage(sys.stderr)
        self.exit(
            2,
            f"error: {message}\n"
            f"example: {self.command.examples[0][0]}\n"
            f"All arguments: srel-hub {self.command.name} --help\n",
        )


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return '; did you mean X?' with the nearest of the known words, or '' if none is near."""
    nearest = difflib.get_close_matches(word, list(known), 1)
    return f"; did you mean {nearest[0]}?" if nearest else ""


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of all commands that work on a run: a recipe or run, and overrides."""
    parser.add_argument("recipe", metavar="RECIPE_OR_RUN", help=RECIPE_OR_RUN)
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],  # else argparse reports it as missing, with the recipe
        metavar=OVERRIDE,
        help="a field of the recipe to change, for example recover.iterations=500; `srel-hub recipe reference` "
        "lists all fields",
    )


def _epilog(command: Command, columns: int) -> str:
    """Return examples and exit codes. Command lines are not wrapped, so that they can be copied."""
    examples = [line for words, meaning in command.examples for line in (f"  {words}", f"      {meaning}")]
    codes = [
        textwrap.fill(f"  {code:<10}{meaning}", columns, subsequent_indent=" " * 12)
        for code, meaning in {**EXIT_CODES, **command.exit_codes}.items()
    ]
    return "\n".join(["examples:", *examples, "", "exit codes:", *codes])
