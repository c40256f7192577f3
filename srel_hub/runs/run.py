"""One run directory: its recipe, paths, device, marks, log, and this process's place among those that work on it."""

import contextlib
import itertools
import json
import logging
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate.utils import broadcast_object_list
from tqdm import tqdm

from srel_hub.config import Recipe, as_dict, fingerprint, load_recipe
from srel_hub.config.yaml_io import to_yaml
from srel_hub.core.engine import Engine
from srel_hub.errors import UserError
from srel_hub.runs import signals as stopping
from srel_hub.runs.claims import Presence, forget_dead, others
from srel_hub.runs.completion import RESULTS, SET_ASIDE, STAGES, Marks, Stage
from srel_hub.runs.launch import make_accelerator
from srel_hub.runs.machine import library_versions
from srel_hub.runs.progress import Bar
from srel_hub.runs.resume import Settled, place_of, settle, to_keep
from srel_hub.storage.files import (
    format_bytes,
    process_name,
    read_json,
    remove_abandoned_files,
    total_bytes,
    write_json,
    write_text,
)


NAP = 0.2  # seconds between two tries for a claim
SEEN_WITHIN = 60.0  # seconds after which a shared file system shows what another machine wrote

RECODING = (
    *("relabel.encoding:", "relabel.top_k:", "relabel.top_values:", "relabel.epochs:", "relabel.pool:"),
    "evaluate.",
)  # changes for which labels that are there may be read instead of asking the teacher

Item = TypeVar("Item")


class Run:
    """A recipe, the directory it works in and the device it works on.

    Raises:
        UserError: if the directory holds another recipe's results, another launch works there, or the launcher was
            started in a way that does not do what it says.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.folder = place_of(recipe)
        self.marks = Marks(self.folder, recipe.run.check == "full")
        self.presence: Presence | None = None
        self._recorded = itertools.count()  # the trackers' steps
        self.accelerator = make_accelerator(recipe.run.trackers, str(self.path("trackers")))
        self.launch = self.broadcast(f"{process_name()}-{time.time()}")
        self._require_alone(recipe)
        self._asked = recipe  # not yet resolved: another launch may be the first to
        self._adopt(settle(recipe, self.folder, self._is_begun()))
        self._require_none_hurt()

    def _adopt(self, settled: Settled) -> None:
        self.recipe, self.outdated, self._changes = settled.recipe, settled.outdated, settled.changes
        threads = self.recipe.run.cpu_threads
        assert isinstance(threads, int)
        torch.set_num_threads(threads)

    def _is_begun(self) -> bool:
        there = [*(f"units/{stage}/*.json" for stage in STAGES), "checkpoints/*"]
        return any(any(self.folder.glob(kind)) for kind in there) or bool(others(self.folder))

    def _require_alone(self, recipe: Recipe) -> None:
        """Refuse to work beside a launch unless asked to."""
        foreign = [other for other in others(self.folder) if other.get("launch") != self.launch]
        if foreign and not recipe.run.cooperate:
            told = ", ".join(f"{other['host']}, process {other['pid']}" for other in foreign[:3])
            raise UserError(
                f"{self.folder}: another launch works on it ({told}); stop that one first, or let this one share the "
                "work with run.cooperate=true"
            )

    def _require_none_hurt(self) -> None:
        """Refuse to replace the results of a launch that lives."""
        living = others(self.folder)
        if self.outdated and [other for other in living if other.get("launch") != self.launch]:
            raise UserError(
                f"run.overwrite=true: {self.folder} is worked on by {living[0]['host']}, process {living[0]['pid']}, "
                "with the recipe that it has; stop that launch first"
            )

    def broadcast(self, value: Item) -> Item:
        """The main process's value, in all processes of the launch."""
        if self.accelerator.num_processes == 1:
            return value
        return broadcast_object_list([value])[0]  # type: ignore[no-any-return]

    def begin(self) -> None:
        """Make the directory and keep the recipe in it; called when all checks that cost nothing are behind.

        Where to publish, and the way to the directory, stay as they were when the run began: what a later command says
        of them holds for that command. All processes of a launch call it together.
        """
        if self.is_main:
            new = self.presence is None
            self.path("units").mkdir(parents=True, exist_ok=True)
            self._enter()
            with self.locked("begin"):
                if new:  # whoever came later knows of this launch
                    self._require_alone(self.recipe)
                self._begin()
        self.accelerator.wait_for_everyone()
        if not self.is_main:
            self._require_shared()
            self._enter()
            self._adopt(settle(self._asked, self.folder, begun=True))

    def _begin(self) -> None:
        if not others(self.folder):
            remove_abandoned_files(self.folder)
            forget_dead(self.folder)
        self._adopt(settle(self._asked, self.folder, self._is_begun()))
        self._require_none_hurt()
        if self._only_recoded() and self.path("soft_labels", "manifest.json").is_file():
            self.remove(SET_ASIDE, "; ".join(self._changes))
            self.path("soft_labels").rename(self.path(SET_ASIDE))  # relabel may read them
        for stage in reversed(self.outdated):
            for place in self._outdated_results(stage):
                self.remove(place, "; ".join(self._changes))
        if self.outdated:
            for name in ("checkpoints", "cache", "units/cache"):
                self.remove(name, "; ".join(self._changes))
            self.outdated = ()
        self.keep_recipe()
        if self.recipe.run.trackers and not self.accelerator.trackers:
            self.accelerator.init_trackers("srel_hub", _flat(as_dict(self.recipe)))

    def _only_recoded(self) -> bool:
        """Whether labels, at the earliest, are asked for otherwise, and only in what they are stored as."""
        return "relabel" in self.outdated and all(change.startswith(RECODING) for change in self._changes)

    def _outdated_results(self, stage: Stage) -> Iterator[str]:
        """What there is of a stage whose recipe changed; label teachers stay if they are still asked for."""
        asked = ("relabel.teacher", "relabel.committee")
        keeps = self.outdated[0] == "relabel" and not any(change.startswith(asked) for change in self._changes)
        for pattern in (*RESULTS[stage], f"units/{stage}.json", f"units/{stage}/*"):
            for place in sorted(self.folder.glob(pattern)):
                if not (keeps and place.stem.startswith("label_")):
                    yield place.relative_to(self.folder).as_posix()

    def keep_recipe(self) -> None:
        """Write the recipe into the directory, as it was resolved by now."""
        file, kept = self.path("recipe.yaml"), self.recipe
        if file.is_file():
            before = load_recipe(file)
            kept = replace(kept, publish=before.publish, run=replace(kept.run, root=before.run.root))
        write_text(file, to_yaml(as_dict(to_keep(kept))))
        if not self.path("versions.json").is_file():  # the cards name those that the run began with
            write_json(self.path("versions.json"), library_versions())

    def _enter(self) -> None:
        if self.presence is None:
            about = {"launch": self.launch, "rank": self.accelerator.process_index}
            self.presence = Presence(self.folder, about)

    def _require_shared(self) -> None:
        """Refuse a run directory that is not the one of the launch's main process."""
        until = time.monotonic() + SEEN_WITHIN
        while not any(other.get("launch") == self.launch for other in others(self.folder)):
            if time.monotonic() > until:
                raise UserError(
                    f"run.root: {self.folder} on {process_name()} is not the directory that the launch's main process "
                    "works in; set run.root to a file system that all machines share"
                )
            time.sleep(NAP)

    def remove(self, name: str, why: str) -> None:
        """Remove a file or a folder of the run; a folder's removal is told."""
        place = self.path(name)
        if place.is_dir():
            count = sum(1 for file in place.rglob("*") if file.is_file())
            self.print(f"removed {place} ({count} files, {format_bytes(total_bytes(place))}): {why}")
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)

    def close(self) -> None:
        """Leave the directory to others."""
        if self.accelerator.trackers:
            self.accelerator.end_training()
        if self.presence is not None:
            self.presence.leave()
            self.presence = None

    @property
    def is_main(self) -> bool:
        """Whether this is the process of its launch that talks to the user and does what is done once."""
        return bool(self.accelerator.is_main_process)

    @property
    def device(self) -> torch.device:
        return torch.device(self.accelerator.device)

    @property
    def engine(self) -> Engine:
        """How this process computes."""
        precision = self.recipe.precision
        assert precision != "auto", "settle() comes first"
        return Engine(precision, self.recipe.run.compile)

    def path(self, *parts: str) -> Path:
        return self.folder.joinpath(*parts)

    @cached_property
    def logger(self) -> logging.Logger:
        """Writes to the run's log.txt."""
        logger = logging.getLogger(f"srel_hub.{self.folder.resolve()}")
        logger.setLevel(logging.INFO)
        logger.propagate = False
        handler = _LogFile(self.path("log.txt"), encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        logger.handlers = [handler]
        return logger

    def print(self, message: str) -> None:
        """One line to the terminal of the main process, and to the log."""
        if self.is_main:
            tqdm.write(message, file=sys.stderr)
        self.logger.info(message)

    def record(self, stage: str, **values: Any) -> None:
        """One line of metrics.jsonl; the main process's numbers also go to the trackers."""
        line = {"stage": stage, "time": round(time.time(), 3), "process": process_name(), **values}
        with self.path("metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if self.accelerator.trackers:
            numbers = {f"{stage}/{name}": value for name, value in values.items() if isinstance(value, (int, float))}
            self.accelerator.log(numbers, step=next(self._recorded))

    def bar(self, total: int | None, title: str, unit: str) -> Bar:
        """A bar that each machine's first process shows, and the main process logs.

        Before `begin` nothing is logged: a command that is refused leaves nothing behind.
        """
        return Bar(total, title, unit, not self.accelerator.is_local_main_process, self._log)

    def _log(self, line: str) -> None:
        if self.is_main and self.presence is not None:
            self.logger.info(line)

    def progress(self, items: Iterable[Item], total: int | None, title: str, unit: str) -> Iterator[Item]:
        """Pass items on under a progress bar; between two of them the run can be stopped."""
        with self.bar(total, title, unit) as bar, stopping.in_steps():
            for item in items:
                yield item
                bar.forward()
                stopping.step_ends()

    def require(self, part: str, stage: Stage) -> None:
        """Refuse to go on without what an earlier stage leaves.

        Raises:
            UserError: naming the stage to run first.
        """
        if not self.path(part).is_dir():
            raise UserError(f"{self.path(part)}: there is no such folder yet; run {stage} first")
        units = self.path("units", f"{stage}.json")
        missing = set(read_json(units)["units"]) - self.marked(stage) if units.is_file() else set()
        if missing:
            raise UserError(f"{self.path(part)}: {len(missing)} units of {stage} missing; run {stage} to its end")

    def is_done(self, stage: str, unit: str) -> bool:
        """Whether a unit was done, by this recipe, and its files are what they were."""
        return stage not in self.outdated and self.marks.is_done(stage, unit)

    def marked(self, stage: str) -> set[str]:
        """The units that have a mark, whoever did them."""
        return {file.stem for file in self.path("units", stage).glob("*.json")}

    def is_complete(self, stage: Stage) -> bool:
        """Whether all units of a stage are done."""
        try:
            told = read_json(self.path("units", f"{stage}.json"))
            same = told["recipe"] == self.stage_key(stage)
            return same and all(self.is_done(stage, unit) for unit in told["units"])
        except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
            return False

    def stage_key(self, stage: str) -> str:
        """The fingerprint of the stage's own section."""
        return fingerprint(getattr(self.recipe, stage))

    @contextlib.contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Within it, no other process of the directory is within it."""
        assert self.presence is not None, "begin() comes first"
        claim = self.path("units", f"{name}.claim")
        while not self.presence.take(claim):
            time.sleep(NAP)
            stopping.step_ends()
        try:
            yield
        finally:
            self.presence.give_back(claim)


class _LogFile(logging.FileHandler):
    """A log that cannot be written stops the run, as any other file does."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        raise  # noqa: PLE0704


def _flat(plain: dict[str, Any]) -> dict[str, str]:
    """The recipe as trackers take it."""
    sections = ((name, value) for name, value in plain.items() if isinstance(value, dict))
    return {f"{name}.{key}": str(value) for name, section in sections for key, value in section.items()}
