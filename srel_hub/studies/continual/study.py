"""Continual learning on condensed images: classes come in steps, and a small memory is all that is kept of them.

    srel-hub continual runs/quickstart --steps 5
    accelerate launch -m srel_hub continual runs/cifar10_ipc10 --steps 5 --labels all --seeds 3

Class-incremental, in the manner of GDumb (Prabhu et al., 2020): after each step a student, the first of
`evaluate.students`, is trained from scratch on the memory of all classes seen so far, and scored on their real eval
images (SRe2L, section 3.7). The memory is the run's condensed images, or as many random real ones, with labels or with
the classes alone. Labels are not the stored ones, whose views may be mixed with images of later classes: they are
asked for anew, in every epoch, on views of the memory's own images.

What may the labels know of classes that have not come yet?

    step   nothing: at every step a teacher is trained anew, on the real images of the classes seen so far
    seen   the run's teacher labels, but only its logits of the classes seen so far are used; its features come from a
           training on all classes
    all    the run's teacher, with its logits of all classes, future ones included, among which the student must then
           choose; what the official code of SRe2L does

With all three, the condensed images themselves were recovered from a network that was trained on all classes.

Leaves a folder in the run's `continual/`: a file for each training, a table, CSV and plot. What is done is kept.
"""

from dataclasses import asdict
from pathlib import Path

import torch

from srel_hub.config import fingerprint
from srel_hub.data.sources import Source, open_source
from srel_hub.errors import UserError
from srel_hub.runs.completion import STAGES
from srel_hub.runs.decoded_images import clear
from srel_hub.runs.heartbeat import other_processes
from srel_hub.runs.resume import fields_that_decide
from srel_hub.runs.run import Run
from srel_hub.runs.shared_stages import is_finished
from srel_hub.runs.work_queue import WorkQueue
from srel_hub.stages.inputs import require_same_data, stage_of
from srel_hub.studies.continual.protocol import Setting, memories, rows_of
from srel_hub.studies.continual.results import conclude, summarize
from srel_hub.studies.continual.trainer import World
from srel_hub.teachers.classifier import load_classifiers


LARGEST_ORDER = 2**32 - 1  # numpy's largest seed


def continual(run: Run, setting: Setting) -> Path:
    """All trainings that are not done yet, then the table.

    Returns:
        the folder of results.

    Raises:
        UserError: where the run lacks what is needed, or the setting cannot be.
    """
    _require_made(run)
    with run.accelerator.main_process_first():
        source = open_source(run.recipe.source, run.progress)
    classifiers = load_classifiers([run.path(name) for name in run.recipe.label_folders], run.device)
    _require(run, setting, source, classifiers[0].class_names)
    run.begin()
    folder = folder_of(run, setting)
    folder.mkdir(parents=True, exist_ok=True)
    world = World(run, setting, source, classifiers, folder)
    if setting.labels == "step":
        world.teachers.train_missing()
    found = {f"{folder.name}-{each.name}": each for each in setting.trainings(memories(run.recipe.evaluate))}
    with WorkQueue(run, "continual", dict.fromkeys(found, run.recipe.evaluate.epochs), "epoch") as work:
        for name in work:
            world.train(found[name], work)
    if run.is_main:
        with run.locked("continual"):
            conclude(summarize(setting, memories(run.recipe.evaluate), folder), folder)
        _clear(run)
    return folder


def folder_of(run: Run, setting: Setting) -> Path:
    """Where results are kept, whatever the number of seeds: by all else that decides them, which is the recipe, the
    student, the order, and the files that squeeze and recover left.
    """
    made = {
        unit: run.marks.digests(stage, unit)
        for stage in ("squeeze", "recover")
        for unit in sorted(run.marks.units(stage))
    }
    key = fingerprint([fields_that_decide(run.recipe), asdict(run.recipe.evaluate.students[0]), made, setting.order])[
        :8
    ]
    return run.path("continual", f"{setting.steps}-steps-{setting.labels}-{key}")


def _clear(run: Run) -> None:
    """Remove decoded images, unless an unfinished stage or another launch may need them."""
    alone = all(other.get("launch") == run.launch for other in other_processes(run.folder))
    if alone and all(is_finished(run.folder, stage) for stage in STAGES):
        with run.locked("cache"):
            clear(run)


def _require_made(run: Run) -> None:
    for folder in run.recipe.label_folders:
        if not run.is_done(stage_of(folder), folder):
            raise UserError(f"{run.path(folder)}: is not made yet, or not by this recipe; run squeeze first")
    if "recover" in run.outdated or not is_finished(run.folder, "recover"):
        raise UserError(f"{run.path('images')}: are not all made yet, or not by this recipe; run recover first")


def _require(run: Run, setting: Setting, source: Source, class_names: tuple[str, ...]) -> None:
    if setting.seeds < 1:
        raise UserError(f"--seeds={setting.seeds}: must be at least 1")
    if not 0 <= setting.order <= LARGEST_ORDER:
        raise UserError(f"--order={setting.order}: must be 0 to {LARGEST_ORDER}")
    if source.eval is None or source.train is None:
        raise UserError("continual learning needs source.train_split, for random real memories, and source.eval_split")
    require_same_data(run.path("teacher"), source, class_names)
    count = len(class_names)
    if count < 4:
        raise UserError(f"continual learning needs 4 classes, for two steps of two; there are {count}")
    if not 2 <= setting.steps <= count // 2:
        raise UserError(f"--steps={setting.steps}: must be 2 to {count // 2}, for {count} classes, two at least a step")
    first = setting.seen(count)[0]
    if not len(rows_of(source.eval.labels, torch.tensor(first))):
        named = ", ".join(class_names[index] for index in first[:3])
        raise UserError(f"--order={setting.order}: the eval split has no image of the first step's classes ({named})")
    squeeze, relabel = run.recipe.squeeze, run.recipe.relabel
    given = {
        "squeeze.pretrained": squeeze.pretrained,
        "relabel.teacher": relabel.teacher,
        "relabel.committee": relabel.committee,
    }
    told = [name for name, value in given.items() if value]
    if setting.labels == "step" and told:
        raise UserError(
            f"--labels=step: trains a teacher at every step, and {told[0]} names one that knows all classes; use seen "
            "or all"
        )
