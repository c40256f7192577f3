"""Run the whole pipeline of a shipped recipe, and report its accuracy beside the published one.

    python benchmarks/reproduce.py tiny_imagenet sre2l 100 source.path=DATA --seconds 540 --state OUT
    python benchmarks/reproduce.py tiny_imagenet sre2l 50 source.path=DATA --first-of RUN_OF_IPC_100

Stops after `--seconds`; the same command resumes. On another machine it resumes from the files in `--state`: teacher,
images and trainings, in parts of at most 15 MiB (soft labels are computed again). `--first-of` takes the teacher and
the images of a run with more images per class, of which the first ones are the same. A complete run writes
benchmarks/results/reproduce-NAME.json, also to `--state`.
"""

import argparse
import json
import re
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import measured

from srel_hub.config import Recipe, load_recipe
from srel_hub.config.protocols import deviations, protocol_title
from srel_hub.config.recipe_files import find_recipe
from srel_hub.storage.files import read_json


ROOT = Path("runs/reproduce")
PART_BYTES = 15 * 2**20
STATE = ("recipe.yaml", "teacher", "images", "evaluate", "units/squeeze*", "units/recover*", "units/evaluate*")
STATE_MORE = ("patches", "units/patches", "recover_teacher-*", "checkpoints", "metrics.jsonl", "versions.json")
GRACE = 120  # seconds that the current step may take after SIGTERM


def main(arguments: Sequence[str]) -> int:
    """Run or resume a reproduction; return the exit status of the pipeline."""
    parser = argparse.ArgumentParser(prog="python benchmarks/reproduce.py")
    parser.add_argument("dataset", choices=["cifar10", "cifar100", "tiny_imagenet", "in1k"])
    parser.add_argument("method", choices=["sre2l", "cda", "sre2lpp", "fadrm", "best"])
    parser.add_argument("ipc", type=int)
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    parser.add_argument("--seconds", type=float, help="stop after this time; the same command resumes")
    parser.add_argument("--state", type=Path, help="folder to resume from on another machine")
    parser.add_argument(
        "--first-of", type=Path, metavar="RUN", help="run of the same recipe with more images per class"
    )
    options = parser.parse_intermixed_args(arguments)
    name = f"{options.dataset}_ipc{options.ipc}"
    name = name if options.method == "sre2l" else f"{options.method}/{name}"
    overrides = [*options.overrides, f"run.root={ROOT}"]
    recipe = load_recipe(name, overrides)
    folder = ROOT / recipe.name
    if not folder.is_dir():
        if options.state is not None and list(options.state.glob("state-*")):
            unpack(options.state, ROOT)
        elif options.first_of is not None:
            take_first(options.first_of, folder, recipe)
    status = condense(name, overrides, options.seconds)
    if options.state is not None:
        pack(folder, options.state)
    if status == 0:
        result = results_of(name, recipe, folder)
        measured.write_and_print(f"reproduce-{recipe.name}", result)
        if options.state is not None:
            shutil.copy(measured.RESULTS / f"reproduce-{recipe.name}.json", options.state)
    return status


def condense(name: str, overrides: Sequence[str], seconds: float | None) -> int:
    """Run the pipeline in its own process, stop it after some seconds, and return its exit status."""
    process = subprocess.Popen([sys.executable, "-m", "srel_hub.condense", name, *overrides])
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)  # the current step finishes, and complete units stay
        return process.wait(GRACE)


def pack(folder: Path, state: Path) -> None:
    """Write what takes longest to compute as an archive, split into parts that a small upload limit allows."""
    state.mkdir(parents=True, exist_ok=True)
    for old in state.glob("state-*"):
        old.unlink()
    whole = state / "whole.tar"
    with tarfile.open(whole, "w") as archive:
        for pattern in (*STATE, *STATE_MORE):
            for path in sorted(folder.glob(pattern)):
                archive.add(path, str(Path(folder.name) / path.relative_to(folder)))
    with whole.open("rb") as file:
        for number, part in enumerate(iter(lambda: file.read(PART_BYTES), b"")):
            (state / f"state-{number:03d}").write_bytes(part)
    whole.unlink()


def unpack(state: Path, root: Path) -> None:
    """Restore the run that `pack` wrote."""
    root.mkdir(parents=True, exist_ok=True)
    whole = root / "whole.tar"
    with whole.open("wb") as file:
        for part in sorted(state.glob("state-*")):
            file.write(part.read_bytes())
    with tarfile.open(whole) as archive:
        archive.extractall(root, filter="data")
    whole.unlink()


def take_first(larger: Path, folder: Path, recipe: Recipe) -> None:
    """Copy the teacher and the first images of every class, with their completion marks."""
    for name in ("teacher", "units/squeeze"):
        shutil.copytree(larger / name, folder / name)
    shutil.copy(larger / "units/squeeze.json", folder / "units")
    for mark in sorted((larger / "units/recover").glob("ipc-*.json")):
        if all(_index(name) < recipe.recover.ipc for name in read_json(mark)):
            for file in [mark.relative_to(larger), *(Path(name) for name in read_json(mark))]:
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(larger / file, folder / file)


def _index(shard: str) -> int:
    match = re.search(r"ipc-(\d+)", shard)
    assert match is not None
    return int(match[1])


def results_of(name: str, recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Return our accuracies, the published one, the protocol, and the device seconds of every stage."""
    published = re.search(r"([\d.]+) % top-1\s+\((.*?)\)\.", re.sub(r"\n#", "", find_recipe(name).read_text()))
    seconds: dict[str, float] = {}
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        if "unit" in record:
            seconds[record["stage"]] = round(seconds.get(record["stage"], 0) + record["seconds"], 1)
    students = read_json(folder / "evaluate" / "summary.json")["students"]
    return {
        "recipe": name,
        "published": None if published is None else {"top1": float(published[1]), "source": published[2].strip()},
        "protocol": protocol_title(recipe),
        "deviations": {field: list(values) for field, values in deviations(recipe).items()},
        "recover": {"ipc": recipe.recover.ipc, "iterations": recipe.recover.iterations},
        "teacher_top1": read_json(folder / "teacher" / "metrics.json")["top1"],
        "students": students,
        "device_seconds": seconds,
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
