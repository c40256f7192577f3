"""Errors that users can fix: the exception, and a collector that reports several of them together."""

import contextlib
import errno
import operator
import os
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


class ErrorCollector:
    """Collects the errors of several checks, so that a user sees all of them at once.

    Run each check inside `with errors.collect():`, then call `errors.raise_all()`.

    Attributes:
        messages: The collected messages, in order.
    """

    def __init__(self) -> None:
        self.messages: list[str] = []
        self._first: UserError | None = None

    @contextlib.contextmanager
    def collect(self) -> Iterator[None]:
        """Catch the UserError of one check and keep its message."""
        try:
            yield
        except UserError as error:
            self.messages.append(str(error))
            self._first = self._first or error

    def extend(self, messages: Iterable[str]) -> None:
        """Add messages that a check returned instead of raising."""
        self.messages.extend(messages)

    def raise_all(self) -> None:
        """Raise all collected errors as one; do nothing if there are none.

        Raises:
            UserError: If there are errors. Its message has one line per different error.
        """
        if self.messages:
            raise UserError("\n".join(dict.fromkeys(self.messages))) from self._first


def is_full_disk(error: BaseException) -> bool:
    """Return whether an error, or one that caused it, says that a disk or a quota is full.

    Libraries raise it as an exception of their own, such as SafetensorError, with the text of the operating system.
    """
    texts = [os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT)]
    cause: BaseException | None = error
    while cause is not None:
        if any(text in str(cause) for text in texts):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def whole_number(name: str, value: object, least: int | None = None, purpose: str = "") -> int:
    """Return an integer argument as an `int`. Integer scalars of numpy and torch are integers too.

    Args:
        name: The name of the argument, for the message.
        value: The argument.
        least: The smallest allowed number; None: any.
        purpose: Text that ends the message, such as ' (stored: 300)'.

    Raises:
        UserError: If the value is not an integer, or too small.
    """
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):  # RuntimeError: a tensor of several numbers
        number = None
    if number is None or _is_bool(value) or (least is not None and number < least):
        allowed = "a whole number" if least is None else f"a whole number of at least {least}"
        raise UserError(f"{name}={value!r}: must be {allowed}{purpose}")
    return number


def _is_bool(value: object) -> bool:
    """Return whether a value is true or false, which Python and torch also use as 1 or 0."""
    return isinstance(value, bool) or str(getattr(value, "dtype", "")) in ("bool", "torch.bool")


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
