"""Finished stages of one run directory, linked into another whose recipe would make the same."""

import contextlib
import itertools
import os
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from srel_hub.config import Recipe, load_recipe
from srel_hub.runs.completion import RESULTS, STAGES, Marks, Stage
from srel_hub.runs.resume import settle
from srel_hub.storage.files import read_json, write_json


LENT = "lent.json"  # of a run: its stages that another made, with that one's name


def borrow(recipe: Recipe, folder: Path, others: Iterable[Path]) -> None:
    """Link in, from the run that has most of them, the finished stages that `folder` has not begun."""
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
    """The first stages of a run that are finished and are what this recipe would make; evaluate is lent by none."""
    if not (folder / "recipe.yaml").is_file():
        return ()
    name = load_recipe(folder).name
    asked = replace(recipe, name=name, run=replace(recipe.run, overwrite=True))
    outdated = settle(asked, folder, begun=True).outdated
    return tuple(itertools.takewhile(lambda stage: stage not in outdated and is_finished(folder, stage), STAGES[:-1]))


def is_finished(folder: Path, stage: Stage) -> bool:
    """Whether a stage of a run directory is done, by the recipe that the directory has."""
    try:
        units = read_json(folder / "units" / f"{stage}.json")["units"]
    except (FileNotFoundError, ValueError, KeyError):
        return False
    marks = Marks(folder, full=False)
    return all(marks.is_done(stage, unit) for unit in units)


def _link(donor: Path, folder: Path, stage: Stage) -> None:
    """Results first, marks last, so that a kill between leaves what is done again."""
    patterns = (*RESULTS[stage], f"units/{stage}", f"units/{stage}.json")
    for place in (place for pattern in patterns for place in sorted(donor.glob(pattern))):
        goal = folder / place.relative_to(donor)
        if place.is_dir():
            shutil.copytree(place, goal, copy_function=_link_file, dirs_exist_ok=True, ignore=_claims)
        else:
            goal.parent.mkdir(parents=True, exist_ok=True)
            _link_file(place, goal)


def _claims(_: str, names: list[str]) -> list[str]:
    return [name for name in names if name.endswith((".claim", ".tmp"))]


def _link_file(source: str | Path, goal: str | Path) -> None:
    """A second name of the file where the file system has them, else a copy; a run replaces files, it changes none."""
    with contextlib.suppress(FileExistsError):
        try:
            os.link(source, goal)
        except OSError as error:
            if isinstance(error, FileExistsError):
                raise
            shutil.copy2(source, goal)
