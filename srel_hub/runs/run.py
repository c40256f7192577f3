"""A run: a directory, its completion marks and log, and the processes of this launch that work in it."""

import contextlib
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate.utils import broadcast_object_list

from srel_hub.config import Recipe, as_dict, fingerprint, load_recipe
from srel_hub.config.yaml_io import to_yaml
from srel_hub.core.engine import Engine
from srel_hub.errors import UserError
from srel_hub.runs import claims, signals
from srel_hub.runs.completion import RESULTS, SET_ASIDE, STAGES, Marks, Stage
from srel_hub.runs.heartbeat import Heartbeat, other_processes, remove_dead_processes
from srel_hub.runs.launch import make_accelerator
from srel_hub.runs.log import RunLog
from srel_hub.runs.machine import library_versions
from srel_hub.runs.progress import Bar
from srel_hub.runs.resume import Resolved, resolve, run_folder, to_store
from srel_hub.storage.files import (
    format_bytes,
    process_name,
    read_json,
    remove_abandoned_files,
    total_bytes,
    write_json,
    write_text,
)
from srel_hub.teachers.own_code import import_modules


CLAIM_INTERVAL = 0.2  # seconds between two tries for a claim
SHARED_WITHIN = 60.0  # seconds within which a shared file system shows what another machine wrote

Item = TypeVar("Item")


class Run:
    """A run directory and this process's place among those that work in it.

    Construction reads and writes nothing in the directory; `begin` creates it and registers this process.

    Args:
        recipe: The requested recipe. Values of `auto` are replaced by those that the directory stores.

    Attributes:
        folder: The run directory.
        recipe: The resolved recipe. Only the entry points of stages read it; functions below them receive their own
            section.
        marks: Completion marks of all units.
        outdated: Stages whose results belong to another recipe.
        accelerator: Accelerate's view of this launch.
        launch: An id that all processes of this launch share.
        log: Writes log.txt and metrics.jsonl.
        heartbeat: The heartbeat of this process, between `begin` and `close`.

    Raises:
        UserError: If the directory holds results of another recipe, another launch is working in the directory, the
            launcher's options contradict the processes that it started, or a module of `run.imports` cannot be
            imported.
    """

    def __init__(self, recipe: Recipe) -> None:
        import_modules(recipe.run.imports, "run.imports")  # in every process of a launch
        self.folder = run_folder(recipe)
        self.marks = Marks(self.folder, recipe.run.check == "full")
        self.heartbeat: Heartbeat | None = None
        self.accelerator = make_accelerator(recipe.run.trackers, str(self.path("trackers")))
        self.log = RunLog(self.folder, self.accelerator)
        self.launch = self.broadcast(f"{process_name()}-{time.time()}")
        self._require_no_other_launch(recipe)
        self._requested = recipe  # not resolved: another launch may be the first to resolve it
        self._adopt(resolve(recipe, self.folder, self._has_begun()))
        self._require_no_results_in_use()

    # Place and workers

    def path(self, *parts: str) -> Path:
        """Return a path inside the run directory."""
        return self.folder.joinpath(*parts)

    @property
    def is_main(self) -> bool:
        """Whether this is the main process, which prints messages and does the work that must be done once."""
        return bool(self.accelerator.is_main_process)

    @property
    def device(self) -> torch.device:
        """The device of this process."""
        return torch.device(self.accelerator.device)

    @property
    def engine(self) -> Engine:
        """How networks compute in this run."""
        precision = self.recipe.precision
        assert precision != "auto", "resolve() comes first"
        return Engine(precision, self.recipe.run.compile)

    @property
    def seed(self) -> int:
        """The seed of every random draw of the run."""
        return self.recipe.seed

    def broadcast(self, value: Item) -> Item:
        """Return the main process's value in all processes of the launch. All of them must call it."""
        if self.accelerator.num_processes == 1:
            return value
        return broadcast_object_list([value])[0]  # type: ignore[no-any-return]

    def receive(self) -> Any:
        """Return, in a process that is not the main one, what the main process broadcasts next."""
        return self.broadcast(None)

    def print(self, message: str) -> None:
        """Print one line in the main process, and log it."""
        self.log.print(message)

    def bar(self, total: int | None, title: str, unit: str) -> Bar:
        """Return a progress bar that the first process of each machine shows and the main process logs.

        Nothing is logged before `begin`, so that a refused command writes no files.
        """
        return Bar(total, title, unit, not self.accelerator.is_local_main_process, self._log_progress)

    def _log_progress(self, line: str) -> None:
        if self.is_main and self.heartbeat is not None:
            self.log.info(line)

    def progress(self, items: Iterable[Item], total: int | None, title: str, unit: str) -> Iterator[Item]:
        """Yield items under a progress bar. The run can be stopped between two of them."""
        with self.bar(total, title, unit) as bar, signals.in_steps():
            for item in items:
                yield item
                bar.forward()
                signals.step_ends()

    # Beginning and ending

    def begin(self) -> None:
        """Create the directory, remove outdated results, and store the recipe. Call this after all cheap checks.

        The directory keeps the `publish` section and `run.root` of the command that began the run. A later command may
        use other values, but these are not stored. All processes of a launch call this together.
        """
        if self.is_main:
            is_new = self.heartbeat is None
            self.path("units").mkdir(parents=True, exist_ok=True)
            self._start_heartbeat()
            with self.locked("begin"):
                if is_new:  # a launch that came later sees this one's heartbeat
                    self._require_no_other_launch(self.recipe)
                self._prepare_folder()
        self.accelerator.wait_for_everyone()
        if not self.is_main:
            self._require_shared_folder()
            self._start_heartbeat()
            self._adopt(resolve(self._requested, self.folder, has_begun=True))

    def close(self) -> None:
        """Remove this process from the directory, so that other launches may work in it."""
        if self.accelerator.trackers:
            self.accelerator.end_training()
        if self.heartbeat is not None:
            self.heartbeat.stop()
            self.heartbeat = None

    @contextlib.contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Hold the lock `name`: only one process of the run at a time executes the `with` block."""
        assert self.heartbeat is not None, "begin() comes first"
        claim = self.path("units", f"{name}.claim")
        while not claims.take(claim, self.heartbeat):
            time.sleep(CLAIM_INTERVAL)
            signals.step_ends()
        try:
            yield
        finally:
            claims.release(claim)

    def store_recipe(self, recipe: Recipe) -> None:
        """Replace the run's recipe after a value was resolved. The main process writes it to the directory."""
        self.recipe = recipe
        if self.is_main:
            self._write_recipe()

    def set_ipc(self, ipc: int) -> None:
        """Set `recover.ipc` to the number of images per class that `recover.images` has. Call it before `begin`."""
        requested = self._requested
        self._requested = replace(requested, recover=replace(requested.recover, ipc=ipc))
        self.recipe = replace(self.recipe, recover=replace(self.recipe.recover, ipc=ipc))

    def remove(self, name: str, why: str) -> None:
        """Remove a file or folder of the run. The removal of a folder is printed with its reason."""
        place = self.path(name)
        if place.is_dir():
            count = sum(1 for file in place.rglob("*") if file.is_file())
            self.print(f"removed {place} ({count} files, {format_bytes(total_bytes(place))}): {why}")
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)

    # What is done

    def is_done(self, stage: str, unit: str) -> bool:
        """Return whether a unit was done with this recipe and its files have not changed since."""
        return stage not in self.outdated and self.marks.is_done(stage, unit)

    def is_complete(self, stage: Stage) -> bool:
        """Return whether all units of a stage are done."""
        try:
            plan = read_json(self.path("units", f"{stage}.json"))
            is_same = plan["recipe"] == self.stage_key(stage)
            return is_same and all(self.is_done(stage, unit) for unit in plan["units"])
        except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
            return False

    def stage_key(self, stage: str) -> str:
        """Return the fingerprint of the stage's section of the recipe."""
        return fingerprint(getattr(self.recipe, stage))

    def require(self, part: str, stage: Stage) -> None:
        """Check that all results of an earlier stage exist.

        Raises:
            UserError: If results are missing. The message names the stage to run first.
        """
        if not self.path(part).is_dir():
            raise UserError(f"{self.path(part)}: this folder does not exist yet; run `srel-hub {stage}` first")
        units = self.path("units", f"{stage}.json")
        missing = set(read_json(units)["units"]) - self.marks.units(stage) if units.is_file() else set()
        if missing:
            parts = "1 part is" if len(missing) == 1 else f"{len(missing)} parts are"
            raise UserError(
                f"{stage} is not complete ({parts} missing in {self.path(part)}); run `srel-hub {stage}` first"
            )

    # Private

    def _adopt(self, resolved: Resolved) -> None:
        self._resolved, self.recipe, self.outdated = resolved, resolved.recipe, resolved.outdated
        threads = self.recipe.run.cpu_threads
        assert isinstance(threads, int)
        torch.set_num_threads(threads)

    def _has_begun(self) -> bool:
        patterns = [*(f"units/{stage}/*.json" for stage in STAGES), "checkpoints/*"]
        return any(any(self.folder.glob(pattern)) for pattern in patterns) or bool(other_processes(self.folder))

    def _other_launches(self) -> list[dict[str, Any]]:
        return [process for process in other_processes(self.folder) if process.get("launch") != self.launch]

    def _require_no_other_launch(self, recipe: Recipe) -> None:
        others = self._other_launches()
        if others and not recipe.run.cooperate:
            names = ", ".join(f"{process['host']}, process {process['pid']}" for process in others[:3])
            raise UserError(
                f"{self.folder}: another launch is working in it ({names}); stop that launch first, or set "
                "run.cooperate=true to share the work"
            )

    def _require_no_results_in_use(self) -> None:
        """Raise an error if another launch is still working on the results that would be replaced."""
        if self.outdated and (others := self._other_launches()):
            raise UserError(
                f"run.overwrite=true: {others[0]['host']}, process {others[0]['pid']} is working in {self.folder} with "
                "another recipe; stop that launch first"
            )

    def _start_heartbeat(self) -> None:
        if self.heartbeat is None:
            self.heartbeat = Heartbeat(self.folder, {"launch": self.launch, "rank": self.accelerator.process_index})

    def _require_shared_folder(self) -> None:
        """Raise an error if the launch's main process works in a different run directory."""
        until = time.monotonic() + SHARED_WITHIN
        while not any(process.get("launch") == self.launch for process in other_processes(self.folder)):
            if time.monotonic() > until:
                raise UserError(
                    f"run.root: {self.folder} on {process_name()} is not the directory that the launch's main process "
                    "works in; set run.root to a file system that all machines share"
                )
            time.sleep(CLAIM_INTERVAL)

    def _prepare_folder(self) -> None:
        if not other_processes(self.folder):
            remove_abandoned_files(self.folder)
            claims.remove_dead_claims(self.folder)
            remove_dead_processes(self.folder)
        self._adopt(resolve(self._requested, self.folder, self._has_begun()))
        self._require_no_results_in_use()
        self._remove_outdated()
        self._write_recipe()
        if self.recipe.run.trackers and not self.accelerator.trackers:
            self.accelerator.init_trackers("srel_hub", _flatten(as_dict(self.recipe)))

    def _remove_outdated(self) -> None:
        why = self._resolved.reason
        if self._resolved.only_reencodes and self.path("soft_labels", "manifest.json").is_file():
            self.remove(SET_ASIDE, why)
            self.path("soft_labels").rename(self.path(SET_ASIDE))  # relabel reads them instead of running the teacher
        for stage in reversed(self.outdated):
            for place in list(self._outdated_results(stage)):
                self.remove(place, why)
        if self.outdated:
            for name in ("checkpoints", "cache", "units/cache"):
                self.remove(name, why)
            self.outdated = ()

    def _outdated_results(self, stage: Stage) -> Iterator[str]:
        """Yield the existing results of a stage whose recipe changed. Label teachers are kept if they stay the same."""
        keeps_teachers = self._resolved.keeps_label_teachers
        for pattern in (*RESULTS[stage], f"units/{stage}.json", f"units/{stage}/*"):
            for place in sorted(self.folder.glob(pattern)):
                if not (keeps_teachers and place.stem.startswith("label_")):
                    yield place.relative_to(self.folder).as_posix()

    def _write_recipe(self) -> None:
        file, recipe = self.path("recipe.yaml"), self.recipe
        if file.is_file():
            before = load_recipe(file)
            recipe = replace(recipe, publish=before.publish, run=replace(recipe.run, root=before.run.root))
        write_text(file, to_yaml(as_dict(to_store(recipe))))
        if not self.path("versions.json").is_file():  # cards name the versions that the run began with
            write_json(self.path("versions.json"), library_versions())


def _flatten(plain: dict[str, Any]) -> dict[str, str]:
    """Return the recipe in the form that trackers accept: one level, with values as text."""
    sections = ((name, value) for name, value in plain.items() if isinstance(value, dict))
    return {f"{name}.{key}": str(value) for name, section in sections for key, value in section.items()}
