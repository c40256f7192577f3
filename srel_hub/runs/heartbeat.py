"""Which processes work in a run directory: a file for each process, whose modification time is its heartbeat.

Several processes, on one machine or many, work on one directory without communicating with each other. Each keeps a
file in `processes/` and touches it every BEAT seconds. A process that misses MISSED beats counts as dead.
"""

import contextlib
import json
import os
import socket
import threading
import time
import weakref
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

from srel_hub.storage.files import process_name, write_json


BEAT = 10.0  # seconds
MISSED = 10  # beats; 100 s is longer than a network file system usually hangs

_users: Counter[Path] = Counter()  # how many Heartbeat objects of this process share one file


class Heartbeat:
    """The heartbeat of this process in a run directory, from construction until `stop`.

    Args:
        folder: The run directory, which must exist.
        about: JSON values that describe this process to others, such as its launch and rank.
    """

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        self.name = process_name()
        self.file = folder / "processes" / f"{self.name}.json"
        self._about = {**_identity(folder), "since": round(time.time(), 3), **about}
        write_json(self.file, self._about)
        _users[self.file] += 1
        stopped = threading.Event()
        threading.Thread(target=_beat, args=(self.file, stopped), daemon=True).start()
        self.stop = weakref.finalize(self, _stop, self.file, stopped)  # also at the interpreter's exit

    def report(self, now: dict[str, Any]) -> None:
        """Write the current work of this process for `srel-hub status`. This counts as a beat."""
        write_json(self.file, {**self._about, "now": now})


def other_processes(folder: Path) -> list[dict[str, Any]]:
    """Return the descriptions of all other processes that are alive in a run directory."""
    own = folder / "processes" / f"{process_name()}.json"
    files = [file for file in sorted((folder / "processes").glob("*.json")) if file != own]
    return [about for file in files if is_alive(file, own) and (about := _read_about(file))]


def remove_dead_processes(folder: Path) -> None:
    """Remove the files of processes that have ended."""
    own = folder / "processes" / f"{process_name()}.json"
    for file in (folder / "processes").glob("*.json"):
        if file != own and not is_alive(file, own):
            file.unlink(missing_ok=True)


def is_alive(file: Path, own: Path) -> bool:
    """Return whether the process that wrote this file is alive.

    A process of this machine is looked up by its number and start time. For other machines, the age of the last beat
    decides. An age is the difference between two times of the same file system, so the clocks of the machines need not
    agree.

    Args:
        file: The file of the process to check.
        own: The file of this process, which need not exist.
    """
    about = _read_about(file)
    if about is None:
        return False
    here = _identity(file.parent.parent)
    is_local = all(about.get(key) == here[key] for key in ("host", "boot", "namespace"))
    # A copied run directory brings the files of processes that work on the original.
    if is_local and (about.get("folder") != here["folder"] or not _is_running(about)):
        return False
    return seconds_since_beat(file, own) <= MISSED * BEAT


def seconds_since_beat(file: Path, own: Path) -> float:
    """Return the age of a file in seconds, by the clock of its file system if this process has a file there."""
    now = time.time()
    with contextlib.suppress(FileNotFoundError):
        os.utime(own)
        now = own.stat().st_mtime
    with contextlib.suppress(FileNotFoundError):
        return now - file.stat().st_mtime
    return float("inf")


def _read_about(file: Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError):
        return None


def _identity(folder: Path) -> dict[str, Any]:
    """Describe this process, the machine on which its number is unique, and the directory it works on."""
    namespace, boot = Path("/proc/self/ns/pid"), Path("/proc/sys/kernel/random/boot_id")
    return {
        "host": socket.gethostname(),
        # psutil computes the boot time from two clocks, so it wavers by seconds; hence the rounding.
        "boot": boot.read_text().strip() if boot.is_file() else round(psutil.boot_time(), -2),
        "namespace": os.readlink(namespace) if namespace.is_symlink() else "",
        "folder": [folder.stat().st_dev, folder.stat().st_ino],
        "pid": os.getpid(),
        "started": psutil.Process().create_time(),
    }


def _is_running(about: dict[str, Any]) -> bool:
    try:
        process = psutil.Process(int(about["pid"]))
        # Numbers are reused; the start time tells a new process from the old one (its clock ticks at 100 Hz).
        is_same = abs(process.create_time() - float(about["started"])) < 2
        return is_same and bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _beat(file: Path, stopped: threading.Event) -> None:
    while not stopped.wait(BEAT):
        with contextlib.suppress(OSError):  # a network file system may fail once
            os.utime(file)


def _stop(file: Path, stopped: threading.Event) -> None:
    stopped.set()
    _users[file] -= 1
    if not _users[file]:
        with contextlib.suppress(OSError):
            file.unlink(missing_ok=True)
