"""Compare methods of recover on one teacher, under one protocol of labels and students.

    python benchmarks/methods.py digits
    python benchmarks/methods.py cifar10 CIFAR10 [IPC ...]

Reduced to two cores. Resumes if interrupted. Writes benchmarks/results/methods-DATASET.json after every run.
"""

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import labels
import measured

from srel_hub.config import load_recipe
from srel_hub.evaluate import evaluate
from srel_hub.recover import recover
from srel_hub.relabel import relabel
from srel_hub.runs.run import Run
from srel_hub.squeeze import squeeze
from srel_hub.stages.preflight.prepare import prepare
from srel_hub.storage.files import read_json


ROOT = Path("runs/methods")
CIFAR10 = [text for text in labels.REDUCED["cifar10"][1] if text.startswith("squeeze.")]
BASES = {  # a shipped recipe; overrides; options of recover of the method sre2l
    "digits": (
        "quickstart",
        ["run.cpu_threads=1"],
        ["bn_weight=1.0", "crop=none", "flip=false", "roll=[-1, 1]", "lr=0.1", "iterations=500"],
    ),
    "cifar10": (
        "cifar10_ipc10",
        [*CIFAR10, "run.cpu_threads=1"],
        ["bn_weight=0.1", "crop=none", "flip=false", "roll=[0, 4]", "lr=0.25", "iterations=300"],
    ),
}
BUDGETS = {  # by dataset and images per class: length of relabel and evaluate
    ("digits", 1): "relabel.epochs=100 evaluate.epochs=400 evaluate.batch_size=10",
    ("digits", 10): "relabel.epochs=100 evaluate.epochs=100 evaluate.batch_size=20",
    ("digits", 50): "relabel.epochs=40 evaluate.epochs=40 evaluate.batch_size=50",
    ("cifar10", 1): "relabel.epochs=400 evaluate.epochs=400 evaluate.batch_size=10",
    ("cifar10", 10): "relabel.epochs=100 evaluate.epochs=100 evaluate.batch_size=20",
    ("cifar10", 50): "relabel.epochs=40 evaluate.epochs=40 evaluate.batch_size=50",
}
FEWER = {("cifar10", 50): ["iterations=100"]}  # 300 as at 10 images per class would take 3 times as long
SIDES = {"digits": "8", "cifar10": "32"}
PROTOCOLS = {
    "digits": [],
    "cifar10": [
        "relabel.augment={crop: resized, scale: [0.3, 1], mix: cutmix}",
        "evaluate={temperature: 4, optimizer: {kind: adamw, lr: 0.005, weight_decay: 5.0e-4}}",
        "evaluate.students=[{model: convnet, width: 0.25}]",
    ],
}
CROP = ["crop=resized", "flip=true"]
ALONE = ["iterations=1", "lr=1.0e-9", "crop=none", "flip=false"]  # leaves the patches unchanged
EASIEST, MEDIAN, WIDE = "patches={keep: easiest}", "patches={keep: median}", "patches={scale: [0.5, 1]}"
FOUND, CLASSES = ["bn_weight=auto", "bn_ratio=10"], "statistics=class"
METHODS = {  # options of recover in addition to those of sre2l
    "sre2l": [],
    "crops": CROP,
    "cda": [*CROP, "curriculum=cosine"],
    "crops of each image": [*CROP, "per_image=true"],
    "easiest patches alone": [EASIEST, *ALONE],
    "median patches alone": [MEDIAN, *ALONE],
    "easiest wide patches alone": [WIDE, *ALONE],
    "easiest patches": [*CROP, EASIEST],
    "sre2lpp": [*CROP, MEDIAN],
    "fadrm": [*CROP, MEDIAN, "residual=0.5", "sizes=[SIDE, SIDE]"],
    "easiest wide patches, residual": [*CROP, WIDE, "residual=0.5", "sizes=[SIDE, SIDE]"],
    "easiest wide patches, slow": [*CROP, WIDE, "lr=0.02"],
    "sum, auto 10": [*CROP, *FOUND],
    "relative, auto 10": [*CROP, "bn_term=relative", *FOUND],
    "cda of each image": [*CROP, "curriculum=cosine", "per_image=true"],
    "sum, auto 10, two teachers in turn": [*CROP, *FOUND, "teachers=[SECOND]"],
    "sum, auto 10, two teachers at once": [*CROP, *FOUND, "teachers=[SECOND]", "turns=committee"],
    "class statistics": [*CROP, CLASSES],
    "class statistics, auto 10": [*CROP, *FOUND, CLASSES],
    "best without class statistics": [
        *(*CROP, WIDE, "curriculum=cosine", "residual=0.5", "sizes=[SIDE, SIDE]", "lr=0.02", *FOUND),
    ],
}
BEST = METHODS["best without class statistics"]
METHODS["that, two teachers in turn"] = [*BEST, "teachers=[SECOND]"]
METHODS["that, two teachers at once"] = [*BEST, "teachers=[SECOND]", "turns=committee"]
METHODS["best"] = [*BEST, CLASSES]
OTHER = ["squeeze.network={model: resnet18, width: 0.25}", "squeeze.epochs=4"]  # of a second teacher
NAMED = (
    "sre2l",
    "easiest wide patches alone",
    "best",
    "fadrm",
    "sre2lpp",
    "cda",
)  # measured at every number of images; the others at 10


def overrides(dataset: str, data: str | None, ipc: int, method: str) -> tuple[str, list[str]]:
    """Return the name of the recipe, and overrides.

    Args:
        dataset: A key of `BASES`.
        data: Folder of the real data; None for a built-in dataset.
        ipc: Images per class.
        method: A key of `METHODS`.
    """
    recipe, base, plain = BASES[dataset]
    options = [*plain, *FEWER.get((dataset, ipc), []), *METHODS[method]]
    source = [] if data is None else [f"source.path={data}"]
    placeholders = {"SIDE": SIDES[dataset], "SECOND": str(ROOT / f"{dataset}-second" / "teacher")}
    for placeholder, value in placeholders.items():
        options = [option.replace(placeholder, value) for option in options]
    return recipe, [
        *(*source, *base, *PROTOCOLS[dataset], *BUDGETS[dataset, ipc].split(), f"recover.ipc={ipc}"),
        *(f"recover.{option}" for option in options),
    ]


def measure(dataset: str, data: str | None, ipc: int, method: str) -> dict[str, Any]:
    """Recover, relabel and evaluate; random real images are evaluated only with the first method."""
    recipe, changes = overrides(dataset, data, ipc, method)
    baselines = f"evaluate.baselines={str(method == 'sre2l').lower()}"
    name = f"{dataset}-{ipc}-{method.replace(' ', '-').replace(',', '')}"
    first, folder = ROOT / f"{dataset}-teacher", ROOT / name
    plain = overrides(dataset, data, ipc, "sre2l")[1]
    for teacher, network in {first: [], ROOT / f"{dataset}-second": OTHER}.items():
        if not (teacher / "units" / "squeeze" / "teacher.json").is_file():
            train_teacher(recipe, [*plain, baselines, *network, f"name={teacher.name}"])
    if not folder.is_dir():
        shutil.copytree(first, folder, ignore=shutil.ignore_patterns("recipe.yaml", "processes", "cache"))
    run = Run(load_recipe(recipe, [*changes, baselines, f"name={name}", f"run.root={ROOT}"]))
    squeeze(run)
    recover(run)
    relabel(run)
    evaluate(run)
    run.close()
    seconds = [line["seconds"] for line in _records(run) if line["stage"] == "recover" and "seconds" in line]
    rows = read_json(run.path("evaluate", "summary.json"))["students"][0]["rows"]
    return {
        "top1": {row["row"]: row["top1"] for row in rows},
        "recognized": read_json(run.path("soft_labels", "manifest.json"))["teacher"]["accuracy"],
        "recover_s": round(sum(seconds), 1),
    }


def train_teacher(recipe: str, changes: Sequence[str]) -> None:
    """Run squeeze."""
    run = Run(load_recipe(recipe, [*changes, f"run.root={ROOT}"]))
    prepared = prepare(run)
    run.begin()
    squeeze(run, prepared)
    run.close()


def _records(run: Run) -> list[Mapping[str, Any]]:
    return [json.loads(line) for line in run.path("metrics.jsonl").read_text().splitlines()]


def main(arguments: Sequence[str]) -> None:
    """Measure all methods at 10 images per class, and the named ones also at 1 and 50."""
    dataset, *rest = arguments
    data = None if dataset == "digits" else rest.pop(0)
    results: dict[str, dict[str, Any]] = {}
    for ipc in [int(text) for text in rest] or [1, 10, 50]:
        for method in METHODS if ipc == 10 else NAMED:
            results.setdefault(str(ipc), {})[method] = measure(dataset, data, ipc, method)
            print(ipc, method, results[str(ipc)][method]["top1"]["condensed"], flush=True)
            measured.write_results(f"methods-{dataset}", results, methods=METHODS, budgets=BASES[dataset][2])


if __name__ == "__main__":
    main(sys.argv[1:])
