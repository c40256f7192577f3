"""SIGTERM and Ctrl-C: the step at hand is finished, then `Stopped` is raised. A second one stops at once."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType


class Stopped(BaseException):
    """The user, or the machine's scheduler, asked to stop; nothing is wrong."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_status = 128 + number


_asked = 0  # the signal that came, 0 for none; signals are the process's, and so is this
_busy = False  # whether a step is at hand


def _take(number: int, _: FrameType | None) -> None:
    global _asked
    if _asked or not _busy:
        raise Stopped(number)
    _asked = number


@contextlib.contextmanager
def obeyed() -> Iterator[None]:
    """Within it, both signals are taken as described; before and after it as they were."""
    global _asked, _busy
    _asked, _busy = 0, False
    before = {number: signal.signal(number, _take) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def in_steps() -> Iterator[None]:
    """Around a loop whose steps are to be finished; it calls `step_ends` after each."""
    global _busy
    before, _busy = _busy, True
    try:
        yield
    except Exception:
        step_ends()  # another process of the launch stopped first: no error of this one
        raise
    finally:
        _busy = before


def step_ends() -> None:
    """Stop here, if that was asked for.

    Raises:
        Stopped: if it was.
    """
    if _asked:
        raise Stopped(_asked)
