"""The exit status says who can help: 1 for the machine, 2 for the user."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from runs import arguments, world
from safetensors import SafetensorError

from srel_hub.errors import ErrorCollector, UserError
from srel_hub.runs.run import Run
from srel_hub.runs.stage_cli import cli


FULL, QUOTA = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))


def hidden(cause: Exception) -> Callable[[], None]:
    """Return a function that turns an error into a user's, as the readers of foreign files do."""

    def fail() -> None:
        errors = ErrorCollector()
        with errors.collect():
            try:
                raise cause
            except Exception as error:
                raise UserError("source.path=images: cannot be opened") from error
        errors.raise_all()

    return fail


def simply(error: Exception) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("fail", "status"),
    [
        (simply(FULL), 1),
        (simply(QUOTA), 1),
        (simply(SafetensorError("I/O error: No space left on device (os error 28)")), 1),
        (simply(PermissionError(errno.EACCES, "Permission denied", "teacher")), 1),
        (hidden(FULL), 1),
        (hidden(ValueError("no images")), 2),
        (simply(UserError("recover.ipc=0")), 2),
    ],
)
@pytest.mark.parametrize("begins", [False, True])
def test_a_full_disk_is_the_machines_however_it_is_raised(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fail: Callable[[], None], status: int, begins: bool
) -> None:
    def stage(run: Run) -> None:
        if begins:
            run.begin()
        fail()

    with pytest.raises(SystemExit) as caught:
        cli(stage, arguments(world(tmp_path), tmp_path / "runs"))
    said = capsys.readouterr().err
    assert caught.value.code == status and said.startswith("error: ") and "Traceback" not in said
    assert ("run the same command again to resume" in said) == (status == 1)


def test_a_mistake_of_ours_is_a_traceback(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        cli(lambda run: print(1 / 0), arguments(world(tmp_path), tmp_path / "runs"))
