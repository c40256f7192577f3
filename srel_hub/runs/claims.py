"""Who works in a run directory: a file per process with a heartbeat, and claims of single units.

Several processes, on one machine or many, work on one directory without talking to each other. Each keeps a file in
`processes/` whose time of change it renews every BEAT seconds. A unit is claimed by creating a file exclusively; a
claim whose holder is dead, or missed ten beats, is taken over. A unit done twice all the same (a process that slept)
is harmless: its bytes are the same, and files appear by being renamed.
"""

import contextlib
import json
import os
import socket
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import psutil

from srel_hub.runs.heartbeat import _HELD, BEAT, _beat, _leave
from srel_hub.storage.files import process_name, write_json


MISSED = 10  # beats, after which a process is taken for dead


class Presence:
    """This process in a run directory, from construction to `leave`.

    Args:
        folder: of the run; it exists.
        about: what others should know of this process.
    """

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        self.folder, self.name = folder, process_name()
        self.file = folder / "processes" / f"{self.name}.json"
        self._about = {**_identity(folder), "since": round(time.time(), 3), **about}
        write_json(self.file, self._about)
        _HELD[self.file] += 1
        over = threading.Event()
        threading.Thread(target=_beat, args=(self.file, over), daemon=True).start()
        self.leave = weakref.finalize(self, _leave, self.file, over)  # also at the interpreter's exit

    def tell(self, now: dict[str, Any]) -> None:
        """What this process is at, for whoever asks for the run's status; a beat too."""
        write_json(self.file, {**self._about, "now": now})

    def take(self, claim: Path) -> bool:
        """Whether the unit of this claim file is now this process's to do."""
        if _create(claim, self.name):
            return True
        holder = _read(claim)
        if holder is None:
            return False  # just given back; the next try finds out
        if holder == self.name:
            return True
        if holder == "" and _age(claim, self.file) <= MISSED * BEAT:
            return False  # being written
        if holder and is_alive(self.folder / "processes" / f"{holder}.json", self.file):
            return False
        return _displace(claim, holder, self.name) and _create(claim, self.name)

    def give_back(self, claim: Path) -> bool:
        """Whether the claim was still this process's, and no longer is."""
        if _read(claim) != self.name:
            return False
        claim.unlink(missing_ok=True)
        return True


def others(folder: Path) -> list[dict[str, Any]]:
    """What the living processes of a run directory say of themselves, without this one."""
    own = folder / "processes" / f"{process_name()}.json"
    files = [file for file in sorted((folder / "processes").glob("*.json")) if file != own]
    return [told for file in files if is_alive(file, own) and (told := _told(file))]


def forget_dead(folder: Path) -> None:
    """Remove the files of processes that are dead, and their claims."""
    own = folder / "processes" / f"{process_name()}.json"
    for claim in (folder / "units").rglob("*.claim"):
        holder = _read(claim)
        if holder and holder != process_name() and not is_alive(own.with_name(f"{holder}.json"), own):
            claim.unlink(missing_ok=True)
    for file in (folder / "processes").glob("*.json"):
        if file != own and not is_alive(file, own):
            file.unlink(missing_ok=True)


def is_alive(file: Path, own: Path) -> bool:
    """Whether the process of this presence file lives.

    On this machine the process itself is looked up. Ages are differences between times that the same file system gave,
    so that clocks of different machines need not agree.
    """
    told = _told(file)
    if told is None:
        return False
    here = _identity(file.parent.parent)
    same_machine = all(told.get(key) == here[key] for key in ("host", "boot", "namespace"))
    if same_machine and (told.get("folder") != here["folder"] or not _runs(told)):
        return False  # gone, or of the directory that this one was copied from
    return _age(file, own) <= MISSED * BEAT


def _told(file: Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError):
        return None


def _identity(folder: Path) -> dict[str, Any]:
    """The machine as its process numbers are counted, this process in it, and the directory that it works on."""
    space, boot = Path("/proc/self/ns/pid"), Path("/proc/sys/kernel/random/boot_id")
    return {
        "host": socket.gethostname(),
        "boot": boot.read_text().strip() if boot.is_file() else round(psutil.boot_time(), -2),  # which wavers
        "namespace": os.readlink(space) if space.is_symlink() else "",
        "folder": [folder.stat().st_dev, folder.stat().st_ino],
        "pid": os.getpid(),
        "started": psutil.Process().create_time(),
    }


def _runs(told: dict[str, Any]) -> bool:
    try:
        process = psutil.Process(int(told["pid"]))
        same = abs(process.create_time() - float(told["started"])) < 2
        return same and bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _age(file: Path, own: Path) -> float:
    """Seconds since the last beat of `file`, by the clock of the file system if this process has a file there."""
    now = time.time()
    with contextlib.suppress(FileNotFoundError):
        os.utime(own)
        now = own.stat().st_mtime
    with contextlib.suppress(FileNotFoundError):
        return now - file.stat().st_mtime
    return float("inf")


def _create(claim: Path, name: str) -> bool:
    try:
        with claim.open("x", encoding="utf-8") as file:
            file.write(name)
    except FileExistsError:
        return False
    except BaseException:
        claim.unlink(missing_ok=True)
        raise
    return True


def _read(claim: Path) -> str | None:
    try:
        return claim.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def _displace(claim: Path, holder: str, name: str) -> bool:
    """Take a dead holder's claim away; of several that try, one succeeds."""
    away = claim.with_name(f".{claim.name}.{name}.tmp")
    try:
        os.rename(claim, away)
    except FileNotFoundError:
        return False
    held = _read(away)
    if held != holder:  # somebody was faster, and this is their new claim
        with contextlib.suppress(OSError):
            os.link(away, claim)
    away.unlink(missing_ok=True)
    return held == holder
