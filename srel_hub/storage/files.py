"""Files of a run: written atomically, hashed, and swept when whoever wrote them is gone."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil


UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
ABANDONED = 24 * 3600.0  # seconds after which another machine's temporary file is nobody's


def machine_name() -> str:
    """Where this process's number is counted: a host, or a container of one that may share its name."""
    space = Path("/proc/self/ns/pid")
    return f"{socket.gethostname()}.{space.stat().st_ino % 10**6}" if space.exists() else socket.gethostname()


def process_name() -> str:
    """This process among all that may write to the same disk."""
    return f"{machine_name()}-{os.getpid()}"


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; what is there at the end (a file or a folder) is flushed and renamed.

    All files of a run are written through here, so that a name either holds all of its content or does not exist.
    Of the folders above only the last is made: a run directory that vanished is an error, not made anew elsewhere.
    """
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name(f".{path.name}.{process_name()}.tmp")
    _remove(temporary)  # of a killed process that had this one's number
    try:
        yield temporary
        for file in sorted(temporary.rglob("*")) if temporary.is_dir() else [temporary]:
            if file.is_file():
                _flush(file)
        if path.is_dir():
            shutil.rmtree(path)
        os.replace(temporary, path)
        _flush(path.parent)
    finally:
        _remove(temporary)


def _remove(place: Path) -> None:
    if place.is_dir():
        shutil.rmtree(place, ignore_errors=True)
    else:
        place.unlink(missing_ok=True)


def _flush(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_abandoned_files(folder: Path) -> None:
    """Remove temporary files below `folder` that were left by processes which are gone."""
    for file in folder.rglob(".*.tmp"):
        named = re.search(r"-([0-9]+)\.tmp$", file.name)
        with contextlib.suppress(FileNotFoundError):
            if named is None:
                continue
            if file.name.endswith(f".{machine_name()}{named[0]}"):
                gone = int(named[1]) != os.getpid() and not psutil.pid_exists(int(named[1]))
            else:
                gone = time.time() - file.stat().st_mtime > ABANDONED
            if gone:
                shutil.rmtree(file) if file.is_dir() else file.unlink()


def write_text(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def total_bytes(folder: Path) -> int:
    """Of all files below a folder; one that vanishes meanwhile counts nothing."""
    total = 0
    for file in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += file.stat().st_size if file.is_file() else 0
    return total


def format_bytes(count: float) -> str:
    """'28.3 GiB'."""
    power = 0
    while count >= 1024 and power < len(UNITS) - 1:
        count, power = count / 1024, power + 1
    return f"{count:.{0 if power == 0 else 1}f} {UNITS[power]}"
