"""The common part of all commands on a run: `RECIPE_OR_RUN [section.key=value ...]`, messages, and exit statuses.

Exit status 0: done. 1: the machine, disk or Hub failed, and the same command can be repeated. 2: the user's mistake.
130 and 143: stopped by Ctrl-C or SIGTERM.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tqdm import tqdm

from srel_hub.config import Recipe, load_recipe
from srel_hub.config.arguments import ineffective
from srel_hub.config.recipe_files import is_run_directory
from srel_hub.errors import UserError, exit_status, explain
from srel_hub.runs import signals
from srel_hub.runs.run import Run
from srel_hub.runs.signals import Stopped


RESUME = "finished work is kept; run the same command again to resume"


def cli(stage: Callable[[Run], object], argv: Sequence[str] | None = None) -> None:
    """Run a stage as a program: load the recipe, open the run, call the stage, exit with a status.

    Args:
        stage: A function of the run.
        argv: The arguments; None: the arguments of the process.

    Raises:
        SystemExit: With a status other than 0 if anything went wrong.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    if not arguments or arguments[0].startswith("-"):
        print(f"usage: accelerate launch -m srel_hub.{Path(sys.argv[0]).stem} RECIPE_OR_RUN [section.key=value ...]")
        print("`srel-hub --help` explains all commands, `srel-hub recipe schema` lists every field.")
        sys.exit(0 if arguments[:1] in (["-h"], ["--help"]) else 2)
    with signals.handled():
        try:
            run = Run(named(arguments[0], arguments[1:]))
        except (UserError, OSError) as error:
            if os.environ.get("RANK", "0") == "0":  # all processes of a launch find the same mistake
                tqdm.write(f"error: {explain(error)}", file=sys.stderr)
            sys.exit(exit_status(error))
        except Stopped as stopped:
            sys.exit(stopped.exit_status)
        status = execute(stage, run)
    if status:
        sys.exit(status)


def named(path: str, overrides: Sequence[str]) -> Recipe:
    """Load the recipe that a command line names. A run directory is used in place, whatever its name.

    Args:
        path: A recipe file, the name of a shipped recipe, or a run directory.
        overrides: `section.key=value` pairs.

    Raises:
        UserError: For a wrong recipe, a folder inside a run, or a folder that has a recipe but no run.
    """
    if os.environ.get("RANK", "0") == "0":
        for message in ineffective(overrides):
            tqdm.write(f"note: {message}", file=sys.stderr)
    folder = Path(path)
    if folder.is_dir() and not is_run_directory(folder):
        place = folder.resolve()
        if place.name in ("dataset", "teacher_repo") and is_run_directory(place.parent):
            raise UserError(f"{folder} is inside a run; pass the run directory: {folder.parent}")
        if (folder / "recipe.yaml").is_file():
            raise UserError(
                f"{folder} is not a run directory: it has a recipe.yaml, but no units/; to start a run from this "
                f"recipe, pass {folder / 'recipe.yaml'}"
            )
    return load_recipe(path, overrides)


def execute(stage: Callable[[Run], object], run: Run) -> int:
    """Call a stage, report how it ended, close the run, and return the exit status."""
    try:
        stage(run)
    except Stopped as stopped:
        return _report(run, f"stopped by {stopped}: {RESUME}", stopped.exit_status)
    except Exception as error:
        status = exit_status(error)
        if status is None:
            raise
        message = f"error: {explain(error)}"
        if status == 1:
            is_gone = not run.folder.is_dir()
            message += f"; the run directory is gone; once it is back, {RESUME}" if is_gone else f"; {RESUME}"
        return _report(run, message, status)
    finally:
        with contextlib.suppress(OSError):
            run.close()
    return 0


def _report(run: Run, message: str, status: int) -> int:
    # Every process of a launch is stopped, but each one has its own errors.
    if run.is_main or not message.startswith("stopped"):
        tqdm.write(message, file=sys.stderr)
    if run.heartbeat is not None:
        with contextlib.suppress(OSError):  # the disk may be what failed
            run.log.info(message)
            run.log.record("error" if status in (1, 2) else "stop", message=message.removeprefix("error: "))
    return status
