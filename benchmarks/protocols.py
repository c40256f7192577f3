"""Evaluate the same images and students under every protocol, to see how far apart published numbers may be.

    python benchmarks/protocols.py CIFAR10 [EPOCHS]

Uses the reduced CIFAR-10 run of benchmarks/labels.py. EPOCHS (default 100) replaces the epochs of the protocols, so
that the benchmark fits two cores, and batches are at most a quarter of the images. Writes
benchmarks/results/protocols.json.
"""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import labels
import measured

from srel_hub.config import load_recipe
from srel_hub.config.protocols import deviations
from srel_hub.config.recipe_files import protocol_names
from srel_hub.evaluate import evaluate
from srel_hub.relabel import relabel
from srel_hub.runs.run import Run
from srel_hub.storage.files import read_json


NAME, ROOT = "cifar10", Path("runs/protocols")


def measure(protocol: str, data: str, epochs: int, full: Run) -> dict[str, Any]:
    """Relabel and evaluate the images of the full run under a protocol, with an epoch of labels per training epoch."""
    if not (ROOT / protocol / NAME).is_dir():
        shutil.copytree(
            full.folder, ROOT / protocol / NAME, ignore=shutil.ignore_patterns("dataset", "teacher_repo", "processes")
        )
    count = full.recipe.recover.ipc * 10
    kept = [text for text in labels.overrides(NAME, data) if not text.startswith(("relabel=", "evaluate="))]
    changes = [f"relabel.epochs={epochs}", f"evaluate.epochs={epochs}"]
    options = [f"protocol={protocol}", f"name={NAME}", f"run.root={ROOT / protocol}", "run.overwrite=true"]
    recipe = load_recipe(labels.REDUCED[NAME][0], [*kept, *options, *changes])
    if recipe.evaluate.batch_size > count // 4:  # else an epoch would have too few steps to learn from
        recipe = load_recipe(labels.REDUCED[NAME][0], [*kept, *options, *changes, f"evaluate.batch_size={count // 4}"])
    run = Run(recipe)
    relabel(run)
    evaluate(run)
    run.close()
    rows = read_json(run.path("evaluate", "summary.json"))["students"][0]["rows"]
    changed = {name: f"{new} for {old}" for name, (old, new) in deviations(recipe).items()}
    return {"changed": changed, "top1": {row["row"]: row["top1"] for row in rows}}


def main(arguments: Sequence[str]) -> None:
    """Measure all protocols."""
    data, epochs = arguments[0], int(arguments[1]) if len(arguments) > 1 else 100
    full, results = labels.first_run(NAME, data), {}
    for protocol in protocol_names():
        results[protocol] = measure(protocol, data, epochs, full)
        measured.write_and_print("protocols", results, epochs=epochs, overrides=labels.overrides(NAME, "DATA"))


if __name__ == "__main__":
    main(sys.argv[1:])
