"""Measure what bfloat16 costs in accuracy: one run in float32 and in bfloat16, with the same teacher.

    python benchmarks/faithful.py [CIFAR10]     the quickstart; with CIFAR-10's folder also a reduced run of it

Resumable; writes benchmarks/results/faithful.json. A CPU without bfloat16 instructions emulates them, which is slow.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import measured

from srel_hub.condense import condense
from srel_hub.config import load_recipe
from srel_hub.core.engine import Precision
from srel_hub.runs.run import Run
from srel_hub.storage.files import read_json


ROOT = Path("runs/faithful")
REDUCED = (  # CIFAR-10 for two cores
    "squeeze={network: {model: convnet, width: 0.5}, epochs: 8, batch_size: 128, optimizer: {lr: 0.05}}",
    "recover={ipc: 10, iterations: 300, lr: 0.25, bn_weight: 0.1, crop: none, flip: false, roll: [0, 4]}",
    "relabel={epochs: 100, augment: {crop: padded, padding: 4}}",
    "evaluate={students: [{model: convnet, width: 0.5}], seeds: 3, epochs: 100, batch_size: 20, temperature: 4, "
    "optimizer: {kind: adamw, lr: 0.005, weight_decay: 0.01}}",
)


def run_in(precision: Precision, recipe: str, overrides: Sequence[str]) -> dict[str, dict[str, object]]:
    """Run the whole pipeline in a precision; return each row's top-1 over the seeds."""
    run = Run(load_recipe(recipe, [*overrides, f"precision={precision}", f"run.root={ROOT / precision}"]))
    condense(run)
    run.close()
    student = read_json(run.path("evaluate", "summary.json"))["students"][0]
    return {row["row"]: {key: row["top1"][key] for key in ("mean", "std", "values")} for row in student["rows"]}


def compare(recipe: str, overrides: Sequence[str] = ()) -> dict[str, object]:
    """Return the results in both precisions, with a teacher that was trained in float32."""
    name = load_recipe(recipe).name
    results = {"float32": run_in("float32", recipe, overrides)}
    teacher = f"squeeze.pretrained.path={ROOT / 'float32' / name / 'teacher_repo'}"
    results["bfloat16"] = run_in("bfloat16", recipe, [*overrides, teacher])
    return results


def main(folders: Sequence[str]) -> None:
    """Compare the precisions on the quickstart, and on CIFAR-10 if its folder is given."""
    results = {"quickstart": compare("quickstart")}
    for folder in folders:
        split = [f"source.path={folder}", "source.train_split=train", "source.eval_split=test"]
        results["cifar10"] = compare("cifar10_ipc10", [*split, *REDUCED])
    measured.write_and_print("faithful", results)


if __name__ == "__main__":
    main(sys.argv[1:])
