"""A user's mistakes: the exception that reports them, and a collector that reports several together."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any


class UserError(Exception):
    """A mistake of the user's, told on one screen: no traceback, exit status 2."""


class ErrorCollector:
    """The faults of several checks, so that a user hears of all of them at once."""

    def __init__(self) -> None:
        self.found: list[str] = []

    @contextlib.contextmanager
    def collect(self) -> Iterator[None]:
        """Keep the UserError of one check, and go on."""
        try:
            yield
        except UserError as error:
            self.found.append(str(error))

    def raise_all(self) -> None:
        """Raise what was collected.

        Raises:
            UserError: with every fault, a line or more each.
        """
        if self.found:
            raise UserError("\n".join(dict.fromkeys(self.found)))


def first_line(error: BaseException) -> str:
    """What a library says of an error, without the rest of its story."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


LISTED = 10  # problems of one kind that are listed; a dataset may have a million


def first_few(items: Sequence[Any], describe: Callable[[Any], str] = str) -> list[str]:
    """Describe the first ten items, and count the others in a last line "... and 7 more"."""
    others = len(items) - LISTED
    return [*map(describe, items[:LISTED]), *([f"... and {others} more"] if others > 0 else [])]
