"""Completion marks: which units of work are done, and whether their files are still the same.

The mark of a unit is `units/STAGE/UNIT.json`. It lists size, modification time and sha256 of every file of the unit. A
file whose size and modification time match is trusted. If only the time differs, as in a copied directory, the digest
is compared.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

from srel_hub.config import canonical
from srel_hub.storage.files import sha256, write_text


Stage = Literal["squeeze", "recover", "relabel", "evaluate"]
STAGES: tuple[Stage, ...] = get_args(Stage)
RESULTS: dict[Stage, tuple[str, ...]] = {  # glob patterns of each stage's results in the run directory
    "squeeze": ("teacher",),
    "recover": (
        "recover_teacher-*",
        "patches",
        "units/patches",
        "statistics",
        "units/statistics",
        "images",
        "history",
    ),
    "relabel": ("label_teacher", "label_committee-*", "soft_labels", "packed_labels"),
    "evaluate": ("evaluate", "pictures", "units/pictures"),
}
SET_ASIDE = "soft_labels_before"  # labels of the previous recipe, kept until relabel is complete

Stamp = tuple[int, int, str]  # size in bytes, modification time in ns, sha256


class Marks:
    """The completion marks of one run.

    Args:
        folder: The run directory.
        full: Compare the digest of every file once, even if its modification time is unchanged (`run.check=full`).

    Attributes:
        compared: Number of digests that were computed and agreed.
    """

    def __init__(self, folder: Path, full: bool) -> None:
        self.folder, self._full = folder, full
        self._verified: set[Path] = set()
        self.compared = 0

    def file(self, stage: str, unit: str) -> Path:
        """Return the path of the file that marks a unit of work as complete."""
        return self.folder / "units" / stage / f"{unit}.json"

    def claim(self, stage: str, unit: str) -> Path:
        """Return the path of the file that claims a unit for one process."""
        return self.folder / "units" / stage / f"{unit}.claim"

    def units(self, stage: str) -> set[str]:
        """Return the names of all units that have a mark, whichever process completed them."""
        return {file.stem for file in (self.folder / "units" / stage).glob("*.json")}

    def digests(self, stage: str, unit: str) -> dict[str, str] | None:
        """Return the sha256 that each of the unit's files had when the unit was marked; None without a mark."""
        stamps = _read_stamps(self.file(stage, unit))
        return None if stamps is None else {name: digest for name, (_, _, digest) in stamps.items()}

    def is_done(self, stage: str, unit: str) -> bool:
        """Return whether the unit is marked and its files have not changed since."""
        mark = self.file(stage, unit)
        stamps = _read_stamps(mark)
        if stamps is None:
            return False
        if self._full and mark not in self._verified:
            if not all(self._agrees(name, digest) for name, (_, _, digest) in stamps.items()):
                return False
            self._verified.add(mark)
        renew = False
        try:
            for name, (size, modified, digest) in stamps.items():
                file = self.folder / name
                status = file.stat()
                if status.st_size != size:
                    return False
                if status.st_mtime_ns != modified:
                    if sha256(file) != digest:
                        return False
                    renew = True
            if renew:  # so that the next look need not hash again
                digests = {name: digest for name, (_, _, digest) in stamps.items()}
                self.mark(stage, unit, [self.folder / name for name in stamps], digests)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):  # another process may remove it right now
            return False
        return True

    def mark(self, stage: str, unit: str, files: Sequence[Path], known: Mapping[str, str] | None = None) -> None:
        """Mark a unit as done, after its files were written and flushed.

        Args:
            stage: Name of the stage.
            unit: Name of the unit.
            files: The unit's files, inside the run directory.
            known: Known digests by file name, so that these files are not read again. '' means: do not hash this file,
                because it is cheaper to recompute.
        """
        stamps = {}
        for file in files:
            name, status = file.relative_to(self.folder).as_posix(), file.stat()
            digest = known[name] if known is not None and name in known else sha256(file)
            stamps[name] = [status.st_size, status.st_mtime_ns, digest]
        write_text(self.file(stage, unit), canonical(stamps))

    def _agrees(self, name: str, digest: str) -> bool:
        file = self.folder / name
        if not file.is_file() or (digest and sha256(file) != digest):
            return False
        self.compared += bool(digest)
        return True


def _read_stamps(mark: Path) -> dict[str, Stamp] | None:
    """Read a mark. A missing or damaged mark counts as no mark."""
    try:
        stamps = json.loads(mark.read_text(encoding="utf-8"))
        return {str(name): (int(size), int(time), str(digest)) for name, (size, time, digest) in stamps.items()}
    except (FileNotFoundError, NotADirectoryError, ValueError, AttributeError, TypeError):
        return None
