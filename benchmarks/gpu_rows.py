"""Measure full-size rows of CIFAR-10, 10 images per class, on one GPU that is available for minutes only.

    python benchmarks/gpu_rows.py CIFAR10 [--seconds 540] [--workers 12] [--out FOLDER] [--commit HASH]
    python benchmarks/gpu_rows.py CIFAR10 --teachers 1 --change squeeze.network.width=0.125  # a trial

Every method is run on the same teachers, which differ in their epochs. A ResNet-18 student at this size leaves most of
a GPU idle, so many trainings run side by side, each in its own process. Finished units of work are kept in
runs/gpu_rows, so the same command resumes. After each task, the results are written to
benchmarks/results/gpu-cifar10.json and to FOLDER. Seconds are those of a shared GPU: a stage takes less time alone.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import shutil
import statistics
import sys
import tarfile
import time
import traceback
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import measured
import torch

from srel_hub.config import Recipe, load_recipe
from srel_hub.config.protocols import protocol_title
from srel_hub.runs.run import Run
from srel_hub.runs.shared_stages import borrow
from srel_hub.stages.pipeline import evaluate, recover, relabel, squeeze
from srel_hub.storage.files import read_json


ROOT = Path("runs/gpu_rows")
NAME = "gpu-cifar10"
HARD = "random-real-hard"
ROWS = ("condensed", "random-real", HARD)
RECIPES = {"best": "best/cifar10_ipc10", "sre2lpp": "sre2lpp/cifar10_ipc10"}
COMMON = ["pictures=false", "run.cpu_threads=1", "run.cooperate=true", f"run.root={ROOT}"]
SHORTER = {  # than the recipes: FADRM's students train for 1,000 epochs, and SRe2L++ recovers for 4,000 iterations
    "best": ["recover.residual=0", "relabel.epochs=300", "evaluate.epochs=300"],
    "sre2lpp": ["recover.iterations=2000"],
}
EVALUATORS = 3  # processes that train the students of one point


@dataclass(frozen=True)
class Point:
    """One row of the results: a method on one teacher.

    Attributes:
        name: Name of the run directory.
        method: A key of RECIPES.
        changes: Overrides of the recipe.
        lender: Name of the run from which finished stages are taken, the teacher at least; None trains a teacher.
        same: Name of an earlier run with the same protocol, whose students on real images are taken.
        taken: The rows of which. Students with hard labels do not depend on the teacher; the others do.
        late: Whether this point waits for the condensed images of all points that are not late.
    """

    name: str
    method: str
    changes: Sequence[str]
    lender: str | None = None
    same: str | None = None
    taken: Sequence[str] = ()
    late: bool = False

    @property
    def folder(self) -> Path:
        """The run directory."""
        return ROOT / self.name


@dataclass(frozen=True)
class Task:
    """The work of one process.

    Attributes:
        name: The task; several processes may work on it together.
        point: The point.
        stage: 'squeeze', 'images' (recover and relabel), 'condensed' or 'real' (evaluate).
        needs: Names of the tasks that must be finished.
        extra: Overrides of all points.
    """

    name: str
    point: Point
    stage: str
    needs: frozenset[str]
    extra: Sequence[str]


def all_points(teachers: Sequence[int]) -> list[Point]:
    """Return the points, the most important first: those of the first teacher."""
    first = teachers[0]
    points = []
    for method, changes in SHORTER.items():
        for epochs in teachers:
            name, borrows = f"{method}-{epochs}", method != "best"
            points.append(
                Point(
                    name,
                    method,
                    [f"squeeze.epochs={epochs}", *changes],
                    lender=f"best-{epochs}" if borrows else None,
                    same=None if epochs == first else f"{method}-{first}",
                    taken=[HARD],
                )
            )
    late = {  # one change each
        "sre2lpp-4000": ("sre2lpp", ["recover.iterations=4000"], f"sre2lpp-{first}"),
        "best-other-protocol": ("best", [*SHORTER["best"], "relabel.group_size=8"], f"best-{first}"),
        "best-1000": ("best", ["recover.residual=0"], f"best-{first}"),
    }
    for name, (method, changes, lender) in late.items():
        same = f"sre2lpp-{first}" if name != "best-1000" else None
        points.append(Point(name, method, [f"squeeze.epochs={first}", *changes], lender, same, ROWS[1:], late=True))
    return points


def all_tasks(points: Sequence[Point], extra: Sequence[str]) -> list[Task]:
    """Return the tasks in the order in which they are begun, as far as their needs allow."""
    on_time = frozenset(f"condensed {point.name}" for point in points if not point.late)
    trained = [point for point in points if point.lender is None]
    tasks = [Task(f"squeeze {point.name}", point, "squeeze", frozenset(), extra) for point in trained]
    for stage in ("images", "condensed", "real"):
        for point in points:
            needs = {
                "images": {f"squeeze {point.name if point.lender is None else _teacher_of(point, points)}"},
                "condensed": {f"images {point.name}"},
                "real": {f"condensed {point.name}"},
            }[stage]
            if stage == "images" and point.late:
                needs |= on_time | {f"images {point.lender}"}
            if stage == "real" and point.same is not None:
                needs |= {f"real {point.same}"}
            task = Task(f"{stage} {point.name}", point, stage, frozenset(needs), extra)
            tasks += [task] * (1 if stage == "images" else EVALUATORS)
    return [*(task for task in tasks if not task.point.late), *(task for task in tasks if task.point.late)]


def _teacher_of(point: Point, points: Sequence[Point]) -> str:
    by_name = {each.name: each for each in points}
    while point.lender is not None:
        point = by_name[point.lender]
    return point.name


def recipe_of(point: Point, extra: Sequence[str], baselines: bool) -> Recipe:
    """Return the recipe of a point, with or without the students on real images."""
    overrides = [*COMMON, *point.changes, *extra, f"evaluate.baselines={str(baselines).lower()}", f"name={point.name}"]
    return load_recipe(RECIPES[point.method], overrides)


def work(task: Task) -> None:
    """Do a task in this process."""
    point, recipe = task.point, recipe_of(task.point, task.extra, task.stage == "real")
    if task.stage == "images" and point.lender is not None:
        borrow(recipe, point.folder, [ROOT / point.lender])
    if task.stage == "real" and point.same is not None:
        for row in point.taken:
            take_students(ROOT / point.same, point.folder, row)
    stages = {"squeeze": [squeeze], "images": [recover, relabel], "condensed": [evaluate], "real": [evaluate]}
    run = Run(recipe)
    try:
        for stage in stages[task.stage]:
            stage(run)
    finally:
        run.close()


def take_students(lender: Path, folder: Path, row: str) -> None:
    """Copy the results of finished students of a row, and their marks, from a run with the same protocol."""
    for mark in sorted((lender / "units" / "evaluate").glob(f"*-{row}-seed*.json")):
        target = folder / "units" / "evaluate" / mark.name
        if not target.is_file():
            shutil.copytree(lender / "evaluate" / mark.stem, folder / "evaluate" / mark.stem, dirs_exist_ok=True)
            shutil.copy2(mark, target)  # last: a unit without a mark is trained


def start_worker() -> None:
    """Start CUDA, and write what this worker prints to a file of its own."""
    torch.zeros(1, device=measured.DEVICE)
    log = os.open(ROOT / f"worker-{os.getpid()}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)


class Schedule:
    """The tasks that are not finished, and those that failed.

    Args:
        tasks: All tasks, the most important first. Equal tasks are worked on by several processes together.

    Attributes:
        errors: The errors of each task. A task that fails is repeated once.
        seconds: Seconds since each task was begun, at its last end.
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        self.waiting = list(tasks)
        self.running: dict[Future[None], Task] = {}
        self.errors: dict[str, list[str]] = {}
        self.seconds: dict[str, float] = {}
        self._failed: set[str] = set()
        self._begun: dict[str, float] = {}

    @property
    def unfinished(self) -> set[str]:
        """The names of all tasks that are not finished."""
        return {task.name for task in [*self.waiting, *self.running.values()]} | self._failed

    def ready(self) -> list[Task]:
        """Return the tasks whose needs are finished."""
        unfinished = self.unfinished
        return [task for task in self.waiting if not task.needs & unfinished]

    def begin(self, task: Task, future: Future[None]) -> None:
        """Note that a process works on a task."""
        self.waiting.remove(task)
        self.running[future] = task
        self._begun.setdefault(task.name, time.monotonic())

    def end(self, future: Future[None]) -> str:
        """Note that a process has finished its work on a task, or failed; return a line about it."""
        task, error = self.running.pop(future), future.exception()
        self.seconds[task.name] = round(time.monotonic() - self._begun[task.name], 1)
        if error is None:
            return f"{task.name}: finished"
        errors = self.errors.setdefault(task.name, [])
        errors.append("".join(traceback.format_exception(error))[-3000:])
        if len(errors) == 1:
            self.waiting.insert(0, task)
            return f"{task.name}: FAILED, repeating it"
        self._failed.add(task.name)
        return f"{task.name}: FAILED"


def run_tasks(schedule: Schedule, workers: int, end: float, store: "Store") -> None:
    """Run tasks in `workers` processes until all are finished or the time is over.

    Raises:
        BrokenProcessPool: If a worker was killed. Its tasks are waiting again.
    """
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    with ProcessPoolExecutor(workers, context, start_worker) as pool:
        for _ in range(workers):
            pool.submit(time.sleep, 1)  # starts all workers at once
        while time.monotonic() < end:
            for task in schedule.ready()[: workers - len(schedule.running)]:
                schedule.begin(task, pool.submit(work, task))
            if not schedule.running:
                break
            for future in wait(schedule.running, 1, FIRST_COMPLETED).done:
                line = schedule.end(future)
                print(f"{store.elapsed():6.1f} s  {line}", flush=True)
                store.write(schedule)
        for process in multiprocessing.active_children():
            process.kill()  # only units in progress are lost


@dataclass(frozen=True)
class Store:
    """Where the results are written.

    Attributes:
        points: All points.
        extra: Overrides of all points.
        facts: Device, versions and commit.
        out: A further folder for the results, or None.
        begun: Start of this program, by the monotonic clock.
    """

    points: Sequence[Point]
    extra: Sequence[str]
    facts: Mapping[str, Any]
    out: Path | None
    begun: float

    def elapsed(self) -> float:
        """Return the seconds since the start."""
        return time.monotonic() - self.begun

    def write(self, schedule: Schedule) -> None:
        """Write the results so far."""
        rows = [row for point in self.points if (row := row_of(point, self.extra)) is not None]
        stored = {
            **self.facts,
            "about": "CIFAR-10 (a JPEG copy), 10 images per class, ResNet-18 as teacher and student. Top-1 on all "
            "10,000 test images after the last epoch. Processes shared the GPU.",
            "changes": list(self.extra),
            "wall_seconds": round(self.elapsed(), 1),
            "task_seconds": schedule.seconds,
            "errors": schedule.errors,
            "results": rows,
        }
        text = json.dumps(stored, indent=2) + "\n"
        for folder in filter(None, (measured.RESULTS, self.out)):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{NAME}.json").write_text(text)

    def pack(self) -> None:
        """Write images, loss curves, metrics and logs to one archive in the further folder."""
        if self.out is not None:
            with tarfile.open(self.out / f"{NAME}.tar.gz", "w:gz") as archive:
                for path in packed(ROOT):
                    archive.add(path, str(path.relative_to(ROOT)))


def packed(root: Path) -> Iterable[Path]:
    """Yield the small files of all runs."""
    for pattern in ("*.log", "*/log.txt", "*/metrics.jsonl", "*/recipe.yaml", "*/versions.json", "*/images/*"):
        yield from sorted(root.glob(pattern))
    for pattern in ("*/history/*", "*/patches/*", "*/teacher/metrics.json", "*/evaluate/*/*", "*/evaluate/*.json"):
        yield from sorted(root.glob(pattern))


def row_of(point: Point, extra: Sequence[str]) -> dict[str, Any] | None:
    """Return what is known about a point, or None before its first student is trained."""
    recipe = recipe_of(point, extra, baselines=True)
    top1 = {row: scores for row in ROWS if (scores := scores_of(point, recipe, row)) is not None}
    if not top1:
        return None
    return {
        "name": point.name,
        "method": point.method,
        "recipe": RECIPES[point.method],
        "overrides": list(point.changes),
        "seed": recipe.seed,
        "teacher_epochs": recipe.squeeze.epochs,
        "teacher_top1": read_json(point.folder / "teacher" / "metrics.json")["top1"],
        "iterations": recipe.recover.iterations,
        "protocol": protocol_title(recipe),
        "student_epochs": recipe.evaluate.epochs,
        "recognized": read_json(point.folder / "soft_labels" / "manifest.json")["teacher"]["accuracy"],
        "top1": top1,
        "taken": {row: point.same for row in point.taken if point.same is not None and row in top1},
        "unit_seconds": unit_seconds(point.folder / "metrics.jsonl"),
    }


def scores_of(point: Point, recipe: Recipe, row: str) -> dict[str, Any] | None:
    """Return mean, sample standard deviation and values of the finished seeds of a row; None before the first."""
    names = [f"{recipe.evaluate.students[0].name}-{row}-seed{seed}" for seed in range(recipe.evaluate.seeds)]
    files = [point.folder / "evaluate" / name / "metrics.json" for name in names]
    values = [read_json(file)["top1"] for file in files if file.is_file()]
    if not values:
        return None
    std = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "std": std, "values": values}


def unit_seconds(file: Path) -> dict[str, float]:
    """Return the seconds of all units of each stage, summed over the processes that shared the work."""
    seconds: dict[str, float] = {}
    for line in file.read_text().splitlines() if file.is_file() else []:
        record = json.loads(line)
        if "unit" in record and "seconds" in record:
            seconds[record["stage"]] = round(seconds.get(record["stage"], 0) + record["seconds"], 1)
    return seconds


def main() -> int:
    """Run the tasks that are not finished yet, until the time is over."""
    parser = argparse.ArgumentParser(description="Measure full-size rows of CIFAR-10.")
    parser.add_argument("data", help="folder of CIFAR-10 in parquet")
    parser.add_argument("--seconds", type=float, default=540)
    parser.add_argument("--workers", type=int, default=12)
    parser.add_argument("--teachers", type=int, nargs="+", default=[5, 3, 10], help="epochs, the important ones first")
    parser.add_argument("--change", action="append", default=[], metavar="section.key=value")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--commit")
    options = parser.parse_args()
    begun = time.monotonic()
    ROOT.mkdir(parents=True, exist_ok=True)
    facts = measured.machine()
    facts["commit"] = facts["commit"] or options.commit
    extra = [f"source.path={options.data}", *options.change]
    points = all_points(options.teachers)
    store = Store(points, options.change, facts, options.out, begun)
    schedule = Schedule(all_tasks(points, extra))
    for _ in range(3):
        with contextlib.suppress(BrokenProcessPool):
            run_tasks(schedule, options.workers, begun + options.seconds, store)
            break
    store.write(schedule)
    store.pack()
    for name, errors in schedule.errors.items():
        print(f"FAILED: {name}\n{errors[-1]}")
    left = ", ".join(sorted(schedule.unfinished))
    print(f"not finished: {left}; repeat the command to resume" if left else "complete")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
