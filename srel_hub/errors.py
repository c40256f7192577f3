"""Errors that users can fix: the exception, and a collector that reports several of them together."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any


class UserError(Exception):
    """An error that the user can fix, with a message that says how.

    Commands print the message without a traceback and exit with status 2.

    Examples:
        >>> from srel_hub import UserError, load_condensed
        >>> try:
        ...     load_condensed("./nowhere")
        ... except UserError as error:
        ...     print(error)
        ./nowhere: there is no such folder; a dataset on the Hub is named namespace/name
    """


class CodeNeededError(UserError):
    """A network is built by its author's own code, which the user has not allowed. The message says how to allow it."""


class ErrorCollector:
    """Collects the errors of several checks, so that a user sees all of them at once.

    Run each check inside `with errors.collect():`, then call `errors.raise_all()`.

    Attributes:
        messages: The collected messages, in order.
    """

    def __init__(self) -> None:
        self.messages: list[str] = []

    @contextlib.contextmanager
    def collect(self) -> Iterator[None]:
        """Catch the UserError of one check and keep its message."""
        try:
            yield
        except UserError as error:
            self.messages.append(str(error))

    def extend(self, messages: Iterable[str]) -> None:
        """Add messages that a check returned instead of raising."""
        self.messages.extend(messages)

    def raise_all(self) -> None:
        """Raise all collected errors as one; do nothing if there are none.

        Raises:
            UserError: If there are errors. Its message has one line per different error.
        """
        if self.messages:
            raise UserError("\n".join(dict.fromkeys(self.messages)))


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type's name if the message is empty.

    Libraries append advice and request ids that do not help our users.
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0]


LISTED = 10  # problems of one kind that are listed; a dataset may have a million


def first_few(items: Sequence[Any], describe: Callable[[Any], str] = str) -> list[str]:
    """Describe the first ten items, and count the others in a last line "... and 7 more"."""
    others = len(items) - LISTED
    return [*map(describe, items[:LISTED]), *([f"... and {others} more"] if others > 0 else [])]
