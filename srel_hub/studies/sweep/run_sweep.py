"""Sweep: run one recipe at many points, and share the stages that they have in common.

    srel-hub sweep recipes/quickstart.yaml recover.iterations=100,500 squeeze.epochs=10,60
    srel-hub sweep cifar10_ipc10 temperature
    accelerate launch -m srel_hub sweep architectures

A field with several values, separated by commas, is an axis; the points are all combinations. A shipped sweep has its
axes in a section `sweep`. After the name of another recipe, the sweep's axes are added to that recipe. The runs are in
`NAME-sweep/`. A stage that is complete at one point is linked into every other point with the same stage. The same
command resumes an interrupted sweep. The results are a table, a CSV file and a plot, named after the axes.
"""

import sys
from collections import Counter

from accelerate.utils import wait_for_everyone
from tqdm import tqdm

from srel_hub.errors import ErrorCollector
from srel_hub.runs.completion import STAGES
from srel_hub.runs.decoded_images import clear
from srel_hub.runs.run import Run
from srel_hub.runs.shared_stages import LENT, borrow
from srel_hub.runs.stage_cli import execute
from srel_hub.stages.pipeline import evaluate, recover, relabel, squeeze
from srel_hub.stages.preflight.prepare import prepare
from srel_hub.storage.files import read_json
from srel_hub.studies.sweep.points import Sweep


def run_points(sweep: Sweep) -> int:
    """Run every stage of every point, after all points have been checked.

    Returns:
        The exit status: 0, or that of the first point that failed.

    Raises:
        UserError: If any point is invalid. It lists all errors, and no point has run.
    """
    errors = ErrorCollector()
    for point in sweep.points:
        with errors.collect():
            run = Run(point.recipe)
            if not run.broadcast(all(run.is_complete(stage) for stage in STAGES)):
                prepare(run)
    errors.raise_all()
    for number, point in enumerate(sweep.points, 1):
        run = Run(point.recipe)
        if run.is_main:
            tqdm.write(f"point {number} of {len(sweep.points)}: {point.recipe.name}", file=sys.stderr)
            borrow(point.recipe, point.folder, sweep.folder.iterdir() if sweep.folder.is_dir() else ())
        wait_for_everyone()  # no process may look for a stage before the main one has linked it
        status = execute(_run_stages, run)
        if status:
            return status
    return 0


def _run_stages(run: Run) -> None:
    squeeze(run)
    recover(run)
    relabel(run)
    evaluate(run)
    if run.heartbeat is not None:  # None if all stages were complete: then the run was not entered
        with run.locked("cache"):
            clear(run)


def shared_stages(sweep: Sweep) -> str:
    """Return the number of points at which each stage was run, not shared: 'squeeze 2 of 6, recover 6 of 6, ...'."""
    lent: Counter[str] = Counter()
    for point in sweep.points:
        lent.update(list(read_json(point.folder / LENT)) if (point.folder / LENT).is_file() else [])
    count = len(sweep.points)
    return ", ".join(f"{stage} {count - lent[stage]} of {count}" for stage in STAGES)
