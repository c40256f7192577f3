"""The command `status`."""

import json
from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from pathlib import Path

from srel_hub.commands.command import Command


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="a run directory")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def _run(arguments: Namespace) -> None:
    from srel_hub.config.places import expanded, missing_local
    from srel_hub.errors import UserError
    from srel_hub.runs.status import status, status_lines

    missing = missing_local(str(arguments.run))
    if missing is not None:
        raise UserError(f"{arguments.run}: {missing}; pass a run directory")
    folder = expanded(arguments.run)
    if (folder / "data").is_dir() and not (folder / "units").is_dir():  # a dataset has a recipe.yaml too
        raise UserError(f"{arguments.run} is a dataset instead of a run; pass a run directory")
    state = status(folder)
    print(json.dumps(asdict(state), indent=2) if arguments.json else "\n".join(status_lines(state)))


STATUS = Command(
    name="status",
    group="make",
    summary="Show how far a run is, its rate and the time left",
    description=(
        "Show how far a run is: units done, rate, time left and bytes of each stage, the processes that work on it, "
        "and the last error. Only reads the run directory, so it also works during the run."
    ),
    examples=(
        ("srel-hub status runs/quickstart", "print the state of a run"),
        ("srel-hub status runs/quickstart --json", "print it as JSON"),
    ),
    add_arguments=_add_arguments,
    run=_run,
)
