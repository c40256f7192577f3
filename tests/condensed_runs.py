"""Finished runs labeled again in other ways."""

import shutil
from pathlib import Path

from conftest import SMALL

from srel_hub.condense import condense
from srel_hub.config import load_recipe
from srel_hub.runs.run import Run


def condensed_run(finished: Path, root: Path, *overrides: str) -> Run:
    """The finished run again in another place, labeled and evaluated by another recipe."""
    shutil.copytree(finished, root / finished.name)
    options = [*FINISHED, f"run.root={root}", "run.overwrite=true", *overrides]
    run = Run(load_recipe(finished.parent.parent / "colors.yaml", options))
    condense(run)
    run.close()
    return run


FINISHED = [
    *(option for option in SMALL if not option.startswith("evaluate=")),  # which would take a protocol's place
    *("squeeze.network.width=0.3", "squeeze.epochs=20", "recover.iterations=60"),
    *("evaluate.students=[{model: convnet, width: 0.1}]", "evaluate.seeds=2", "evaluate.epochs=2"),
    "evaluate.batch_size=8",
]
