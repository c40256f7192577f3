"""Claims: which process works on which unit.

A unit is claimed by creating a file exclusively. The claim of a dead process is taken over. If a process sleeps so long
that its unit is computed twice, nothing breaks: both results have the same bytes, and files appear by renaming.
"""

import contextlib
import os
from pathlib import Path

from srel_hub.runs.heartbeat import BEAT, MISSED, Heartbeat, is_alive, seconds_since_beat
from srel_hub.storage.files import process_name


def take(claim: Path, heartbeat: Heartbeat) -> bool:
    """Try to claim a unit for this process.

    Args:
        claim: The unit's claim file.
        heartbeat: The heartbeat of this process.

    Returns:
        Whether this process now holds the claim.
    """
    if _create(claim, heartbeat.name):
        return True
    holder = _read(claim)
    if holder is None:
        return False  # released a moment ago; the next try succeeds
    if holder == heartbeat.name:
        return True
    if holder == "" and seconds_since_beat(claim, heartbeat.file) <= MISSED * BEAT:
        return False  # created a moment ago, its name is not written yet
    if holder and is_alive(heartbeat.file.with_name(f"{holder}.json"), heartbeat.file):
        return False
    return _displace(claim, holder, heartbeat.name) and _create(claim, heartbeat.name)


def release(claim: Path) -> bool:
    """Release a claim of this process.

    Returns:
        Whether this process still held the claim. If not, another process had taken it over.
    """
    if _read(claim) != process_name():
        return False
    claim.unlink(missing_ok=True)
    return True


def remove_dead_claims(folder: Path) -> None:
    """Remove the claims of processes of a run directory that have ended."""
    own = folder / "processes" / f"{process_name()}.json"
    for claim in (folder / "units").rglob("*.claim"):
        holder = _read(claim)
        if holder and holder != process_name() and not is_alive(own.with_name(f"{holder}.json"), own):
            claim.unlink(missing_ok=True)


def _create(claim: Path, name: str) -> bool:
    try:
        with claim.open("x", encoding="utf-8") as file:
            file.write(name)
    except FileExistsError:
        return False
    except BaseException:  # an empty claim of a stopped process would block the unit for MISSED beats
        claim.unlink(missing_ok=True)
        raise
    return True


def _read(claim: Path) -> str | None:
    try:
        return claim.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def _displace(claim: Path, holder: str, name: str) -> bool:
    """Remove the claim of a dead process. If several processes try, exactly one succeeds."""
    aside = claim.with_name(f".{claim.name}.{name}.tmp")
    try:
        os.rename(claim, aside)
    except FileNotFoundError:
        return False
    displaced = _read(aside)
    if displaced != holder:  # another process was faster, and this is its new claim: put it back
        with contextlib.suppress(OSError):
            os.link(aside, claim)
    aside.unlink(missing_ok=True)
    return displaced == holder
