"""A stage's units of work, shared among all processes that work in a run directory."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from srel_hub.config import canonical
from srel_hub.errors import UserError
from srel_hub.runs import claims, signals
from srel_hub.runs.completion import STAGES
from srel_hub.runs.heartbeat import BEAT
from srel_hub.runs.run import CLAIM_INTERVAL, Run
from srel_hub.storage.files import process_name, read_json, write_text


LOOK_EVERY = 2.0  # seconds between two looks at the progress of other processes

Item = TypeVar("Item")


class WorkQueue:
    """An iterator over the units of a stage that this process claims, with one progress bar for the whole stage.

        with WorkQueue(run, "recover", {"unit-0": 1000, "unit-1": 1000}, "it") as work:
            for unit in work:                       # claimed; ends when all units are done, by any process
                for step in work.steps(optimize()):
                    ...
                work.done([file], loss=loss)

    Args:
        run: The run, after `begin`.
        stage: Name of the stage, or of a part of one such as 'patches'.
        units: Number of steps of every unit.
        step_name: The name of a step on the progress bar.
        last: The name of a unit that depends on all others and starts when they are done.
    """

    def __init__(self, run: Run, stage: str, units: Mapping[str, int], step_name: str, last: str | None = None) -> None:
        self._run, self._stage, self._units, self._last = run, stage, units, last
        self._not_seen_done = list(units)
        self._unit: str | None = None  # the unit that this process works on
        self._started = self._looked = self._reported = self._started_at = 0.0
        self._bar = run.bar(sum(units.values()), stage, step_name)

    def __enter__(self) -> "WorkQueue":
        run, units = self._run, {**self._units, **({self._last: 0} if self._last else {})}
        if self._stage in STAGES:
            file = run.path("units", f"{self._stage}.json")
            plan = canonical({"recipe": run.stage_key(self._stage), "units": units})
            if not file.is_file() or file.read_text(encoding="utf-8") != plan:
                write_text(file, plan)
        run.path("units", self._stage).mkdir(exist_ok=True)
        self._bar.skip(self._done_steps())
        return self

    def __exit__(self, *_: object) -> None:
        if self._unit is not None:
            self._release(self._unit)
        self._bar.__exit__()

    def __iter__(self) -> Iterator[str]:
        # Processes start at different places, so that they seldom try to claim the same unit.
        accelerator, names = self._run.accelerator, list(self._units)
        first = accelerator.process_index * len(names) // accelerator.num_processes
        yield from self._claimed([*names[first:], *names[:first]])
        if self._last is not None:
            yield from self._claimed([self._last])
        self._require_same_recipe()
        self._bar.reach(self._done_steps())

    def _claimed(self, names: Sequence[str]) -> Iterator[str]:
        """Yield the units that this process claims; end when all units are done."""
        while names:
            waiting = []
            for name in names:
                signals.step_ends()
                if self._run.is_done(self._stage, name):
                    continue
                if not self._claim(name):
                    waiting.append(name)
                    continue
                self._unit, self._started, self._started_at = name, time.monotonic(), time.time()
                yield name
                assert self._unit is None, f"{self._stage}: done() was not called for {name}"
            if len(waiting) == len(names):
                time.sleep(CLAIM_INTERVAL)
                self._look(0)
            names = waiting

    def _claim(self, name: str) -> bool:
        """Claim a unit that is not done; return whether the claim succeeded."""
        run = self._run
        assert run.heartbeat is not None, "begin() comes first"
        if not claims.take(run.marks.claim(self._stage, name), run.heartbeat):
            return False
        if run.is_done(self._stage, name):  # by another process, since the last look
            self._release(name)
            return False
        self._require_same_recipe()
        if run.marks.file(self._stage, name).is_file():
            self._bar.extend(self._units.get(name, 0))
            run.print(f"{self._stage}: files of {name} changed since this part was completed; redoing it")
        return True

    def steps(self, items: Iterable[Item], done: int = 0) -> Iterator[Item]:
        """Yield the steps of the current unit. The run can be stopped after each.

        Args:
            items: The remaining steps.
            done: Number of steps that were already made.
        """
        self._bar.skip(done)
        with signals.in_steps():
            for made, item in enumerate(items, done + 1):
                yield item
                self._bar.forward()
                self._look(made)
                signals.step_ends()

    def done(self, files: Sequence[Path], **values: Any) -> None:
        """Mark the current unit as done, after its files were written.

        Args:
            files: The unit's files.
            values: Results for log.txt and metrics.jsonl.
        """
        assert self._unit is not None
        run, name = self._run, self._unit
        before = run.marks.digests(self._stage, name)
        run.marks.mark(self._stage, name, files)
        seconds = round(time.monotonic() - self._started, 3)
        self._unit, twice = None, not self._release(name)
        run.log.record(self._stage, unit=name, seconds=seconds, twice=twice, **values)
        results = f": {canonical(values)}" if values else ""
        run.log.info(f"{self._stage}: {name} done in {seconds:.1f} s by {process_name()}{results}")
        if twice:
            run.print(
                f"{self._stage}: {name} was computed twice: another process took it over after this one missed its "
                "heartbeat"
            )
        if before and all(before.values()) and before != run.marks.digests(self._stage, name):
            self._invalidate_dependents(name)

    def _invalidate_dependents(self, name: str) -> None:
        """Remove the marks of all units that depend on a unit whose result changed."""
        if self._last is not None:
            self._run.marks.file(self._stage, self._last).unlink(missing_ok=True)
        if self._stage in STAGES:
            why = f"{self._stage}: the result of {name} differs from the previous one"
            for later in STAGES[STAGES.index(self._stage) + 1 :]:
                for unit in self._run.marks.units(later):
                    if unit.startswith(("label_", "recover_")):  # an adopted teacher depends on nothing
                        continue
                    self._run.marks.file(later, unit).unlink(missing_ok=True)
                self._run.print(f"redoing {later}: {why}")
            self._run.remove("checkpoints", why)

    def _release(self, name: str) -> bool:
        return claims.release(self._run.marks.claim(self._stage, name))

    def _look(self, made: int) -> None:
        """Advance the bar to the steps of all processes, and report this process's progress.

        Args:
            made: Steps of the current unit.
        """
        if time.monotonic() - self._looked > LOOK_EVERY:
            self._looked = time.monotonic()
            self._bar.reach(self._done_steps() + made)
            self._require_same_recipe()
        if self._unit is not None and time.monotonic() - self._reported > BEAT:
            self._reported = time.monotonic()
            self._report(self._unit, made)

    def _require_same_recipe(self) -> None:
        """Stop if the run was restarted with another recipe, perhaps while this process slept."""
        if self._stage in STAGES:
            recipe = read_json(self._run.path("units", f"{self._stage}.json"))["recipe"]
            if recipe != self._run.stage_key(self._stage):
                raise UserError(
                    f"{self._run.folder}: another process restarted {self._stage} with a different recipe, so this "
                    "process stops; pass the run directory as the recipe to work with the new one"
                )

    def _report(self, name: str, made: int) -> None:
        assert self._run.heartbeat is not None
        steps = self._units.get(name, 0)
        self._run.heartbeat.report(
            {"stage": self._stage, "unit": name, "made": made, "steps": steps, "begun": self._started_at}
        )

    def _done_steps(self) -> int:
        """Return the number of steps of all marked units, whichever process did them."""
        marked = self._run.marks.units(self._stage)
        self._not_seen_done = [name for name in self._not_seen_done if name not in marked]
        return sum(self._units.values()) - sum(self._units[name] for name in self._not_seen_done)
