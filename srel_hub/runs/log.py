"""The log of a run: log.txt for people, metrics.jsonl for programs, and experiment trackers."""

import itertools
import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from tqdm import tqdm

from srel_hub.storage.files import process_name


class RunLog:
    """The log of a run directory, which must exist before the first line is written.

    Args:
        folder: The run directory.
        accelerator: Accelerate's view of this launch, with the trackers and the number of the process.
    """

    def __init__(self, folder: Path, accelerator: Accelerator) -> None:
        self._folder, self._accelerator = folder, accelerator
        self._steps = itertools.count()  # trackers need a step number that rises
        self._logger: logging.Logger | None = None

    def info(self, message: str) -> None:
        """Write one line to log.txt."""
        self._file_logger.info(message)

    def print(self, message: str) -> None:
        """Write one line to log.txt and, in the main process, to the terminal."""
        if self._accelerator.is_main_process:
            tqdm.write(message, file=sys.stderr)
        self.info(message)

    def record(self, stage: str, **values: Any) -> None:
        """Append one line to metrics.jsonl. The main process also sends its numbers to the trackers."""
        line = {"stage": stage, "time": round(time.time(), 3), "process": process_name(), **values}
        with (self._folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if self._accelerator.trackers:
            numbers = {f"{stage}/{name}": value for name, value in values.items() if isinstance(value, (int, float))}
            self._accelerator.log(numbers, step=next(self._steps))

    @property
    def _file_logger(self) -> logging.Logger:
        if self._logger is None:
            self._logger = logging.getLogger(f"srel_hub.{self._folder.resolve()}")
            self._logger.setLevel(logging.INFO)
            self._logger.propagate = False
            handler = _StrictFileHandler(self._folder / "log.txt", encoding="utf-8")
            handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
            self._logger.handlers = [handler]
        return self._logger


class _StrictFileHandler(logging.FileHandler):
    """Raises if the log cannot be written, as on a full disk. The logging module would only print a traceback."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (overrides)
        raise  # noqa: PLE0704 (called in an except block)
