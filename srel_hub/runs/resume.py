"""Compare a recipe with an existing run directory: values that were resolved there are kept, and changes are listed."""

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
from srel_hub.teachers.own_code import with_source_digests


# Fields of source that decide no result
ON_CARDS_ONLY = ("title", "homepage", "license", "license_name", "license_link", "terms", "citation")
STORAGE_FIELDS = {  # how labels are stored, not what they are
    *("relabel.encoding", "relabel.top_k", "relabel.top_values", "relabel.epochs", "relabel.pool"),
}
TEACHER_FIELDS = ("relabel.teacher", "relabel.committee")


@dataclass(frozen=True)
class Change:
    """A field whose value differs from the run's: its dotted name, the run's value and the requested value."""

    field: str
    before: Any
    requested: Any

    def __str__(self) -> str:
        return f"{self.field}: {self.before!r} in the run, {self.requested!r} requested"


@dataclass(frozen=True)
class Resolved:
    """A recipe whose machine-dependent values are those of the run.

    Attributes:
        recipe: The resolved recipe.
        outdated: Stages whose results belong to another recipe: the first stage that changed and all stages after it.
        changes: The fields that changed.
    """

    recipe: Recipe
    outdated: tuple[Stage, ...] = ()
    changes: tuple[Change, ...] = ()

    @property
    def only_reencodes(self) -> bool:
        """Whether the stored labels stay valid and only their encoding changes."""
        names = [change.field for change in self.changes]
        return "relabel" in self.outdated and all(
            name in STORAGE_FIELDS or name.startswith("evaluate.") for name in names
        )

    @property
    def keeps_label_teachers(self) -> bool:
        """Whether the networks that compute the soft labels stay the same."""
        is_first = self.outdated[:1] == ("relabel",)
        return is_first and not any(change.field.startswith(TEACHER_FIELDS) for change in self.changes)

    @property
    def reason(self) -> str:
        """The changes in one line."""
        return "; ".join(str(change) for change in self.changes)


def run_folder(recipe: Recipe) -> Path:
    """Return the run directory of a recipe.

    Raises:
        UserError: If the directory cannot be created or written.
    """
    try:
        folder = Path(recipe.run.root).expanduser() / recipe.name
    except RuntimeError as error:  # `~unknown_user`
        raise UserError(f"run.root={recipe.run.root}: {error}") from None
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise UserError(f"run.root: {existing} is a file, so {folder} cannot be created; change run.root or name")
    if not os.access(existing, os.W_OK) and not (folder / "dataset").is_dir():  # a finished run may be an archive
        raise UserError(f"run.root: {existing} is not writable; set run.root to another place")
    return folder


def resolve(recipe: Recipe, folder: Path, has_begun: bool) -> Resolved:
    """Resolve machine-dependent values, and compare the recipe with that of the run directory.

    `run.cpu_threads`, `precision` and `recover.stack` affect the results bit by bit, so a run keeps its first values.
    It also keeps its first `name`, which cards show, if its directory was renamed or copied.

    Args:
        recipe: The requested recipe.
        folder: The run directory.
        has_begun: Whether the directory already has results that belong to its recipe.yaml.

    Raises:
        UserError: If stages are outdated and `run.overwrite` does not allow redoing them, or the file of an own network
            is not available.
    """
    stored = folder / "recipe.yaml"
    before = load_recipe(stored) if stored.is_file() else None
    if before is not None:
        recipe = replace(recipe, name=before.name)
    recipe = with_source_digests(recipe, pinned=before is None or not has_begun)
    if before is None or not has_begun:
        return Resolved(_with_machine_values(recipe, fair_threads(), best_precision()))
    threads, precision = before.run.cpu_threads, before.precision
    assert precision != "auto", "a run stores the resolved recipe"
    resolved = _with_machine_values(recipe, fair_threads() if threads == "auto" else threads, precision)
    requested = resolved
    if resolved.recover.stack == "auto":
        requested = replace(resolved, recover=replace(resolved.recover, stack=before.recover.stack))
    if resolved.recover.ipc == 0:  # as many as `recover.images` has
        requested = replace(requested, recover=replace(requested.recover, ipc=before.recover.ipc))
    differing = differences(fields_that_decide(before), fields_that_decide(requested))
    changes = tuple(Change(*difference) for difference in sorted(differing, key=str))
    outdated = _outdated_stages([change.field for change in changes])
    if "recover" in outdated:
        requested = resolved  # images are optimized again, so the stack is chosen again
    if outdated and not recipe.run.overwrite:
        raise UserError(_refusal(folder, outdated, changes))
    return Resolved(requested, outdated, changes)


def _with_machine_values(recipe: Recipe, threads: int, precision: Precision) -> Recipe:
    if recipe.run.cpu_threads == "auto":
        recipe = replace(recipe, run=replace(recipe.run, cpu_threads=threads))
    return replace(recipe, precision=precision) if recipe.precision == "auto" else recipe


def fields_that_decide(recipe: Recipe) -> dict[str, Any]:
    """Return the part of a recipe that affects the results, as plain values."""
    plain = as_dict(recipe)
    del plain["publish"], plain["source"]["streaming"], plain["protocol"], plain["pictures"]
    plain["run"] = {name: plain["run"][name] for name in ("cpu_threads", "compile")}
    for name in ON_CARDS_ONLY:
        plain["source"].pop(name, None)  # a sparse field may be absent
    for name in TRAININGS:  # more students or seeds add trainings and change no finished one
        del plain["evaluate"][name]
    return plain


def _outdated_stages(names: Sequence[str]) -> tuple[Stage, ...]:
    """Return the stage of the first section that changed and all later stages.

    Fields that belong to no stage, such as the seed, affect all stages.
    """
    sections = {name.split(".")[0] for name in names}
    first = min((STAGES.index(name) if name in STAGES else 0 for name in sections), default=len(STAGES))
    return STAGES[first:]


def _refusal(folder: Path, outdated: Sequence[Stage], changes: Sequence[Change]) -> str:
    valid = [stage for stage in STAGES if stage not in outdated]
    return "\n".join(
        [
            f"{folder} holds a run of another recipe:",
            *(f"  {change}" for change in changes),
            f"  still valid: {', '.join(valid) or 'no stage'}; outdated: {', '.join(outdated)}",
            "  set run.overwrite=true to redo the outdated stages in place, or name=... to start another run",
        ]
    )


def to_store(recipe: Recipe) -> Recipe:
    """Return the recipe as its run directory stores it, without settings that apply to one command only."""
    kept = recipe.run
    run = RunSettings(root=kept.root, imports=kept.imports, cpu_threads=kept.cpu_threads, compile=kept.compile)
    return replace(recipe, publish=replace(recipe.publish, dry_run=False), run=run)
