"""Train students on the labels of one reduced run in every encoding, pool and teacher mode, with three seeds each.

    python benchmarks/labels.py tiny TINY_IMAGENET      200 classes, 32 pixels, 5 images per class
    python benchmarks/labels.py cifar10 CIFAR10         10 classes, 32 pixels, 10 images per class

Each takes a folder with the real data as parquet. The results for Tiny-ImageNet used one of its four training files,
25,000 images. Resumable; writes benchmarks/results/labels-NAME.json.
"""

import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import measured

from srel_hub.condense import condense
from srel_hub.config import load_recipe
from srel_hub.evaluate import evaluate
from srel_hub.relabel import relabel
from srel_hub.runs.run import Run
from srel_hub.storage.files import read_json, total_bytes


ROOT = Path("runs/labels")
COMMON = ("evaluate.students=[{model: convnet, width: 0.25}]", "evaluate.seeds=3", "run.cpu_threads=1")
REDUCED = {  # a shipped recipe, and overrides that make it fit two cores
    "tiny": (
        "tiny_imagenet_ipc50",
        [
            "source.eval_split=validation",
            "source.image_size=32",
            "squeeze.network={model: convnet, width: 0.5}",
            "squeeze.epochs=5",
            "squeeze.batch_size=128",
            "squeeze.optimizer={kind: sgd, lr: 0.05, weight_decay: 5.0e-4}",
            "squeeze.augment={crop: padded, padding: 4}",
            "recover={ipc: 5, iterations: 150, lr: 0.25, bn_weight: 0.1, crop: none, flip: false, roll: [0, 4]}",
            "relabel={epochs: 40, augment: {crop: resized, scale: [0.3, 1], mix: cutmix}}",
            "evaluate={epochs: 40, batch_size: 50, temperature: 4, optimizer: {kind: adamw, lr: 0.003}}",
        ],
    ),
    "cifar10": (
        "cifar10_ipc10",
        [
            "squeeze.network={model: convnet, width: 0.5}",
            "squeeze.epochs=8",
            "squeeze.optimizer.lr=0.05",
            "recover={ipc: 10, iterations: 300, lr: 0.25, bn_weight: 0.1, crop: none, flip: false, roll: [0, 4]}",
            "relabel={epochs: 100, augment: {crop: resized, scale: [0.3, 1], mix: cutmix}}",
            "evaluate={epochs: 100, batch_size: 20, temperature: 4, optimizer: {kind: adamw, lr: 0.005}}",
        ],
    ),
}


def variants(epochs: int, num_classes: int) -> dict[str, list[str]]:
    """Return the overrides of each variant by its name; the full labels are those of the first run."""
    tenth, few, some = f"relabel.epochs={epochs // 10}", max(2, num_classes // 20), max(3, num_classes // 4)

    def topk(k: int, values: str = "float16") -> list[str]:
        return ["relabel.encoding=topk", f"relabel.top_k={k}", f"relabel.top_values={values}"]

    return {
        "uint8": ["relabel.encoding=uint8"],
        f"topk {some}": topk(some),
        f"topk {few}": topk(few),
        "a tenth of the epochs": [tenth],
        "a tenth, drawn": [tenth, "relabel.pool=draw"],
        f"a tenth, topk {some}": [tenth, *topk(some)],
        f"a tenth, topk {few}": [tenth, *topk(few)],
        f"a tenth, topk {few} in bytes": [tenth, *topk(few, "uint8")],
        "a fortieth of the epochs": [f"relabel.epochs={max(1, epochs // 40)}"],
        "a twentieth, uint8": [f"relabel.epochs={max(1, epochs // 20)}", "relabel.encoding=uint8"],
        "a fortieth, uint8": [f"relabel.epochs={max(1, epochs // 40)}", "relabel.encoding=uint8"],
        f"a tenth, topk {few}, LPQLD's temperatures": [
            *(tenth, *topk(few), "evaluate.temperature=20", "evaluate.student_temperature=1"),
            f"evaluate.cooling={{factor: 0.7, every: {epochs // 10}, floor: 2}}",
        ],
        "by groups of 8": ["relabel.group_size=8"],
        "by groups of 8, student on them": ["relabel.group_size=8", "evaluate.groups=true", "evaluate.batch_size=16"],
        "student on batches of 16": ["evaluate.batch_size=16"],
    }


def overrides(name: str, data: str) -> list[str]:
    """Return the overrides of the first run."""
    return [f"source.path={data}", "source.train_split=train", *REDUCED[name][1], *COMMON]


def first_run(name: str, data: str) -> Run:
    """Run the whole pipeline: teacher, images, full float16 labels, all rows."""
    recipe = load_recipe(REDUCED[name][0], [*overrides(name, data), f"name={name}", f"run.root={ROOT / 'full'}"])
    run = Run(recipe)
    condense(run)
    run.close()
    return run


def measure_variant(name: str, data: str, title: str, changes: Sequence[str], full: Run) -> dict[str, Any]:
    """Relabel the images of the first run and evaluate, with some changes."""
    root = ROOT / re.sub("[^a-z0-9]+", "-", title.lower())
    if not (root / name).is_dir():
        shutil.copytree(full.folder, root / name, ignore=shutil.ignore_patterns("dataset", "teacher_repo", "processes"))
    options = [f"name={name}", f"run.root={root}", "run.overwrite=true", "evaluate.baselines=false"]
    run = Run(load_recipe(REDUCED[name][0], [*overrides(name, data), *changes, *options]))
    relabel(run)
    evaluate(run)
    run.close()
    return results_of(run)


def results_of(run: Run) -> dict[str, Any]:
    """Return the bytes of soft_labels/, the encoding's error, and each row's top-1."""
    rows = read_json(run.path("evaluate", "summary.json"))["students"][0]["rows"]
    manifest = read_json(run.path("soft_labels", "manifest.json"))
    return {
        "bytes": total_bytes(run.path("soft_labels")),
        "kl_error": manifest["kl_error"],
        "teacher_top1": read_json(run.path("teacher", "metrics.json"))["top1"],
        "top1": {row["row"]: row["top1"] for row in rows},
    }


def main(arguments: Sequence[str]) -> None:
    """Measure the first run and all variants."""
    name, data = arguments
    full = first_run(name, data)
    results = {"full": results_of(full)}
    classes = read_json(full.path("soft_labels", "manifest.json"))["num_classes"]
    for title, changes in variants(full.recipe.relabel.epochs, classes).items():
        results[title] = measure_variant(name, data, title, changes, full)
        results[title]["times_smaller"] = round(results["full"]["bytes"] / results[title]["bytes"], 1)
        measured.write_and_print(f"labels-{name}", results, overrides=overrides(name, "DATA"))


if __name__ == "__main__":
    main(sys.argv[1:])
