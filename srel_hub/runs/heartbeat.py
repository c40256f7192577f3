"""runs.heartbeat."""

import contextlib
import os
import threading
from collections import Counter
from pathlib import Path


BEAT = 10.0  # seconds

_HELD: Counter[Path] = Counter()  # how many runs of this process a presence file stands for


def _beat(file: Path, over: threading.Event) -> None:
    while not over.wait(BEAT):
        with contextlib.suppress(OSError):  # a network file system may fail once
            os.utime(file)


def _leave(file: Path, over: threading.Event) -> None:
    over.set()
    _HELD[file] -= 1
    if not _HELD[file]:
        with contextlib.suppress(OSError):
            file.unlink(missing_ok=True)
