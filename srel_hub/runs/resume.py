"""A recipe meets a run directory: what was resolved there is kept, and what changed since is told."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from srel_hub.config import Recipe, RunSettings, as_dict, load_recipe
from srel_hub.config.protocols import TRAININGS, differences
from srel_hub.core.engine import Precision, best_precision
from srel_hub.errors import UserError
from srel_hub.runs.completion import STAGES, Stage
from srel_hub.runs.machine import fair_threads


ON_CARDS_ONLY = ("title", "homepage", "license", "terms", "citation")  # of the source: may change on a finished run


@dataclass(frozen=True)
class Settled:
    """The recipe with machine-dependent values as the run has them.

    Attributes:
        outdated: stages whose results are of another recipe; the first that changed, and those that rest on it.
        changes: the fields that changed, a line each.
    """

    recipe: Recipe
    outdated: tuple[Stage, ...] = ()
    changes: tuple[str, ...] = ()


def place_of(recipe: Recipe) -> Path:
    """The run directory.

    Raises:
        UserError: where it cannot be made or written.
    """
    try:
        folder = Path(recipe.run.root).expanduser() / recipe.name
    except RuntimeError as error:
        raise UserError(f"run.root={recipe.run.root}: {error}") from None
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise UserError(
            f"run.root: {there} is a file, so {folder} cannot be made; set run.root or name to another place"
        )
    if not os.access(there, os.W_OK) and not (folder / "dataset").is_dir():  # a finished run may be an archive
        raise UserError(f"run.root: {there} cannot be written to; set run.root to another place")
    return folder


def settle(recipe: Recipe, folder: Path, begun: bool) -> Settled:
    """Resolve machine-dependent values as the run directory has them, or now, and find what changed.

    Args:
        begun: whether there is anything in the directory that its recipe.yaml describes.

    Raises:
        UserError: where stages are outdated and `run.overwrite` does not allow to redo them.
    """
    kept = folder / "recipe.yaml"
    if not begun or not kept.is_file():
        return Settled(_resolved(recipe, fair_threads(), best_precision()))
    before = load_recipe(kept)
    threads = before.run.cpu_threads
    precision = "float32" if before.precision == "auto" else before.precision  # version 0.4.0 knew no other
    before = replace(before, precision=precision)
    resolved = _resolved(recipe, fair_threads() if threads == "auto" else threads, precision)
    asked = resolved
    if resolved.recover.stack == "auto":
        asked = replace(resolved, recover=replace(resolved.recover, stack=before.recover.stack))
    changed = list(differences(deciding(before), deciding(asked)))
    outdated = _outdated([name for name, _, _ in changed])
    if "recover" in outdated:
        asked = resolved  # the stack is found anew
    changes = tuple(f"{name}: {old!r} there, {new!r} asked for" for name, old, new in sorted(changed, key=str))
    if outdated and not recipe.run.overwrite:
        raise UserError(_refusal(folder, outdated, changes))
    return Settled(asked, outdated, changes)


def _resolved(recipe: Recipe, threads: int, precision: Precision) -> Recipe:
    if recipe.run.cpu_threads == "auto":
        recipe = replace(recipe, run=replace(recipe.run, cpu_threads=threads))
    return replace(recipe, precision=precision) if recipe.precision == "auto" else recipe


def deciding(recipe: Recipe) -> dict[str, Any]:
    """What decides the results, by its names in the recipe."""
    plain = as_dict(recipe)
    del plain["publish"], plain["source"]["streaming"], plain["protocol"], plain["pictures"]
    plain["run"] = {name: plain["run"][name] for name in ("cpu_threads", "compile")}
    for name in ON_CARDS_ONLY:
        del plain["source"][name]
    for name in TRAININGS:  # those that are there stay as they are
        del plain["evaluate"][name]
    return plain


def _outdated(names: Sequence[str]) -> tuple[Stage, ...]:
    """The stage of the first section that changed, and all after it; what no stage owns belongs to the first."""
    sections = {name.split(".")[0] for name in names}
    first = min((STAGES.index(name) if name in STAGES else 0 for name in sections), default=len(STAGES))
    return STAGES[first:]


def _refusal(folder: Path, outdated: Sequence[Stage], changes: Sequence[str]) -> str:
    kept = [stage for stage in STAGES if stage not in outdated]
    return "\n".join(
        [
            f"{folder} holds a run of another recipe:",
            *(f"  {change}" for change in changes),
            f"  kept as they are: {', '.join(kept) or 'no stage'}; to be redone: {', '.join(outdated)}",
            "  run.overwrite=true redoes them in place of what is there; or set another name (name=...)",
        ]
    )


def to_keep(recipe: Recipe) -> Recipe:
    """The recipe as its run directory keeps it: without what is said for one command only."""
    run = RunSettings(root=recipe.run.root, cpu_threads=recipe.run.cpu_threads, compile=recipe.run.compile)
    return replace(recipe, publish=replace(recipe.publish, dry_run=False), run=run)
