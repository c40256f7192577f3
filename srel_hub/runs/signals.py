"""SIGTERM and Ctrl-C: the current step finishes, then `Stopped` is raised. A second signal stops immediately."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Stopped(BaseException):
    """The user or the scheduler stopped the program. Nothing is wrong, hence no `Exception`.

    Attributes:
        exit_status: 128 plus the signal's number, as shells report it.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_status = 128 + number


# Signals belong to the process, and so does this state.
_received = 0  # the signal's number; 0 for none
_in_step = False


def _receive(number: int, _: FrameType | None) -> None:
    global _received
    if _received or not _in_step:
        raise Stopped(number)
    _received = number


@contextlib.contextmanager
def handled() -> Iterator[None]:
    """Inside the block, let SIGTERM and Ctrl-C finish the current step, then raise `Stopped`.

    The handlers are restored after the block. Only the main thread may set handlers. In
    another one, such as a notebook's worker, signals stay as they are.
    """
    global _received, _in_step
    _received, _in_step = 0, False
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _receive) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def in_steps() -> Iterator[None]:
    """Surround a loop whose steps must finish. The loop calls `step_ends` after each."""
    global _in_step
    before, _in_step = _in_step, True
    try:
        yield
    except Exception:
        step_ends()  # if another process of the launch stopped first, the error here is only a consequence
        raise
    finally:
        _in_step = before


def step_ends() -> None:
    """Stop here if a signal arrived during the step.

    Raises:
        Stopped: If a signal arrived.
    """
    if _received:
        raise Stopped(_received)
