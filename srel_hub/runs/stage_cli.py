"""The command line that every stage has: `RECIPE_OR_RUN [key=value ...]`, and what its exit status means."""

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tqdm import tqdm

from srel_hub.config import Recipe, load_recipe
from srel_hub.errors import UserError
from srel_hub.runs import signals as stopping
from srel_hub.runs.run import Run
from srel_hub.runs.signals import Stopped


def cli(stage: Callable[[Run], object], argv: Sequence[str] | None = None) -> None:
    """Load, check, run. Status 2: a user's mistake; 1: a machine's; 130 and 143: Ctrl-C and SIGTERM."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    if not arguments or arguments[0].startswith("-"):
        print(f"usage: python -m srel_hub.{Path(sys.argv[0]).stem} RECIPE_OR_RUN [section.key=value ...]")
        print("srel-hub recipe schema lists every field")
        sys.exit(0 if arguments[:1] in (["-h"], ["--help"]) else 2)
    with stopping.obeyed():
        try:
            run = Run(named(arguments[0], arguments[1:]))
        except (UserError, OSError) as error:
            if os.environ.get("RANK", "0") == "0":  # all processes of a launch find the same
                tqdm.write(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        except Stopped as stopped:
            sys.exit(stopped.exit_status)
        status = execute(stage, run)
    if status:
        sys.exit(status)


def status_of(work: Callable[[], None]) -> int:
    """Do something that no run directory is needed for. Status 2: a user's mistake, told; 1: a machine's."""
    try:
        work()
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    return 0


def named(path: str, overrides: Sequence[str]) -> Recipe:
    """The recipe of a command line; a run directory is worked on where it lies.

    Raises:
        UserError: for a wrong recipe, or a folder that lies in a run.
    """
    folder = Path(path)
    if folder.is_dir() and folder.resolve().name in ("dataset", "teacher_repo"):
        raise UserError(f"{folder} lies in a run; give the run: {folder.parent}")
    here = [f"run.root={os.path.relpath(folder.resolve().parent)}"] if folder.is_dir() else []
    return load_recipe(folder, [*here, *overrides])


def execute(stage: Callable[[Run], object], run: Run) -> int:
    """Run a stage and give its exit status."""
    try:
        stage(run)
    except UserError as error:
        return _told(run, f"error: {error}", 2)
    except OSError as error:
        kept = "what is done is kept, the same command goes on from there"
        gone = "the run directory is gone; when it is back, the same command goes on from there"
        return _told(run, f"error: {error}; {kept if run.folder.is_dir() else gone}", 1)
    except Stopped as stopped:
        told = f"stopped by {stopped}: what is done is kept, the same command goes on from there"
        return _told(run, told, stopped.exit_status)
    finally:
        with contextlib.suppress(OSError):
            run.close()
    return 0


def _told(run: Run, message: str, status: int) -> int:
    if run.is_main or not message.startswith("stopped"):
        tqdm.write(message, file=sys.stderr)
    if run.presence is not None:
        with contextlib.suppress(OSError):  # the disk may be what is wrong
            run.logger.info(message)
            run.record("error" if status in (1, 2) else "stop", message=message.removeprefix("error: "))
    return status
