"""Continual learning on condensed images: classes arrive in steps, and only a small memory of them is kept.

    srel-hub continual runs/quickstart --steps 5
    accelerate launch -m srel_hub continual runs/cifar10_ipc10 --steps 5 --labels all --seeds 3

The setting is class-incremental, as in GDumb (Prabhu et al., 2020): after each step a student (the first of
`evaluate.students`) is trained from scratch on the memory of all classes seen so far, and evaluated on the real eval
images of these classes (SRe2L, section 3.7). The memory is either the condensed images of the run or the same number
of random real images, each with soft labels or with class labels only. The stored soft labels are not used, because
their views may be mixed with images of later classes. Soft labels are computed in every epoch instead, on views of the
memory's own images.

`--labels` sets how much the soft labels reveal about future classes:

    step   nothing: at every step a teacher is trained on the real images of the classes seen so far
    seen   the run's teacher, only its logits of the classes seen so far; its features were trained on all classes
    all    the run's teacher with its logits of all classes, so that labels and student outputs leak information about
           future classes; this is what the official code of SRe2L does

In all three cases the condensed images were recovered from a network that was trained on all classes.

Results are in a folder of the run's `continual/`: a file for each training, a table, a CSV file and a plot. The same
command resumes an interrupted study.
"""

from dataclasses import asdict
from pathlib import Path

import torch

from srel_hub.config import Recipe, fingerprint
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
from srel_hub.studies.continual.protocol import Setting, memory_names, rows_of_classes
from srel_hub.studies.continual.results import summarize, write_results
from srel_hub.studies.continual.trainer import ContinualTrainer
from srel_hub.teachers.classifier import load_classifiers


LARGEST_ORDER = 2**32 - 1  # the largest seed of numpy's RandomState


def continual(run: Run, setting: Setting) -> Path:
    """Run all trainings that are not complete yet, then write and print the table.

    Args:
        run: A run whose squeeze and recover are complete.
        setting: The options of the study.

    Returns:
        The folder of results.

    Raises:
        UserError: If a stage of the run is missing, or the setting does not fit the run's classes.
    """
    _require_options(setting)
    _require_complete(run, run.recipe)
    with run.accelerator.main_process_first():
        source = open_source(run.recipe.source, run.progress)
    classifiers = load_classifiers([run.path(name) for name in run.recipe.label_folders], run.device)
    if source.eval is None or source.train is None:
        raise UserError(
            "continual learning needs source.train_split, for random real memories, and source.eval_split; set both"
        )
    require_same_data(run.path("teacher"), source, classifiers[0].class_names)
    _require_classes(setting, source, classifiers[0].class_names)
    _require_no_teacher_of_all_classes(setting, run.recipe)
    run.begin()
    spec = run.recipe.evaluate
    folder = results_folder(run, setting)
    folder.mkdir(parents=True, exist_ok=True)
    trainer = ContinualTrainer(run, setting, source, classifiers, folder)
    if setting.labels == "step":
        trainer.teachers.train_missing()
    memories = memory_names(spec)
    trainings = {f"{folder.name}-{training.name}": training for training in setting.trainings(memories)}
    with WorkQueue(run, "continual", dict.fromkeys(trainings, spec.epochs), "epoch") as work:
        for name in work:
            trainer.train(trainings[name], work)
    if run.is_main:
        with run.locked("continual"):
            write_results(summarize(setting, memories, folder), folder)
        _clear_cache(run)
    return folder


def results_folder(run: Run, setting: Setting) -> Path:
    """Return the folder of results. Its name depends on everything that affects them, except the number of seeds.

    The results are affected by the recipe, the student, the order of classes, and the files of squeeze and recover. A
    later call with more seeds adds to the same folder.
    """
    recipe = run.recipe
    files = {
        unit: run.marks.digests(stage, unit)
        for stage in ("squeeze", "recover")
        for unit in sorted(run.marks.units(stage))
    }
    key = fingerprint([fields_that_decide(recipe), asdict(recipe.evaluate.students[0]), files, setting.order])[:8]
    return run.path("continual", f"{setting.steps}-steps-{setting.labels}-{key}")


def _clear_cache(run: Run) -> None:
    """Remove decoded images, unless an incomplete stage or another launch may need them."""
    is_alone = all(other.get("launch") == run.launch for other in other_processes(run.folder))
    if is_alone and all(is_finished(run.folder, stage) for stage in STAGES):
        with run.locked("cache"):
            clear(run)


def _require_complete(run: Run, recipe: Recipe) -> None:
    for folder in recipe.label_folders:
        if not run.is_done(stage_of(folder), folder):
            raise UserError(
                f"{run.path(folder)} is missing, or was made with another recipe; run `srel-hub squeeze` first"
            )
    if "recover" in run.outdated or not is_finished(run.folder, "recover"):
        raise UserError(
            f"{run.path('images')} is incomplete, or was made with another recipe; run `srel-hub recover` first"
        )


def _require_options(setting: Setting) -> None:
    if setting.seeds < 1:
        raise UserError(f"--seeds={setting.seeds}: must be at least 1")
    if not 0 <= setting.order <= LARGEST_ORDER:
        raise UserError(f"--order={setting.order}: must be 0 to {LARGEST_ORDER}")


def _require_classes(setting: Setting, source: Source, class_names: tuple[str, ...]) -> None:
    count = len(class_names)
    if count < 4:
        raise UserError(f"continual learning needs at least 4 classes, for two steps of two; the dataset has {count}")
    if not 2 <= setting.steps <= count // 2:
        raise UserError(
            f"--steps={setting.steps}: must be from 2 to {count // 2}: "
            f"each step needs at least two of the {count} classes"
        )
    assert source.eval is not None
    first = setting.seen(count)[0]
    if not len(rows_of_classes(source.eval.labels, torch.tensor(first))):
        names = ", ".join(class_names[index] for index in first[:3])
        raise UserError(
            f"--order={setting.order}: the eval split has no image of the first step's classes ({names}); choose "
            "another order"
        )


def _require_no_teacher_of_all_classes(setting: Setting, recipe: Recipe) -> None:
    """Raise an error if `--labels=step` would train teachers although the recipe sets a pretrained teacher."""
    pretrained = {
        "squeeze.pretrained": recipe.squeeze.pretrained,
        "relabel.teacher": recipe.relabel.teacher,
        "relabel.committee": recipe.relabel.committee,
    }
    fields = [field for field, value in pretrained.items() if value]
    if setting.labels == "step" and fields:
        raise UserError(
            f"--labels=step trains a teacher at every step, but {fields[0]} sets a teacher that was trained on all "
            "classes; use --labels=seen or --labels=all"
        )
