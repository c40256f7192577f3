"""Whole runs in processes of their own that can be killed: forked, so that nothing is imported anew."""

import hashlib
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from conftest import last_of_each, make_source, write_recipe
from tqdm import tqdm

from srel_hub.condense import condense
from srel_hub.runs import checkpoint as checkpoint
from srel_hub.runs.stage_cli import cli


STAGES = ("squeeze", "recover", "relabel", "evaluate")
PARTS = ("teacher", "images", "soft_labels", "evaluate", "dataset", "teacher_repo")
WORLD = [  # every stage has several units, or epochs, and takes half a second
    "precision=float32",
    "pictures=false",
    "squeeze={network: {model: convnet, width: 0.1}, epochs: 12, batch_size: 6}",
    "recover={ipc: 5, iterations: 15, stack: 1, class_block: 2}",
    "relabel={epochs: 40, batch_size: 4}",
    "evaluate={students: [{model: convnet, width: 0.1}], seeds: 2, epochs: 8, batch_size: 8}",
    "run.cpu_threads=1",
]
PATIENCE = 900.0


def world(folder: Path) -> Path:
    """A recipe of three classes of 8 x 8 pixels."""
    return write_recipe(folder / "world.yaml", make_source(folder / "source", (8, 8), ["red", "green", "blue"]))


def arguments(recipe: Path, root: Path, *more: str) -> list[str]:
    return last_of_each([str(recipe), *WORLD, f"run.root={root}", *more])


def condensing(command: list[str]) -> None:
    cli(condense, command)


def start(
    command: list[str],
    log: Path,
    every_epoch: bool = False,
    before: Callable[[], object] | None = None,
    main: Callable[[list[str]], object] = condensing,
) -> int:
    """`srel-hub condense COMMAND`, or another `main`, in a forked process; its number.

    Args:
        every_epoch: whether a training writes a checkpoint after each epoch, however short.
        before: called in the new process first.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    pid = os.fork()
    if pid:
        return pid
    status = 99
    try:
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(out, 1)
        os.dup2(out, 2)
        tqdm.set_lock(threading.RLock())  # else all forks share one, which a killed one may hold for ever
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
        if every_epoch:
            checkpoint.EVERY = 0.0
        if before is not None:
            before()
        main(command)
        status = 0
    except SystemExit as stopped:
        status = int(stopped.code or 0)
    finally:
        sys.stderr.flush()
        sys.stdout.flush()
        os._exit(status)


def wait(pid: int) -> int:
    """The exit status; the negative signal of one that was killed."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise AssertionError("it did not end")


def finish(command: list[str], log: Path, **options: Any) -> str:
    """Run to the end; what it said."""
    status = wait(start(command, log, **options))
    said = log.read_text()
    assert status == 0, said[-3000:]
    return said


def until(condition: Callable[[], object], pid: int) -> bool:
    """Wait for something while a process lives; whether it came."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if condition():
            return True
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return bool(condition())
        time.sleep(0.002)
    raise AssertionError("it never came")


def bytes_of(run: Path, parts: tuple[str, ...] = PARTS) -> dict[str, str]:
    """A digest of every file of a run that the recipe decides."""
    files = [file for part in parts for file in sorted((run / part).rglob("*")) if file.is_file()]
    return {file.relative_to(run).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def marked(run: Path, stage: str) -> list[str]:
    return sorted(file.stem for file in (run / "units" / stage).glob("*.json"))


def records(run: Path) -> list[dict[str, Any]]:
    file = run / "metrics.jsonl"
    whole, _, _ = (file.read_text() if file.is_file() else "").rpartition("\n")  # without a line that is being written
    return [json.loads(line) for line in whole.splitlines()]


def units_done(run: Path) -> list[tuple[str, str]]:
    return [(line["stage"], line["unit"]) for line in records(run) if "unit" in line]


def up_to(whole: Path, run: Path, stage: str) -> Path:
    """A copy of a finished run, as it was before `stage`."""
    later = STAGES[STAGES.index(stage) :]
    outputs = {"squeeze": "teacher", "recover": "images", "relabel": "soft_labels", "evaluate": "evaluate"}
    gone = [outputs[name] for name in later] + ["dataset", "teacher_repo", "processes", "log.txt", "metrics.jsonl"]
    shutil.copytree(whole, run)
    for name in gone:
        shutil.rmtree(run / name) if (run / name).is_dir() else (run / name).unlink(missing_ok=True)
    for name in (*later, "assemble"):
        shutil.rmtree(run / "units" / name, ignore_errors=True)
        (run / "units" / f"{name}.json").unlink(missing_ok=True)
    return run


@contextmanager
def paused(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
