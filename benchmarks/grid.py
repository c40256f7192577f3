"""Combine squeezed networks with students (SRe2L, Table 5) in a sweep on a reduced CIFAR-10.

    python benchmarks/grid.py CIFAR10

Reduced to two cores. Resumes if interrupted. Writes benchmarks/results/grid.json.
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
from srel_hub.stages.recover.optimize import synthesize
from srel_hub.stages.recover.units import recipe_units
from srel_hub.storage.files import read_json
from srel_hub.studies.sweep.points import read_sweep
from srel_hub.studies.sweep.results import collect_results
from srel_hub.teachers import classifier


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
    """Return the sweep's command line, after writing its axis to a file."""
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


def first_terms(recipe: Recipe, folder: Path) -> dict[str, float]:
    """Return the loss terms of the first unit at the first iteration, in float32."""
    teacher = classifier.load(folder / "teacher", torch.device("cpu"))
    unit = recipe_units(recipe.recover, len(teacher.class_names), teacher.size)[0]
    with Objective([teacher], recipe.recover, seed=recipe.seed) as objective:
        steps = synthesize(objective, unit, recipe.seed)
        next(steps)  # the initial noise, before any iteration
        return {term: float(value.mean()) for term, value in next(steps).terms.items()}


def write_results(arguments: list[str]) -> None:
    """Write the results of a complete sweep to benchmarks/results/grid.json."""
    sweep = read_sweep(arguments[0], arguments[1:])
    students = collect_results(sweep)
    results: dict[str, object] = {}
    for point in sweep.points:
        records = [json.loads(line) for line in (point.folder / "metrics.jsonl").read_text().splitlines()]
        first = first_terms(point.recipe, point.folder)
        units = [line for line in records if line["stage"] == "recover" and "cross_entropy" in line]
        results[point.labels[0]] = {
            "teacher": read_json(point.folder / "teacher" / "metrics.json")["top1"],
            "recognized": read_json(point.folder / "soft_labels" / "manifest.json")["teacher"]["accuracy"],
            "first": first,
            "last": {term: units[-1][term] for term in ("cross_entropy", "bn")},
            "students": {
                student.student: {
                    row: {"mean": result.top1, "std": result.std, "n": result.n}
                    for row, result in student.results.items()
                }
                for student in students
                if student.labels == point.labels
            },
        }
    measured.write_results("grid", results, squeezed=SQUEEZED, students=STUDENTS)


if __name__ == "__main__":
    line = command(sys.argv[1])
    status = main(["sweep", *line])
    if status:
        sys.exit(status)
    write_results(line)
