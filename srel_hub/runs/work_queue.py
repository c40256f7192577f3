"""A stage's units, shared among all processes that work on a run directory."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from srel_hub.config import canonical
from srel_hub.errors import UserError
from srel_hub.runs import signals as stopping
from srel_hub.runs.completion import STAGES
from srel_hub.runs.heartbeat import BEAT
from srel_hub.runs.run import NAP, Run
from srel_hub.storage.files import process_name, read_json, write_text


LOOK_EVERY = 2.0  # seconds between two looks at what other processes did

Item = TypeVar("Item")


class Work:
    """The units of a stage that this process does, one after the other, under one bar for the whole stage.

        with Work(run, "recover", {"unit-0": 1000, "unit-1": 1000}, "it") as work:
            for unit in work:                       # claimed; ends when all units are done, whoever did them
                for step in work.steps(optimize()):
                    ...
                work.done([file], loss=loss)

    Args:
        units: every unit of the stage, with its number of steps.
        word: what a step is called.
        last: a unit that rests on all others, and is begun when they are done.
    """

    def __init__(self, run: Run, stage: str, units: Mapping[str, int], word: str, last: str | None = None) -> None:
        self._run, self._stage, self._units, self._last = run, stage, units, last
        self._unseen = list(units)
        self._unit: str | None = None
        self._begun = self._looked = self._told = self._clock = 0.0
        self._bar = run.bar(sum(units.values()), stage, word)

    def __enter__(self) -> "Work":
        run, units = self._run, {**self._units, **({self._last: 0} if self._last else {})}
        if self._stage in STAGES:
            file = run.path("units", f"{self._stage}.json")
            told = canonical({"recipe": run.stage_key(self._stage), "units": units})
            if not file.is_file() or file.read_text(encoding="utf-8") != told:
                write_text(file, told)
        run.path("units", self._stage).mkdir(exist_ok=True)
        self._bar.skip(self._done_steps())
        return self

    def __exit__(self, *_: object) -> None:
        if self._unit is not None:
            self._give_back(self._unit)
        self._bar.__exit__()

    def __iter__(self) -> Iterator[str]:
        # Processes begin at different places, so that they seldom ask for the same unit.
        accelerator, names = self._run.accelerator, list(self._units)
        first = accelerator.process_index * len(names) // accelerator.num_processes
        yield from self._claimed([*names[first:], *names[:first]])
        if self._last is not None:
            yield from self._claimed([self._last])
        self._require_recipe()
        self._bar.reach(self._done_steps())

    def _claimed(self, names: Sequence[str]) -> Iterator[str]:
        """Those of the units that this process gets; ends when all are done."""
        while names:
            waiting = []
            for name in names:
                stopping.step_ends()
                if self._run.is_done(self._stage, name):
                    continue
                if not self._take(name):
                    waiting.append(name)
                    continue
                self._unit, self._begun, self._clock = name, time.monotonic(), time.time()
                yield name
                assert self._unit is None, f"{self._stage}: done() was not called for {name}"
            if len(waiting) == len(names):
                time.sleep(NAP)
                self._look(0)
            names = waiting

    def _take(self, name: str) -> bool:
        """Claim a unit that is not done."""
        run = self._run
        assert run.presence is not None, "begin() comes first"
        if not run.presence.take(run.marks.claim(self._stage, name)):
            return False
        if run.is_done(self._stage, name):  # since the last look
            self._give_back(name)
            return False
        self._require_recipe()
        if run.marks.file(self._stage, name).is_file():
            self._bar.more(self._units.get(name, 0))
            run.print(f"{self._stage}: {name} was marked, but its files are not what they were: it is done again")
        return True

    def steps(self, items: Iterable[Item], done: int = 0) -> Iterator[Item]:
        """Pass the steps of the unit at hand on, the first `done` of which were made before."""
        self._bar.skip(done)
        with stopping.in_steps():
            for made, item in enumerate(items, done + 1):
                yield item
                self._bar.forward()
                self._look(made)
                stopping.step_ends()

    def done(self, files: Sequence[Path], **values: Any) -> None:
        """Mark the unit at hand, whose files are written; log.txt and metrics.jsonl get `values`, what it came to."""
        assert self._unit is not None
        run, name = self._run, self._unit
        before = run.marks.digests(self._stage, name)
        run.marks.mark(self._stage, name, files)
        seconds = round(time.monotonic() - self._begun, 3)
        self._unit, twice = None, not self._give_back(name)
        run.record(self._stage, unit=name, seconds=seconds, twice=twice, **values)
        told = f": {canonical(values)}" if values else ""
        run.logger.info("%s: %s done in %.1f s by %s%s", self._stage, name, seconds, process_name(), told)
        if twice:
            run.print(
                f"{self._stage}: {name} was done twice; it was taken over while this process gave no sign of life"
            )
        if before and all(before.values()) and before != run.marks.digests(self._stage, name):
            self._forget_later(name)

    def _forget_later(self, name: str) -> None:
        """What rests on a unit that came out otherwise when it was done again is done again too."""
        if self._last is not None:
            self._run.marks.file(self._stage, self._last).unlink(missing_ok=True)
        if self._stage in STAGES:
            why = f"{self._stage}: {name} came out otherwise than before"
            for later in STAGES[STAGES.index(self._stage) + 1 :]:
                for unit in self._run.marked(later):
                    if unit.startswith(("label_", "recover_")):  # a teacher, which rests on nothing
                        continue
                    self._run.marks.file(later, unit).unlink(missing_ok=True)
                self._run.print(f"{later} is done again: {why}")
            self._run.remove("checkpoints", why)

    def _give_back(self, name: str) -> bool:
        assert self._run.presence is not None
        return self._run.presence.give_back(self._run.marks.claim(self._stage, name))

    def _look(self, made: int) -> None:
        """Bring the bar to what all processes did; `made` are this unit's steps."""
        if time.monotonic() - self._looked > LOOK_EVERY:
            self._looked = time.monotonic()
            self._bar.reach(self._done_steps() + made)
            self._require_recipe()
        if self._unit is not None and time.monotonic() - self._told > BEAT:
            self._told = time.monotonic()
            self._tell(self._unit, made)

    def _require_recipe(self) -> None:
        """Refuse to go on for another recipe: this process may have slept while the run was begun anew."""
        if self._stage in STAGES:
            told = read_json(self._run.path("units", f"{self._stage}.json"))["recipe"]
            if told != self._run.stage_key(self._stage):
                raise UserError(f"{self._run.folder}: {self._stage} was begun anew with another recipe meanwhile")

    def _tell(self, name: str, made: int) -> None:
        """Let others know what this process is at."""
        assert self._run.presence is not None
        steps = self._units.get(name, 0)
        now = {"stage": self._stage, "unit": name, "made": made, "steps": steps, "begun": self._clock}
        self._run.presence.tell(now)

    def _done_steps(self) -> int:
        """Steps of all units that are marked, whoever did them."""
        there = self._run.marked(self._stage)
        self._unseen = [name for name in self._unseen if name not in there]
        return sum(self._units.values()) - sum(self._units[name] for name in self._unseen)
