"""Which network the images are recovered from, and which is trained on them: a grid (SRe2L, Table 5) on the reduced
CIFAR-10, as a sweep.

    python benchmarks/grid.py CIFAR10

Reduced to two cores; resumes where it was stopped. Writes benchmarks/results/grid.json.
"""

import json
import sys
from pathlib import Path

import labels
import measured
import torch
import yaml

from srel_hub.commands.program import main
from srel_hub.config import Recipe
from srel_hub.stages.recover.objective import Objective
from srel_hub.stages.recover.optimize import recipe_units, synthesize
from srel_hub.storage.files import read_json
from srel_hub.studies.sweep.points import read_sweep
from srel_hub.studies.sweep.results import collect_results
from srel_hub.teachers import classifier as teacher


ROOT = Path("runs/grid")
SQUEEZED = {
    "convnet": ["squeeze.network={model: convnet, width: 0.5}", "squeeze.epochs=4"],
    "bn_vit_tiny": [
        *("squeeze.network={model: bn_vit_tiny, width: 0.25}", "squeeze.epochs=6"),
        "squeeze.optimizer={kind: adamw, lr: 1.0e-3, weight_decay: 0.05, decay_all: false, warmup_epochs: 1}",
    ],
}
STUDENTS = [
    {"model": "convnet", "width": 0.25},
    {"model": "resnet18", "width": 0.125},
    {"model": "deit_tiny", "width": 0.25},
    {"model": "bn_vit_tiny", "width": 0.25},
]


def command(data: str) -> list[str]:
    """The sweep's command line."""
    axis = {
        name: {key: yaml.safe_load(value) for key, _, value in (text.partition("=") for text in texts)}
        for name, texts in SQUEEZED.items()
    }
    ROOT.mkdir(parents=True, exist_ok=True)
    file = ROOT / "grid.yaml"
    file.write_text(yaml.safe_dump({"extends": "cifar10_ipc10", "name": "grid", "sweep": {"squeezed": axis}}))
    return [
        str(file),
        f"source.path={data}",
        *labels.REDUCED["cifar10"][1],
        *("recover.bn_weight=auto", "recover.bn_ratio=10", "recover.crop=resized", "recover.flip=true"),
        *("relabel.epochs=60", "evaluate.epochs=60", "evaluate.batch_size=20"),
        f"evaluate.students={json.dumps(STUDENTS)}",
        *(f"run.root={ROOT}", "run.cpu_threads=1"),
    ]


def beginning(recipe: Recipe, folder: Path) -> dict[str, float]:
    """The loss terms at the first iteration, of the first unit, in float32."""
    classifier = teacher.load(folder / "teacher", torch.device("cpu"))
    unit = recipe_units(recipe.recover, len(classifier.class_names), classifier.size)[0]
    with Objective([classifier], recipe.recover, seed=recipe.seed) as objective:
        steps = synthesize(objective, unit, recipe.seed)
        next(steps)
        return {term: float(value.mean()) for term, value in next(steps).terms.items()}


def keep(arguments: list[str]) -> None:
    asked = read_sweep(arguments[0], arguments[1:])
    results: dict[str, object] = {}
    for point in asked.points:
        told = [json.loads(line) for line in (point.folder / "metrics.jsonl").read_text().splitlines()]
        first = beginning(point.recipe, point.folder)
        ends = [line for line in told if line["stage"] == "recover" and "cross_entropy" in line]
        results[point.labels[0]] = {
            "teacher": read_json(point.folder / "teacher" / "metrics.json")["top1"],
            "recognized": read_json(point.folder / "soft_labels" / "manifest.json")["teacher"]["accuracy"],
            "first": first,
            "last": {term: ends[-1][term] for term in ("cross_entropy", "bn")},
            "students": {
                row.student: {
                    kind: {"mean": each.top1, "std": each.std, "n": each.n} for kind, each in row.results.items()
                }
                for row in rows_of(asked)
                if row.labels == point.labels
            },
        }
    measured.keep("grid", results, squeezed=SQUEEZED, students=STUDENTS)


if __name__ == "__main__":
    line = command(sys.argv[1])
    status = main(["sweep", *line])
    if status:
        sys.exit(status)
    keep(line)
