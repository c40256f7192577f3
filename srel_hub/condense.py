"""The pipeline: squeeze, recover, relabel, evaluate, publish.

accelerate launch -m srel_hub.condense recipes/quickstart.yaml
accelerate launch -m srel_hub.condense recipes/cifar10_ipc10.yaml recover.iterations=200 squeeze.network.width=0.25
"""

from pathlib import Path
from typing import Any

from srel_hub.assemble import assemble
from srel_hub.card import total_bytes
from srel_hub.evaluate import evaluate, results_table
from srel_hub.preflight import prepare
from srel_hub.publish import share
from srel_hub.recover import recover
from srel_hub.relabel import relabel
from srel_hub.run import Run, cli, in_bytes, read_json
from srel_hub.squeeze import squeeze


def condense(run: Run) -> None:
    """Every stage in order; what is done already is kept."""
    prepared = prepare(run, pushes=not run.recipe.publish.dry_run)
    squeeze(run, prepared)
    recover(run)
    relabel(run)
    evaluate(run, prepared.source)
    run.begin()  # what the cards say may have changed
    dataset, teacher_repo = assemble(run, run.folder)
    print(closing(dataset, read_json(run.path("evaluate", "summary.json"))))
    share(run, dataset, teacher_repo)


def closing(dataset: Path, summary: dict[str, Any]) -> str:
    """What the user is told at the end: where it lies, how large it is, how good, and how to load it."""
    return "\n".join(
        [
            "",
            f"dataset: {dataset} ({in_bytes(total_bytes(dataset))}, of which "
            f"images {in_bytes(total_bytes(dataset / 'data'))}, "
            f"soft labels {in_bytes(total_bytes(dataset / 'soft_labels'))})",
            "",
            *results_table(summary),
            "",
            "from datasets import load_dataset",
            f'dataset = load_dataset("{dataset.as_posix()}")',
        ]
    )


if __name__ == "__main__":
    cli(condense)
