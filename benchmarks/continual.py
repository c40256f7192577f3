"""Continual learning in five steps on a reduced CIFAR-10: condensed and random real memories, three kinds of labels.

    python benchmarks/continual.py CIFAR10

Reduced to two cores. Resumes if interrupted. Writes benchmarks/results/continual.json.
"""

import sys
from pathlib import Path

import measured
from methods import BEST, CLASSES, PROTOCOLS

from srel_hub.config import load_recipe
from srel_hub.recover import recover
from srel_hub.runs.run import Run
from srel_hub.squeeze import squeeze
from srel_hub.stages.preflight.prepare import prepare
from srel_hub.studies.continual.protocol import Labels, Setting, memory_names
from srel_hub.studies.continual.results import summarize
from srel_hub.studies.continual.study import continual


ROOT = Path("runs/continual")
STEPS, SEEDS, IPC = 5, 3, 10
CHANGES = [
    *("squeeze.network={model: convnet, width: 0.5}", "squeeze.epochs=4", "squeeze.optimizer.lr=0.05"),
    *PROTOCOLS["cifar10"],
    *("evaluate.epochs=40", "evaluate.batch_size=10"),
    *(f"recover.{option}" for option in ("iterations=300", *BEST, CLASSES)),
    *(f"recover.ipc={IPC}", f"run.root={ROOT}", "run.cpu_threads=1"),
]
LABELS: tuple[Labels, ...] = ("all", "seen", "step")


def main(data: str) -> None:
    """Condense the folder of CIFAR-10, and measure continual learning with each kind of labels."""
    changes = [change.replace("SIDE", "32") for change in CHANGES]
    recipe = load_recipe("cifar10_ipc10", [*changes, f"source.path={data}", "name=cifar10"])
    run = Run(recipe)
    prepared = prepare(run)
    run.begin()
    squeeze(run, prepared)
    recover(run, prepared.source)
    results = {}
    for labels in LABELS:
        setting = Setting(STEPS, labels, SEEDS, order=0)
        folder = continual(run, setting)
        results[labels] = summarize(setting, memory_names(recipe.evaluate), folder)
        measured.write_results("continual", results, changes=changes, steps=STEPS, seeds=SEEDS)
    run.close()


if __name__ == "__main__":
    main(sys.argv[1])
