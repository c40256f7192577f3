"""Recover: optimize pixels until the teacher's logits and BatchNorm statistics match (SRe2L, section 3.2).

    accelerate launch -m srel_hub.recover recipes/quickstart.yaml

Leaves `images/`, one parquet shard per unit of work: `stack` ipc indices of one block of classes, or all images of
`stack` classes where each class is matched to its own statistics; and `history/`, the units' loss terms on their way.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import Tensor

from srel_hub.core.optim import require_finite
from srel_hub.data.sources import Source, open_source
from srel_hub.runs.run import Run
from srel_hub.runs.work_queue import Work
from srel_hub.stages.recover.class_statistics import Statistics, measure_statistics
from srel_hub.stages.recover.class_statistics import load as load_statistics
from srel_hub.stages.recover.objective import Objective
from srel_hub.stages.recover.optimize import Unit, first_images, recipe_units, stack_of, synthesize, to_uint8
from srel_hub.stages.recover.patches import FOLDER as PATCHES
from srel_hub.stages.recover.patches import cut_patches, read_patches
from srel_hub.stages.recover.trace import History
from srel_hub.storage.condensed_table import encode_png, write_parquet
from srel_hub.storage.files import atomic_write
from srel_hub.teachers import classifier as teacher
from srel_hub.teachers.classifier import Classifier


def recover(run: Run, source: Source | None = None) -> Path:
    """Recover every unit that is not marked yet.

    Returns:
        the folder of image shards.
    """
    if run.broadcast(run.is_complete("recover")):
        return run.path("images")
    if source is None and run.recipe.recover.reads_real:
        with run.accelerator.main_process_first():
            source = open_source(run.recipe.source, run.progress)
    run.begin()
    for kept in run.recipe.recover_folders:
        run.require(kept, "squeeze")
    matched = {each: teacher.load(run.path(each), run.device) for each in run.recipe.recover_folders}
    classifier, folder = matched["teacher"], run.path("images")
    _settle_stack(run, classifier)
    spec = run.recipe.recover
    found = {unit.name: unit for unit in recipe_units(spec, len(classifier.class_names), classifier.size)}
    goals = _look_at_real_images(run, matched, source, list(found.values()))
    with (
        Objective(list(matched.values()), spec, run.engine, run.recipe.seed, goals) as objective,
        Work(run, "recover", dict.fromkeys(found, spec.iterations), "it") as work,
    ):
        if spec.bn_weight == "auto":
            run.print(f"recover: BatchNorm weight {', '.join(f'{member.weight:.4g}' for member in objective.members)}")
        for name in work:
            unit = found[name]
            start = read_patches(run.path(PATCHES), unit.ipcs, unit.classes) if spec.patches is not None else None
            steps = synthesize(objective, unit, run.recipe.seed, start)
            history = History(spec.iterations, frames=name == next(iter(found)))
            last = next(steps)  # what it begins with
            history.see(0, last.terms, partial(first_images, last.x, unit, classifier))
            for last in work.steps(steps):  # noqa: B020
                history.see(last.iteration, last.terms, partial(first_images, last.x, unit, classifier))
            require_finite(last.x.sum(), f"recover, unit {name}", "recover.lr")
            files = [folder / f"{name}.parquet", run.path("history", f"{name}.safetensors")]
            save_unit(files[0], last.x, unit, classifier)
            history.save(files[1])
            work.done(files, **{term: float(value.mean()) for term, value in last.terms.items()})
    return folder


def _look_at_real_images(
    run: Run, matched: dict[str, Classifier], source: Source | None, found: list[Unit]
) -> list[Statistics] | None:
    """Cut the patches and measure the statistics that the recipe asks for; gives the latter, a teacher's each."""
    spec, goals = run.recipe.recover, None
    if not spec.reads_real:
        return None
    assert source is not None and source.train is not None
    if spec.patches is not None:
        class_blocks = [unit.classes for unit in found if unit.ipcs.start == 0]
        cut_patches(run, matched["teacher"], source.train, class_blocks)
    if spec.statistics == "class":
        kept = measure_statistics(run, matched, source.train)
        goals = [load_statistics(kept / f"{each}.safetensors", run.device) for each in matched]
    return goals


def _settle_stack(run: Run, classifier: Classifier) -> None:
    """Resolve `recover.stack: auto` once, and keep it in the run's recipe."""
    spec = run.recipe.recover
    if spec.stack == "auto":
        stack = stack_of(spec, len(classifier.class_names), classifier.size)
        run.recipe = replace(run.recipe, recover=replace(spec, stack=stack))
        if run.is_main:
            run.keep_recipe()


def save_unit(file: Path, x: Tensor, unit: Unit, classifier: Classifier) -> None:
    pixels = unit.turned(to_uint8(x, classifier)).flatten(0, 1)
    labels = list(unit.classes) * len(unit.ipcs)
    with atomic_write(file) as temporary:
        write_parquet(temporary, [encode_png(image) for image in pixels], labels, classifier.class_names)
