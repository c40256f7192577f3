"""One recipe of recover, five teachers: which weights of the BatchNorm term serve all of them.

    python benchmarks/architectures.py [WEIGHT ...]

Digits, two images a class. Tells for every teacher and weight: cross-entropy and BatchNorm term at the first iteration
and at the last, and how many images the teacher recognizes. Writes benchmarks/results/architectures.json.
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
from srel_hub.teachers import classifier as teacher
from srel_hub.teachers.classifier import Classifier


TEACHERS = {"convnet": 1.0, "resnet18": 0.25, "resnet34": 0.25, "resnet50": 0.25, "resnet101": 0.25}
WEIGHTS: dict[str, dict[str, Any]] = {
    "sum, weight 1": {"bn_weight": 1.0},
    "sum, found": {"bn_weight": "auto", "bn_ratio": 10.0},
    "relative, weight 10": {"bn_term": "relative", "bn_weight": 10.0},
    "relative, found": {"bn_term": "relative", "bn_weight": "auto", "bn_ratio": 10.0},
}
UNIT = Unit(range(2), range(10))


def trained(model: str, width: float) -> Classifier:
    """A teacher of the digits."""
    changes = [f"squeeze.network={{model: {model}, width: {width}}}", "squeeze.epochs=20", "recover.ipc=2"]
    run = Run(load_recipe("quickstart", [*changes, f"name={model}", "run.root=runs/architectures"]))
    kept = teacher.load(squeeze(run), run.device)
    run.close()
    return kept


def recovered(classifier: Classifier, spec: Recover) -> dict[str, Any]:
    """What the terms were and became, and the share of images that the teacher recognizes."""
    with Objective([classifier], spec) as objective:
        weight = objective.members[0].weight
        made = (step for step in synthesize(objective, UNIT, 0) if step.terms)
        first = next(made).terms
        for last in made:  # noqa: B007
            pass
    x = last.x.flatten(0, 1)
    with torch.no_grad():
        found = classifier.model(x).logits.argmax(1).cpu()
    terms = {name: (round(float(first[name].mean()), 3), round(float(last.terms[name].mean()), 3)) for name in first}
    hits = float((found == torch.tensor(UNIT.classes).repeat(2)).float().mean())
    return {"weight": float(f"{weight:.4g}"), **terms, "recognized": round(hits, 3)}


def main(arguments: Sequence[str]) -> None:
    spec = replace(load_recipe("quickstart").recover, ipc=2)
    results: dict[str, Any] = {}
    for (model, width), (name, changes) in itertools.product(TEACHERS.items(), WEIGHTS.items()):
        if not arguments or name in arguments:
            classifier = trained(model, width)
            results.setdefault(model, {})[name] = recovered(classifier, replace(spec, **changes))
            print(model, name, results[model][name], flush=True)
    measured.keep("architectures", results, iterations=spec.iterations)


if __name__ == "__main__":
    main(sys.argv[1:])
