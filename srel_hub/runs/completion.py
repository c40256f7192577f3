"""Marks: which units are done, and whether their files are still what they were when they were marked.

A mark is `units/STAGE/UNIT.json`: for every file its bytes, time of change and sha256. A file is trusted if the first
two agree; if only the time differs (a copied directory), its digest decides.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from srel_hub.config import canonical
from srel_hub.storage.files import sha256, write_text


Stage = Literal["squeeze", "recover", "relabel", "evaluate"]
STAGES: tuple[Stage, ...] = get_args(Stage)
RESULTS: dict[Stage, tuple[str, ...]] = {  # of each stage, in the run directory; patterns
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
    "relabel": ("label_teacher", "label_committee-*", "soft_labels"),
    "evaluate": ("evaluate", "pictures", "units/pictures"),
}
SET_ASIDE = "soft_labels_before"  # labels of the recipe that the run had before, until relabel is through


class Marks:
    """The marks of one run.

    Args:
        folder: of the run.
        full: compare digests whatever the times say (`run.check=full`); each unit once.
    """

    def __init__(self, folder: Path, full: bool) -> None:
        self.folder, self._full = folder, full
        self._verified: set[Path] = set()
        self.compared = 0  # digests that were computed and agree

    def file(self, stage: str, unit: str) -> Path:
        return self.folder / "units" / stage / f"{unit}.json"

    def claim(self, stage: str, unit: str) -> Path:
        return self.folder / "units" / stage / f"{unit}.claim"

    def digests(self, stage: str, unit: str) -> dict[str, str] | None:
        """sha256 of each of the unit's files when it was marked, None if it was not."""
        told = self._told(self.file(stage, unit))
        return None if told is None else {name: digest for name, (_, _, digest) in told.items()}

    def is_done(self, stage: str, unit: str) -> bool:
        """Whether the unit was marked and its files are what they were."""
        mark = self.file(stage, unit)
        told = self._told(mark)
        if told is None:
            return False
        if self._full and mark not in self._verified:
            if not all(self._agrees(name, digest) for name, (_, _, digest) in told.items()):
                return False
            self._verified.add(mark)
        renewed = False
        try:
            for name, (size, changed, digest) in told.items():
                file = self.folder / name
                found = file.stat()
                if found.st_size != size:
                    return False
                if changed is not None and found.st_mtime_ns != changed:
                    if sha256(file) != digest:
                        return False
                    renewed = True
            if renewed:
                self.mark(stage, unit, [self.folder / name for name in told], {n: told[n][2] for n in told})
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):  # also if another process takes it away now
            return False
        return True

    def mark(self, stage: str, unit: str, files: Sequence[Path], known: Mapping[str, str] | None = None) -> None:
        """Mark a unit as done; its files were written and flushed before. `known` are digests that need no reading,
        '' of a file that is not worth one."""
        stamps = {}
        for file in files:
            name, found = file.relative_to(self.folder).as_posix(), file.stat()
            digest = known[name] if known is not None and name in known else sha256(file)
            stamps[name] = [found.st_size, found.st_mtime_ns, digest]
        write_text(self.file(stage, unit), canonical(stamps))

    def _agrees(self, name: str, digest: str) -> bool:
        file = self.folder / name
        if not file.is_file() or (digest and sha256(file) != digest):
            return False
        self.compared += bool(digest)
        return True

    def _told(self, mark: Path) -> dict[str, tuple[int, int | None, str]] | None:
        """What a mark says; before version 0.4.0 it said sizes only. A damaged one marks nothing."""
        try:
            told = json.loads(mark.read_text(encoding="utf-8"))
            return {str(name): _stamp(stamp) for name, stamp in told.items()}
        except (FileNotFoundError, NotADirectoryError, ValueError, AttributeError, TypeError, IndexError):
            return None


def _stamp(told: int | list[Any]) -> tuple[int, int | None, str]:
    """Bytes, time of change, digest."""
    return (told, None, "") if isinstance(told, int) else (int(told[0]), int(told[1]), str(told[2]))
