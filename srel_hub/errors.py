"""Errors that users can fix: the exception, and a collector that reports several of them together."""

import contextlib
import errno
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


class UnavailableError(OSError):
    """The Hub cannot be reached or cannot respond at present; the same request may succeed later.

    Commands print the message without a traceback and exit with status 1.

    Attributes:
        retry_after: The number of seconds to wait that the Hub requests; 0 if it requests none.

    Examples:
        >>> from srel_hub import UnavailableError, load_condensed
        >>> try:
        ...     condensed = load_condensed("runs/quickstart/dataset")
        ... except UnavailableError as error:
        ...     print("try again later:", error)
    """

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ErrorCollector:
    """Collects the errors of several checks, so that a user sees all of them at once.

    Run each check inside `with errors.collect():`, then call `errors.raise_all()`.

    Attributes:
        messages: The collected messages, in order.
    """

    def __init__(self) -> None:
        self.messages: list[str] = []
        self._unavailable: list[str] = []  # those that a user cannot fix

    @contextlib.contextmanager
    def collect(self) -> Iterator[None]:
        """Catch the UserError or UnavailableError of one check and keep its message."""
        try:
            yield
        except UserError as error:
            self.messages.append(str(error))
        except UnavailableError as error:
            self.messages.append(str(error))
            self._unavailable.append(str(error))

    def extend(self, messages: Iterable[str]) -> None:
        """Add messages that a check returned instead of raising."""
        self.messages.extend(messages)

    def raise_all(self) -> None:
        """Raise all collected errors as one; do nothing if there are none.

        Raises:
            UserError: If there are errors. Its message has one line per different error.
            UnavailableError: If all of them are that the Hub cannot be reached.
        """
        if self.messages:
            text = "\n".join(dict.fromkeys(self.messages))
            raise UnavailableError(text) if self.messages == self._unavailable else UserError(text)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type's name if the message is empty.

    Libraries append advice and request ids that do not help our users, and begin with numbers such as "[Errno 111]".
    """
    text = re.sub(r"^\[Errno -?\d+\] ", "", str(error).strip())
    return (text or type(error).__name__).splitlines()[0]


# What to do about the errors of the operating system that a user can meet. Its own words come first in a message,
# because users search for them.
_FIXES = {
    errno.EACCES: "change the permissions, or use another place",
    errno.EPERM: "change the permissions, or use another place",
    errno.EROFS: "use another place",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "a part of this path is a file instead of a folder; use another path",
    errno.EISDIR: "use the path of a file instead of a folder",
    errno.EEXIST: "remove it, or use another path",
    errno.ENAMETOOLONG: "use a shorter name",
    errno.ELOOP: "symbolic links refer to each other; remove one of them",
    errno.ENOSPC: "free some space, or use another disk",
    errno.EDQUOT: "free some space, or use another disk",
    errno.EFBIG: "this file system does not allow such large files; use another disk",
    errno.EIO: "the disk cannot be read or written; check it, or use another disk",
    errno.ESTALE: "the connection to the network file system was lost; mount it again",
    errno.EBUSY: "stop the program that uses it",
    errno.EMFILE: "raise the limit, for example with ulimit -n 4096",
    errno.ENFILE: "stop other programs",
    errno.ENOMEM: "stop other programs, or use a machine with more memory",
    errno.ECONNREFUSED: "check the network",
    errno.ECONNRESET: "check the network",
    errno.ETIMEDOUT: "check the network",
    errno.EHOSTUNREACH: "check the network",
    errno.ENETUNREACH: "check the network",
}


def explain_os_error(error: OSError) -> str:
    """Return file, cause and fix of an error of the operating system, such as a full disk.

    An error with a message of its own, such as `UnavailableError`, keeps it.
    """
    if error.errno is None:
        return str(error).strip() or type(error).__name__
    cause = f"{error.strerror}; {_FIXES.get(error.errno, 'check the disk and the permissions')}"
    files = dict.fromkeys(str(name) for name in (error.filename, error.filename2) if name is not None)
    return f"{' -> '.join(files)}: {cause}" if files else cause


LISTED = 10  # problems of one kind that are listed; a dataset may have a million


def first_few(items: Sequence[Any], describe: Callable[[Any], str] = str) -> list[str]:
    """Describe the first ten items, and count the others in a last line "... and 7 more"."""
    others = len(items) - LISTED
    return [*map(describe, items[:LISTED]), *([f"... and {others} more"] if others > 0 else [])]
