"""The pipeline: squeeze, recover, relabel, evaluate, pictures, publish.

accelerate launch -m srel_hub.condense recipes/quickstart.yaml
accelerate launch -m srel_hub.condense recipes/cifar10_ipc10.yaml recover.iterations=200 squeeze.network.width=0.25
"""

import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from srel_hub.reports.assemble import assembly_of, ensure_assembled
from srel_hub.reports.publish import share
from srel_hub.reports.run_pictures import can_draw, draw
from srel_hub.runs.completion import STAGES
from srel_hub.runs.decoded_images import clear
from srel_hub.runs.run import Run
from srel_hub.runs.stage_cli import cli
from srel_hub.stages.evaluate.summary import results_table
from srel_hub.stages.pipeline import evaluate, recover, relabel, squeeze
from srel_hub.stages.preflight.prepare import prepare
from srel_hub.storage.files import format_bytes, read_json, total_bytes
from srel_hub.studies.plan.price import plan
from srel_hub.studies.plan.run_plan import gather_facts, machine_of
from srel_hub.studies.plan.text import plan_lines


def condense(run: Run) -> None:
    """Run every stage in order. Finished work is skipped."""
    if run.broadcast(is_finished(run)):
        if run.is_main:
            checked = f" ({run.marks.compared:,} digests compared)" if run.marks.compared else ""
            tqdm.write(f"{run.folder} is complete: nothing to do{checked}", file=sys.stderr)
    else:
        with run.accelerator.main_process_first():
            inputs = prepare(run, pushes=run.is_main and not run.recipe.publish.dry_run, shows=True)
        run.begin()
        if run.is_main:
            machine = machine_of(run.device, run.engine.precision, run.accelerator.num_processes)
            print("\n".join(plan_lines(plan(gather_facts(run.recipe, inputs, run.folder, machine)))))
            if run.recipe.pictures and not can_draw():
                run.print(
                    "matplotlib or scikit-learn is missing, so the card gets one picture only; run "
                    "`pip install 'srel_hub[viz]'`"
                )
        squeeze(run, inputs)
        recover(run, inputs.source)
        relabel(run)
        evaluate(run, inputs.source)
        draw(run, inputs.source)
        ensure_assembled(run.recipe, run.marks, run.locked, run.progress)
        with run.locked("cache"):
            clear(run)
    if run.is_main:
        print(closing(run.path("dataset"), read_json(run.path("evaluate", "summary.json"))))
    if run.recipe.publish.repo_id is not None:
        run.begin()
        if run.is_main:
            with run.locked("publish"):
                share(run, run.path("dataset"), run.path("teacher_repo"))


def is_finished(run: Run) -> bool:
    """Return whether every stage is complete and the repositories are assembled from their results."""
    return all(run.is_complete(stage) for stage in STAGES) and run.is_done(
        "assemble", assembly_of(run.recipe, run.marks)
    )


def closing(dataset: Path, summary: dict[str, Any]) -> str:
    """Return the last message: the dataset's folder, its size, the accuracies, and the code to load it."""
    return "\n".join(
        [
            "",
            f"dataset: {dataset} ({format_bytes(total_bytes(dataset))}, of which "
            f"images {format_bytes(total_bytes(dataset / 'data'))}, "
            f"soft labels {format_bytes(total_bytes(dataset / 'soft_labels'))})",
            "",
            *results_table(summary),
            "",
            "from datasets import load_dataset",
            f'dataset = load_dataset("{dataset.as_posix()}")',
        ]
    )


if __name__ == "__main__":
    cli(condense)
