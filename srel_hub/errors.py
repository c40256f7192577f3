"""Errors that users can fix: the exception, a collector that reports several together, and foreign files.

Foreign files are those that other people wrote: images, tables, cards, configs, weights. Libraries raise almost any
exception about them, so every place that reads one is a `with reading(...)` block.
"""

import contextlib
import errno
import os
import re
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


# Failures of the machine. The same command can be repeated later, so they are no mistake of the user.
OF_THE_MACHINE = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE, errno.ENOMEM, errno.EMFILE),
    *(errno.ECONNREFUSED, errno.ECONNRESET, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ETIMEDOUT, errno.EPIPE),
}
# safetensors and other libraries in Rust raise exceptions of their own, which name the number in their message:
# "No space left on device (os error 28)", or "Os { code: 28, kind: StorageFull, ... }".
RUST_ERRNO = re.compile(r"\(os error (\d+)\)|Os \{ code: (\d+), kind")
CAUSE_LENGTH = 400  # characters of a library's message that are shown; some print whole schemas


@contextlib.contextmanager
def reading(where: str, advice: str = "") -> Iterator[None]:
    """Turn whatever a library raises about a foreign file into a UserError.

    Args:
        where: the file and row, which begin the message.
        advice: what to do about it, which ends the message.

    Raises:
        UserError: for any exception. Its message has the innermost cause. A UserError passes unchanged.
        OSError: if the machine failed, for example because its disk is full.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        failure = machine_failure(error)
        if failure is not None:
            raise failure from None
        raise UserError(f"{where}: {cause(error)}{advice and f'; {advice}'}") from error


def machine_failure(error: BaseException) -> OSError | None:
    """Return the failure of the machine that is behind an error, such as a full disk; None if there is none."""
    failures = (as_os_error(link) for link in _chain(error))
    return next((failure for failure in failures if failure is not None and failure.errno in OF_THE_MACHINE), None)


def as_os_error(error: BaseException) -> OSError | None:
    """Return an error of the operating system as an OSError, also if a library raised it as something else."""
    if isinstance(error, OSError):
        return error
    number = RUST_ERRNO.search(str(error))
    if number is None:
        return None
    code = int(number[1] or number[2])
    return OSError(code, os.strerror(code))


def cause(error: BaseException) -> str:
    """Return the message of the innermost error that another one was raised from, in one line.

    Libraries wrap what went wrong: `datasets` says only "An error occurred while generating the dataset".
    """
    innermost = [link for link in _chain(error) if str(link).strip()] or [error]
    text = " ".join(str(innermost[-1]).split())
    if len(text) > CAUSE_LENGTH:
        text = f"{text[:CAUSE_LENGTH]} ..."
    # "'label'" alone, from a KeyError, explains nothing.
    return text if " " in text else f"{type(innermost[-1]).__name__}: {text}".removesuffix(": ")


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, the one that it was raised from, and so on."""
    known: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in known:
        known.add(id(link))
        yield link
        link = link.__cause__


LISTED = 10  # problems of one kind that are listed; a dataset may have a million


def first_few(items: Sequence[Any], describe: Callable[[Any], str] = str) -> list[str]:
    """Describe the first ten items, and count the others in a last line "... and 7 more"."""
    others = len(items) - LISTED
    return [*map(describe, items[:LISTED]), *([f"... and {others} more"] if others > 0 else [])]
