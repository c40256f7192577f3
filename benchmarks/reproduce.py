"""The whole pipeline of a shipped recipe, and what it came to beside the published figure.

    python benchmarks/reproduce.py tiny_imagenet sre2l 100 source.path=DATA --seconds 540 --state OUT
    python benchmarks/reproduce.py tiny_imagenet sre2l 50 source.path=DATA --first-of RUN_OF_IPC_100

Works for `--seconds` at most; the same command goes on from there, on another machine from what it wrote to `--state`:
teacher, images and trainings, in parts of 15 MiB at most (labels are asked for anew). `--first-of` takes the teacher
and the images of a run with more images a class, whose first ones are this one's. When all is done it writes
benchmarks/results/reproduce-NAME.json, and again to `--state`.
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
GRACE = 120  # seconds that a step may take to end


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python benchmarks/reproduce.py")
    parser.add_argument("dataset", choices=["cifar10", "cifar100", "tiny_imagenet", "in1k"])
    parser.add_argument("method", choices=["sre2l", "cda", "sre2lpp", "fadrm", "best"])
    parser.add_argument("ipc", type=int)
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    parser.add_argument("--seconds", type=float, help="after which it stops, to go on when it is called again")
    parser.add_argument("--state", type=Path, help="folder to go on from on another machine")
    parser.add_argument("--first-of", type=Path, metavar="RUN", help="run of the same recipe at more images a class")
    asked = parser.parse_intermixed_args(arguments)
    name = f"{asked.dataset}_ipc{asked.ipc}"
    name = name if asked.method == "sre2l" else f"{asked.method}/{name}"
    overrides = [*asked.overrides, f"run.root={ROOT}"]
    recipe = load_recipe(name, overrides)
    folder = ROOT / recipe.name
    if not folder.is_dir():
        if asked.state is not None and list(asked.state.glob("state-*")):
            unpack(asked.state, ROOT)
        elif asked.first_of is not None:
            take_first(asked.first_of, folder, recipe)
    status = condense(name, overrides, asked.seconds)
    if asked.state is not None:
        pack(folder, asked.state)
    if status == 0:
        result = told(name, recipe, folder)
        measured.write(f"reproduce-{recipe.name}", result)
        if asked.state is not None:
            shutil.copy(measured.RESULTS / f"reproduce-{recipe.name}.json", asked.state)
    return status


def condense(name: str, overrides: Sequence[str], seconds: float | None) -> int:
    """The pipeline in a process of its own, stopped after so many seconds; its exit status."""
    process = subprocess.Popen([sys.executable, "-m", "srel_hub.condense", name, *overrides])
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)  # the step at hand is finished, and kept
        return process.wait(GRACE)


def pack(folder: Path, state: Path) -> None:
    """What the run would miss most, as one archive cut into parts."""
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
    root.mkdir(parents=True, exist_ok=True)
    whole = root / "whole.tar"
    with whole.open("wb") as file:
        for part in sorted(state.glob("state-*")):
            file.write(part.read_bytes())
    with tarfile.open(whole) as archive:
        archive.extractall(root, filter="data")
    whole.unlink()


def take_first(larger: Path, folder: Path, recipe: Recipe) -> None:
    """The teacher, and the first images of every class, with their marks."""
    for name in ("teacher", "units/squeeze"):
        shutil.copytree(larger / name, folder / name)
    shutil.copy(larger / "units/squeeze.json", folder / "units")
    for mark in sorted((larger / "units/recover").glob("ipc-*.json")):
        if all(_index(name) < recipe.recover.ipc for name in read_json(mark)):
            for place in [mark.relative_to(larger), *(Path(name) for name in read_json(mark))]:
                (folder / place).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(larger / place, folder / place)


def _index(shard: str) -> int:
    found = re.search(r"ipc-(\d+)", shard)
    assert found is not None
    return int(found[1])


def told(name: str, recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Our figures, the published one, the protocol, and the device's seconds of every stage."""
    published = re.search(r"([\d.]+) % top-1\s+\((.*?)\)\.", re.sub(r"\n#", "", find_recipe(name).read_text()))
    seconds: dict[str, float] = {}
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        told = json.loads(line)
        if "unit" in told:
            seconds[told["stage"]] = round(seconds.get(told["stage"], 0) + told["seconds"], 1)
    rows = read_json(folder / "evaluate" / "summary.json")["students"]
    return {
        "recipe": name,
        "published": None if published is None else {"top1": float(published[1]), "source": published[2].strip()},
        "protocol": protocol_title(recipe),
        "deviations": {field: list(values) for field, values in deviations(recipe).items()},
        "recover": {"ipc": recipe.recover.ipc, "iterations": recipe.recover.iterations},
        "teacher_top1": read_json(folder / "teacher" / "metrics.json")["top1"],
        "students": rows,
        "device_seconds": seconds,
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
