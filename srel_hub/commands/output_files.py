"""The files and folders that options name for the output of a command, checked before the command does any work."""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from srel_hub.errors import ErrorCollector, UserError, explain_os_error


@dataclass(frozen=True)
class Output:
    """An output that the user named.

    Attributes:
        option: The option, such as '--csv'.
        path: Its value; None if the option was not used.
        suffixes: The suffixes that the file may have, such as '.csv', the usual one first; empty for a new folder.
        in_place: Whether the file is written in place, so that it may also be a pipe or a device. All other outputs
            are written beside their place and renamed.
    """

    option: str
    path: Path | None
    suffixes: Sequence[str]
    in_place: bool = False


def check_outputs(*outputs: Output) -> None:
    """Check that all outputs can be written.

    Raises:
        UserError: If one of them cannot be written, or two options name the same file. The message lists all problems.
    """
    errors, options = ErrorCollector(), dict[Path, str]()
    for output in outputs:
        if output.path is None:
            continue
        with errors.collect(), _os_errors(output):
            (_check_file if output.suffixes else _check_new_folder)(output, output.path)
        place = output.path.resolve()
        if place in options and not (output.in_place and _is_special(output.path)):
            errors.extend(
                [f"{options[place]} and {output.option} are the same file, {output.path}; choose another one"]
            )
        options[place] = output.option
    errors.raise_all()


@contextlib.contextmanager
def _os_errors(output: Output) -> Iterator[None]:
    """Turn an error of the operating system, such as a name that is too long, into a UserError about the option."""
    try:
        yield
    except OSError as error:
        cause = explain_os_error(OSError(error.errno, error.strerror))
        raise UserError(f"{output.option}={output.path}: {cause}") from None


def _check_file(output: Output, path: Path) -> None:
    where, usual = f"{output.option}={path}", output.suffixes[0]
    if path.is_dir() or path.name in ("", ".."):
        raise UserError(f"{where}: is a folder; pass the name of a file, such as {path / f'result{usual}'}")
    if _is_special(path):
        if output.in_place:
            return
        raise UserError(f"{where}: is not a regular file; pass the name of a file, such as result{usual}")
    allowed, example = ", ".join(output.suffixes), path.with_suffix(usual)
    if not path.suffix:
        raise UserError(f"{where}: the suffix is missing; allowed: {allowed}; for example {example}")
    if path.suffix.lower() not in output.suffixes:
        raise UserError(
            f"{where}: the suffix {path.suffix} is not supported; allowed: {allowed}; for example {example}"
        )
    # root may write any file, but whoever made a file read-only wants to keep it.
    if path.exists() and not (path.stat().st_mode & 0o222 and os.access(path, os.W_OK)):
        raise UserError(f"{where}: this file is read-only; make it writable, or choose another name")
    _check_parent(where, path)


def _check_new_folder(output: Output, path: Path) -> None:
    where = f"{output.option}={path}"
    if path.exists() or path.is_symlink():
        raise UserError(f"{where}: already exists; choose another folder")
    existing = next(folder for folder in path.absolute().parents if folder.exists())
    _check_parent(where, existing / "new")


def _check_parent(where: str, path: Path) -> None:
    """Check that a file can be created in the folder of a path, by creating one that has no name."""
    folder = path.absolute().parent
    if not folder.exists():
        raise UserError(f"{where}: there is no folder {path.parent}; create it first")
    if not folder.is_dir():
        raise UserError(f"{where}: {path.parent} is a file instead of a folder; choose another place")
    try:
        # Permissions alone do not tell: the file system may be read-only, or the disk full.
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        cause = explain_os_error(OSError(error.errno, error.strerror))
        raise UserError(f"{where}: no file can be written in {folder}: {cause}") from None


def _is_special(path: Path) -> bool:
    """Return whether a path is a pipe, a device or a socket, such as /dev/stdout, also if that is a redirected file."""
    is_device = path.absolute().parts[:2] == ("/", "dev")
    return path.exists() and not path.is_dir() and (is_device or not path.is_file())
