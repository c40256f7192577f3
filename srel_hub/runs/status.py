"""How far a run is: stages, units, rate, time left, sizes, processes and the last error. Read from its directory."""

import json
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srel_hub.config import load_recipe
from srel_hub.errors import UserError
from srel_hub.runs.completion import RESULTS, STAGES, Stage
from srel_hub.runs.heartbeat import other_processes
from srel_hub.runs.saved_epochs import read_epochs
from srel_hub.storage.files import format_bytes, read_json, total_bytes


Record = dict[str, Any]  # a line of metrics.jsonl, or what a process reports about itself

RECENT = 50  # units over which the rate is averaged


@dataclass(frozen=True)
class StageStatus:
    """The status of one stage.

    Attributes:
        name: The stage.
        units: Number of units; None if the stage has not started.
        units_done: Number of finished units.
        share: Share of the stage's steps that are done, in [0, 1], with those of checkpoints.
        rate: Steps per second of all processes together; None if it is not known.
        seconds_left: Remaining time at this rate.
        bytes: Size of the stage's results.
        checkpoints: Unfinished units on which no process works, but which will resume from a checkpoint: by unit, the
            finished epochs and all epochs.
    """

    name: str
    units: int | None
    units_done: int
    share: float
    rate: float | None
    seconds_left: float | None
    bytes: int
    checkpoints: dict[str, tuple[int, int]]


@dataclass(frozen=True)
class Status:
    """The status of a run.

    Attributes:
        run: The run directory.
        stages: The stages, in the order in which they run.
        processes: The reports of the processes that are alive.
        assembled: Whether the dataset and the teacher's repository are assembled.
        done_twice: Number of units that two processes computed.
        bytes: Size of the run directory.
        error: The error message of the last stop; None if the run was resumed since.
    """

    run: str
    stages: tuple[StageStatus, ...]
    processes: tuple[dict[str, Any], ...]
    assembled: bool
    done_twice: int
    bytes: int
    error: str | None


def status(folder: Path) -> Status:
    """Read the status of a run directory.

    Raises:
        UserError: If the folder is not a run directory.
    """
    if not (folder / "recipe.yaml").is_file():
        raise UserError(f"{folder}: there is no run here (a run has a recipe.yaml); pass a folder inside run.root")
    lines = list(_records(folder))
    living = tuple(other_processes(folder))
    units = [line for line in lines if "unit" in line]
    return Status(
        run=str(folder),
        stages=tuple(_stage(folder, stage, units, living) for stage in STAGES),
        processes=living,
        assembled=any((folder / "units" / "assemble").glob("*.json")),
        done_twice=sum(bool(line.get("twice")) for line in units),
        bytes=total_bytes(folder),
        error=str(lines[-1]["message"]) if lines and lines[-1]["stage"] == "error" else None,
    )


def _records(folder: Path) -> Iterator[Record]:
    """Yield the lines of metrics.jsonl, except one that is being written."""
    file = folder / "metrics.jsonl"
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
        try:
            yield dict(json.loads(line))
        except ValueError:
            continue


def _stage(folder: Path, name: Stage, lines: Sequence[dict[str, Any]], living: Sequence[dict[str, Any]]) -> StageStatus:
    size = sum(total_bytes(place) for part in RESULTS[name] for place in folder.glob(part) if place.is_dir())
    try:
        units: dict[str, int] = read_json(folder / "units" / f"{name}.json")["units"]
        steps = {unit: count for unit, count in units.items() if count}  # without manifest and summary
    except (FileNotFoundError, ValueError):
        return StageStatus(name, None, 0, 0.0, None, None, size, {})
    marks = {file.stem for file in (folder / "units" / name).glob("*.json")}
    done = [unit for unit in steps if unit in marks]
    now = [process["now"] for process in living if process.get("now", {}).get("stage") == name]
    resumable = _checkpoints(folder, name, set(steps) - set(done) - {work["unit"] for work in now})
    total, made = sum(steps.values()), sum(steps[unit] for unit in done) + sum(work["made"] for work in now)
    made += sum(steps[unit] * epochs // of for unit, (epochs, of) in resumable.items())
    rate = _rate([line for line in lines if line["stage"] == name and line["unit"] in steps], steps, now)
    left = None if rate is None or len(done) == len(steps) else (total - made) / rate
    return StageStatus(name, len(steps), len(done), made / total if total else 1.0, rate, left, size, resumable)


def _checkpoints(folder: Path, stage: Stage, units: Collection[str]) -> dict[str, tuple[int, int]]:
    """Return the finished epochs and all epochs of units that have a checkpoint. Only trainings have checkpoints."""
    saved = {unit: read_epochs(folder / "checkpoints" / f"{stage}-{unit}") for unit in sorted(units)}
    found = {unit: epochs for unit, epochs in saved.items() if epochs is not None}
    if not found:
        return {}
    recipe = load_recipe(folder / "recipe.yaml")
    of = recipe.squeeze.epochs if stage == "squeeze" else recipe.evaluate.epochs
    return {unit: (epochs, of) for unit, epochs in found.items()}


def _rate(lines: Sequence[Record], steps: dict[str, int], now: Sequence[Record]) -> float | None:
    """Return the steps per second of the last units, or of the current units if none is done."""
    recent = lines[-RECENT:]
    if recent:
        span = max(line["time"] for line in recent) - min(line["time"] - line["seconds"] for line in recent)
        return sum(steps[line["unit"]] for line in recent) / span if span > 0 else None
    rate = sum(work["made"] / max(1e-3, time.time() - work["begun"]) for work in now)
    return rate or None


def status_lines(status: Status) -> Iterator[str]:
    """Yield the status as lines of text."""
    yield f"{status.run}: {format_bytes(status.bytes)}"
    yield f"{'stage':<10} {'units':>15} {'done':>7} {'rate':>12} {'time left':>12} {'size':>10}"
    for stage in status.stages:
        units = "not started" if stage.units is None else f"{stage.units_done:,} of {stage.units:,}"
        rate = "" if stage.rate is None else f"{stage.rate:.3g}/s"
        left = "" if stage.seconds_left is None else _span(stage.seconds_left)
        yield f"{stage.name:<10} {units:>15} {stage.share:>7.1%} {rate:>12} {left:>12} {format_bytes(stage.bytes):>10}"
    yield f"dataset and teacher_repo: {'assembled' if status.assembled else 'not assembled yet'}"
    for stage in status.stages:
        for unit, (epochs, of) in stage.checkpoints.items():
            yield f"will resume: {stage.name} {unit}, after epoch {epochs:,} of {of:,}"
    for process in status.processes:
        now = process.get("now")
        doing = f"{now['stage']} {now['unit']}, {now['made']} of {now['steps']}" if now else "between units"
        yield f"working: {process['host']}, process {process['pid']}: {doing}"
    if not status.processes:
        yield "no process is working on it"
    if status.done_twice:
        yield f"{status.done_twice} units were computed twice"
    if status.error is not None:
        yield f"last error: {status.error}"


def _span(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    return f"{hours:.1f} h" if hours >= 1 else f"{minutes:.1f} min" if minutes >= 1 else f"{seconds:.0f} s"
