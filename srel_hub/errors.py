"""Errors that users can fix: the exceptions, a collector that reports several together, and errors of foreign files.

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
        self._errors: list[UserError | UnavailableError] = []

    @contextlib.contextmanager
    def collect(self) -> Iterator[None]:
        """Catch the UserError or UnavailableError of one check and keep its message."""
        try:
            yield
        except (UserError, UnavailableError) as error:
            self.messages.append(str(error))
            self._errors.append(error)

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
            if len(self._errors) < len(self.messages):  # some were returned, which are mistakes of the user
                raise UserError(text)
            # The exit status follows from the kind and the cause. One mistake of the user is enough for status 2.
            first = min(self._errors, key=lambda error: exit_status(error) == 1)
            kind = UnavailableError if isinstance(first, UnavailableError) else UserError
            raise kind(text) from first


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


# Failures of the machine. The same command can be repeated later, so they are no mistake of the user.
OF_THE_MACHINE = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE, errno.ENOMEM, errno.EMFILE),
    *(errno.ECONNREFUSED, errno.ECONNRESET, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ETIMEDOUT, errno.EPIPE),
}
# A full disk is also recognized by its text, because it is the one that long runs meet.
# safetensors and other libraries in Rust raise exceptions of their own, which name the number in their message:
# "No space left on device (os error 28)", or "Os { code: 28, kind: StorageFull, ... }".
RUST_ERRNO = re.compile(r"\(os error (\d+)\)|Os \{ code: (\d+), kind")
CAUSE_LENGTH = 400  # characters of a library's message that are shown; some print whole schemas


@contextlib.contextmanager
def reading(where: str, advice: str = "") -> Iterator[None]:
    """Turn whatever a library raises about a foreign file into a UserError.

    Args:
        where: The file and row, which begin the message.
        advice: What to do about it, which ends the message.

    Raises:
        UserError: For any exception. Its message has the innermost cause. A UserError passes unchanged.
        OSError: If the machine failed, for example because its disk is full.
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
    if number is not None:
        code = int(number[1] or number[2])
        return OSError(code, os.strerror(code))
    full = (code for code in (errno.ENOSPC, errno.EDQUOT) if os.strerror(code) in str(error))
    return next((OSError(code, os.strerror(code)) for code in full), None)


def cause(error: BaseException) -> str:
    """Return the message of the innermost error that another one was raised from, in one line.

    Libraries wrap what went wrong: `datasets` says only "An error occurred while generating the dataset".
    """
    innermost = [link for link in _chain(error, explicit=True) if str(link).strip()] or [error]
    text = " ".join(str(innermost[-1]).split())
    if len(text) > CAUSE_LENGTH:
        text = f"{text[:CAUSE_LENGTH]} ..."
    # "'label'" alone, from a KeyError, explains nothing.
    return text if " " in text else f"{type(innermost[-1]).__name__}: {text}".removesuffix(": ")


def exit_status(error: BaseException) -> int | None:
    """Return 1 for a failure of the machine, 2 for a mistake of the user, and None for a bug of ours."""
    if machine_failure(error) is not None:
        return 1
    if isinstance(error, UserError):
        return 2
    return 1 if isinstance(error, OSError) else None


def explain(error: BaseException) -> str:
    """Return the message of an error that has an exit status: what failed, why, and what to do."""
    system = None if isinstance(error, UserError) else as_os_error(error) or machine_failure(error)
    return str(error) if system is None else explain_os_error(system)


def _chain(error: BaseException, explicit: bool = False) -> Iterator[BaseException]:
    """Yield an error, the one that it was raised from or, unless `explicit`, while handling, and so on."""
    known: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in known:
        known.add(id(link))
        yield link
        link = link.__cause__ or (None if explicit or link.__suppress_context__ else link.__context__)


LISTED = 10  # problems of one kind that are listed; a dataset may have a million


def first_few(items: Sequence[Any], describe: Callable[[Any], str] = str) -> list[str]:
    """Describe the first ten items, and count the others in a last line "... and 7 more"."""
    others = len(items) - LISTED
    return [*map(describe, items[:LISTED]), *([f"... and {others} more"] if others > 0 else [])]
