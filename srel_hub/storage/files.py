"""Files of a run: atomic writes, sha256, JSON, sizes, and the removal of abandoned temporary files."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from safetensors import SafetensorError

from srel_hub.errors import UserError, as_os_error


UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
PRIVATE = 0o600  # of files that only their owner may read
ABANDONED_AFTER = 24 * 3600.0  # seconds; whether another machine's process is alive cannot be seen from here
LFS_POINTER = b"version https://git-lfs.github.com/spec/"  # how the text begins that Git has in place of a large file
LFS_ADVICE = "it is a Git LFS pointer instead of the file; run `git lfs pull` in its repository"


def machine_name() -> str:
    """Return a name for the place in which process ids are unique: a host, or one container of a host."""
    # Containers may share the host's name, but not its process ids. On Linux their PID namespace tells them apart.
    space = Path("/proc/self/ns/pid")
    return f"{socket.gethostname()}.{space.stat().st_ino % 10**6}" if space.exists() else socket.gethostname()


def process_name() -> str:
    """Return a name that is unique among all processes that may write to the same disk."""
    return f"{machine_name()}-{os.getpid()}"


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Write a file or a folder so that `path` either has its complete content or does not exist.

    All files of a run are written with this function. On an error, no temporary files remain.

    Args:
        path: replaced if it exists. Its folder is created if needed, but not the folders above: if a run directory
            vanished, that is an error, and recreating it would hide the error.

    Yields:
        a temporary path in the same folder. What the caller creates there is flushed to disk and renamed to `path`.

    Raises:
        UserError: If a file would take the place of a folder. A folder only ever replaces a folder.
        OSError: If the file cannot be written. safetensors has an exception of its own for a full disk.
    """
    if path.name in ("", ".."):  # '.', '..' and '/' name existing folders, whatever is written
        raise UserError(f"{path} is a folder; pass the name of a file, such as {path / 'result'}")
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name(f".{path.name}.{process_name()}.tmp")
    _remove(temporary)  # left by a killed process that had the same process id
    try:
        yield temporary
        for file in sorted(temporary.rglob("*")) if temporary.is_dir() else [temporary]:
            if file.is_file():
                _give_usual_mode(file)
                _flush(file)
        if path.is_dir():
            # `srel-hub report RUN --out FOLDER` once deleted the user's folder here.
            if not temporary.is_dir():
                raise UserError(f"{path} is a folder; pass the name of a file, such as {path / 'result'}")
            shutil.rmtree(path)
        os.replace(temporary, path)
        _flush(path.parent)
    except SafetensorError as error:
        raise as_os_error(error) or error from None
    except OSError as error:
        if str(error.filename).startswith(str(temporary)):
            error.filename = str(path)  # users do not know the temporary name
        raise
    finally:
        _remove(temporary)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _give_usual_mode(file: Path) -> None:
    """Give a file the permissions of any other new file in its folder.

    safetensors creates its files with mode 0600, whatever the umask. So other users of a machine could read all files
    of a run except its networks.
    """
    if stat.S_IMODE(file.stat().st_mode) != PRIVATE:
        return
    # A new file shows the umask, which a process can only read by changing it, and the folder's default ACL.
    probe = file.with_name(f".mode-of-{file.name}.{process_name()}.tmp")
    try:
        probe.touch(exist_ok=False)
        with contextlib.suppress(PermissionError):  # a hard link to a file of another user
            file.chmod(stat.S_IMODE(probe.stat().st_mode))
    finally:
        probe.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Force a file, or the entries of a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_abandoned_files(folder: Path) -> None:
    """Remove temporary files below `folder` whose processes have ended.

    On this machine a process has ended if its id does not exist. A temporary file of another machine is removed after
    a day.
    """
    for path in folder.rglob(".*.tmp"):
        suffix = re.search(r"-([0-9]+)\.tmp$", path.name)
        if suffix is None:
            continue
        with contextlib.suppress(FileNotFoundError):  # another process may remove it at the same time
            if path.name.endswith(f".{machine_name()}{suffix[0]}"):
                process = int(suffix[1])
                abandoned = process != os.getpid() and not psutil.pid_exists(process)
            else:
                abandoned = time.time() - path.stat().st_mtime > ABANDONED_AFTER
            if abandoned:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically, with sorted keys and two spaces of indentation, so equal values give equal bytes.

    Raises:
        ValueError: for NaN and infinity, which JSON cannot hold.
    """
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Return the content of a UTF-8 JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def require_no_pointer(path: Path) -> None:
    """Check that a file was downloaded, and is not what `git clone` writes without Git LFS.

    Raises:
        UserError: If it is a Git LFS pointer.
        OSError: If it cannot be read.
    """
    with path.open("rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            raise UserError(f"{path}: {LFS_ADVICE}")


def sha256(path: Path) -> str:
    """Return the sha256 of a file's content, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def total_bytes(folder: Path) -> int:
    """Return the size of all files below a folder. A file that is removed in the meantime counts as 0."""
    total = 0
    for file in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += file.stat().st_size if file.is_file() else 0
    return total


def format_bytes(count: float) -> str:
    """Return a size for readers, such as '28.3 GiB'."""
    power = 0
    while count >= 1024 and power < len(UNITS) - 1:
        count, power = count / 1024, power + 1
    return f"{count:.{0 if power == 0 else 1}f} {UNITS[power]}"
