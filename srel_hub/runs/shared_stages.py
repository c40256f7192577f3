"""Reuse finished stages: link them from one run directory into another whose recipe gives the same results."""

import contextlib
import itertools
import os
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from srel_hub.config import Recipe
from srel_hub.runs.completion import RESULTS, STAGES, Marks, Stage
from srel_hub.runs.resume import resolve
from srel_hub.storage.files import read_json, write_json


LENT = "lent.json"  # in a run directory: the stages that it took from others, with the names of those runs


def borrow(recipe: Recipe, folder: Path, others: Iterable[Path]) -> None:
    """Link finished stages from another run into a run that has not begun them.

    Args:
        recipe: The recipe of the run to link into.
        folder: Its run directory.
        others: Run directories to link from; the one with the most usable stages is selected.
    """
    missing = [stage for stage in STAGES if not any((folder / "units" / stage).glob("*.json"))]
    offers = {other: lendable(other, recipe) for other in sorted(others) if other != folder}
    if not offers:
        return
    best = max(offers, key=lambda other: len(offers[other]))
    lent = read_json(folder / LENT) if (folder / LENT).is_file() else {}
    for stage in offers[best]:
        if stage in missing:
            _link(best, folder, stage)
            write_json(folder / LENT, lent := {**lent, stage: best.name})


def lendable(folder: Path, recipe: Recipe) -> tuple[Stage, ...]:
    """Return the leading stages of a run that are finished and whose results equal those of `recipe`.

    Evaluate is never shared, because its results contain the name of the run.
    """
    if not (folder / "recipe.yaml").is_file():
        return ()
    requested = replace(recipe, run=replace(recipe.run, overwrite=True))
    outdated = resolve(requested, folder, has_begun=True).outdated
    return tuple(itertools.takewhile(lambda stage: stage not in outdated and is_finished(folder, stage), STAGES[:-1]))


def is_finished(folder: Path, stage: Stage) -> bool:
    """Return whether a stage of a run directory is complete for the recipe in that directory."""
    try:
        units = read_json(folder / "units" / f"{stage}.json")["units"]
    except (FileNotFoundError, ValueError, KeyError):
        return False
    marks = Marks(folder, full=False)
    return all(marks.is_done(stage, unit) for unit in units)


def _link(lender: Path, folder: Path, stage: Stage) -> None:
    # Results first, marks last: after a kill in between, the stage counts as not done.
    patterns = (*RESULTS[stage], f"units/{stage}", f"units/{stage}.json")
    for source in (source for pattern in patterns for source in sorted(lender.glob(pattern))):
        target = folder / source.relative_to(lender)
        if source.is_dir():
            shutil.copytree(source, target, copy_function=_link_file, dirs_exist_ok=True, ignore=_ignore_claims)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            _link_file(source, target)


def _ignore_claims(_: str, names: list[str]) -> list[str]:
    return [name for name in names if name.endswith((".claim", ".tmp"))]


def _link_file(source: str | Path, target: str | Path) -> None:
    """Hard-link a file if possible, else copy it. Links are safe, because a run never changes a file in place."""
    with contextlib.suppress(FileExistsError):
        try:
            os.link(source, target)
        except OSError as error:
            if isinstance(error, FileExistsError):
                raise
            shutil.copy2(source, target)
