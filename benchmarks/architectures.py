"""Recover from five teachers with one recipe, to find the weight of the BatchNorm term that suits all of them.

    python benchmarks/architectures.py [WEIGHT ...]

Uses the digits, two images per class. Reports for every teacher and weight the cross-entropy and the BatchNorm term at
the first and the last iteration, and the share of images that the teacher classifies as intended. Writes
benchmarks/results/architectures.json.
"""

import itertools
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import measured
import torch

from srel_hub.config import Recover, load_recipe
from srel_hub.runs.run import Run
from srel_hub.squeeze import squeeze
from srel_hub.stages.recover.objective import Objective
from srel_hub.stages.recover.optimize import synthesize
from srel_hub.stages.recover.units import Unit
from srel_hub.teachers import classifier
from srel_hub.teachers.classifier import Classifier


TEACHERS = {"convnet": 1.0, "resnet18": 0.25, "resnet34": 0.25, "resnet50": 0.25, "resnet101": 0.25}  # model: width
WEIGHTS: dict[str, dict[str, Any]] = {
    "sum, weight 1": {"bn_weight": 1.0},
    "sum, found": {"bn_weight": "auto", "bn_ratio": 10.0},
    "relative, weight 10": {"bn_term": "relative", "bn_weight": 10.0},
    "relative, found": {"bn_term": "relative", "bn_weight": "auto", "bn_ratio": 10.0},
}
UNIT = Unit(range(2), range(10))


def train_teacher(model: str, width: float) -> Classifier:
    """Train a teacher on the digits, or load the one of an earlier call."""
    changes = [f"squeeze.network={{model: {model}, width: {width}}}", "squeeze.epochs=20", "recover.ipc=2"]
    run = Run(load_recipe("quickstart", [*changes, f"name={model}", "run.root=runs/architectures"]))
    teacher = classifier.load(squeeze(run), run.device)
    run.close()
    return teacher


def measure(teacher: Classifier, spec: Recover) -> dict[str, Any]:
    """Recover images; return each term at the first and last iteration, and the share of recognized images."""
    with Objective([teacher], spec) as objective:
        weight = objective.members[0].weight
        steps = (step for step in synthesize(objective, UNIT, 0) if step.terms)
        first = next(steps).terms
        for last in steps:  # noqa: B007
            pass
    x = last.x.flatten(0, 1)
    with torch.no_grad():
        predictions = teacher.model(x).logits.argmax(1).cpu()
    terms = {name: (round(float(first[name].mean()), 3), round(float(last.terms[name].mean()), 3)) for name in first}
    recognized = float((predictions == torch.tensor(UNIT.classes).repeat(2)).float().mean())
    return {"weight": float(f"{weight:.4g}"), **terms, "recognized": round(recognized, 3)}


def main(weights: Sequence[str]) -> None:
    """Measure all teachers with the named weights; with all weights if none is named."""
    spec = replace(load_recipe("quickstart").recover, ipc=2)
    results: dict[str, Any] = {}
    for (model, width), (name, changes) in itertools.product(TEACHERS.items(), WEIGHTS.items()):
        if not weights or name in weights:
            results.setdefault(model, {})[name] = measure(train_teacher(model, width), replace(spec, **changes))
            print(model, name, results[model][name], flush=True)
    measured.write_results("architectures", results, iterations=spec.iterations)


if __name__ == "__main__":
    main(sys.argv[1:])
