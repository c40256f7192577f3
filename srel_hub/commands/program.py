"""The program `srel-hub`: its commands, its help page and its exit status."""

import os
import sys
from collections.abc import Sequence

from srel_hub import __version__
from srel_hub.commands import stages
from srel_hub.commands.command import Command, Parser, suggestion
from srel_hub.commands.compare import COMPARE
from srel_hub.commands.continual import CONTINUAL
from srel_hub.commands.export import EXPORT
from srel_hub.commands.init import INIT
from srel_hub.commands.inspect import INSPECT
from srel_hub.commands.measure import MEASURE
from srel_hub.commands.plan import PLAN
from srel_hub.commands.recipe import RECIPE
from srel_hub.commands.report import REPORT
from srel_hub.commands.shell_completion import COMPLETION
from srel_hub.commands.status import STATUS
from srel_hub.commands.sweep import SWEEP
from srel_hub.commands.verify import VERIFY
from srel_hub.errors import exit_status, explain
from srel_hub.runs import signals
from srel_hub.runs.signals import Stopped


COMMANDS = (
    INSPECT,
    INIT,
    PLAN,
    stages.CONDENSE,
    stages.SQUEEZE,
    stages.RECOVER,
    stages.RELABEL,
    stages.EVALUATE,
    STATUS,
    RECIPE,
    stages.PUBLISH,
    stages.PICTURES,
    REPORT,
    VERIFY,
    COMPARE,
    EXPORT,
    SWEEP,
    CONTINUAL,
    MEASURE,
    COMPLETION,
)
GROUPS = {
    "make": "Make a condensed dataset",
    "publish": "Publish it",
    "use": "Use and check a condensed dataset",
    "study": "Study",
    "shell": "Shell",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status (EXIT_CODES); a user's mistake prints no traceback.

    Raises:
        SystemExit: for mistakes on the command line, and for `--help` of a command.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    if not words or words[0] in ("-h", "--help"):
        print(help_page())
        return 0
    if words[0] == "--version":
        print(f"srel-hub {__version__}")
        return 0
    command = next((command for command in COMMANDS if command.name == words[0]), None)
    if command is None:
        kind = "option" if words[0].startswith("-") else "command"
        known = [command.name for command in COMMANDS] if kind == "command" else ["--help", "--version"]
        print(f"error: unknown {kind} {words[0]}{suggestion(words[0], known)}", file=sys.stderr)
        print("All commands: srel-hub --help", file=sys.stderr)
        return 2
    arguments = Parser(command).parse(words[1:])
    try:
        with signals.handled():
            return command.run(arguments) or 0
    except Stopped as stopped:
        return stopped.exit_status
    except BrokenPipeError:
        # The reader, such as `head`, has all that it wants. Without this line, Python reports the error again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        status = exit_status(error)
        if status is None:
            raise
        print(f"error: {explain(error)}", file=sys.stderr)
        return status


def help_page() -> str:
    """Return the list of commands by group."""
    lines = [
        "usage: srel-hub COMMAND [ARGUMENTS ...]",
        "",
        "Condense an image dataset with SRe2L and share it on the Hugging Face Hub.",
    ]
    for group, title in GROUPS.items():
        lines += ["", f"{title}:", *(f"  {_line(command)}" for command in COMMANDS if command.group == group)]
    return "\n".join(
        [
            *lines,
            "",
            "Start here:",
            "  srel-hub condense quickstart    condense handwritten digits on a CPU in about a minute",
            "  srel-hub init my/images         write a recipe for a folder of your own images",
            "",
            "srel-hub COMMAND --help shows its arguments, examples and exit codes.",
        ]
    )


def _line(command: Command) -> str:
    return f"{command.name:<12}{command.summary}"
