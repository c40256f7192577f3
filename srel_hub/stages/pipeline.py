"""The stages as steps of a run: each takes its sections from the recipe and its inputs from the run directory.

Only these functions see a whole recipe. A step that is complete returns at once, and a step that is called alone
gathers its own inputs.
"""

from dataclasses import replace
from pathlib import Path

from srel_hub import config
from srel_hub.config import Recipe
from srel_hub.data.given_images import open_given
from srel_hub.data.sources import Source, open_source
from srel_hub.errors import UserError
from srel_hub.labels.read_manifest import read_manifest
from srel_hub.runs.decoded_images import condensed_images
from srel_hub.runs.run import Run
from srel_hub.stages import relabel as relabel_stage
from srel_hub.stages import squeeze as squeeze_stage
from srel_hub.stages.evaluate import stage as evaluate_stage
from srel_hub.stages.evaluate.summary import results_table
from srel_hub.stages.inputs import Inputs, require_same_data, stage_of, teacher_specs
from srel_hub.stages.preflight.data_checks import require_accuracy
from srel_hub.stages.preflight.prepare import prepare
from srel_hub.stages.recover import stage as recover_stage
from srel_hub.stages.recover.given import store_given
from srel_hub.stages.recover.units import stack_of
from srel_hub.storage.files import read_json
from srel_hub.teachers import classifier as classifiers
from srel_hub.teachers.classifier import Classifier


def squeeze(run: Run, inputs: Inputs | None = None) -> Path:
    """Train or adopt the teachers; return the folder of the teacher that images are recovered from."""
    recipe = run.recipe
    if run.broadcast(all(run.is_done(stage_of(folder), folder) for folder in teacher_specs(recipe))):
        return run.path("teacher")
    is_shown = inputs is not None  # `condense` has printed the remarks with the table of the dataset
    if inputs is None:
        with run.accelerator.main_process_first():
            inputs = prepare(run)
        run.begin()
    require_same_skipped(run, inputs.source)
    if run.is_main:
        for remark in inputs.source.remarks:
            (run.log.info if is_shown else run.print)(f"note: {remark}")
        changes = [adopted.remark for adopted in inputs.adopted.values() if adopted.remark is not None]
        for remark in (*changes, *squeeze_stage.few_images(inputs, recipe.recover.ipc)):
            run.print(f"note: {remark}")
    return squeeze_stage.squeeze(recipe.squeeze, inputs, run)


def recover(run: Run, source: Source | None = None) -> Path:
    """Recover the images; return the folder of their shards."""
    if run.broadcast(run.is_complete("recover")):
        return run.path("images")
    if run.recipe.recover.images is not None:
        return _store_given(run.recipe.recover.images, run)
    source = source if source is not None or not run.recipe.recover.reads_real else _open_source(run)
    run.begin()
    recipe = run.recipe
    for folder in recipe.recover_folders:
        run.require(folder, "squeeze")
    teachers = {folder: classifiers.load(run.path(folder), run.device) for folder in recipe.recover_folders}
    recipe = _resolve_stack(recipe, teachers["teacher"], run)
    train = None if source is None else source.train
    return recover_stage.recover(recipe.recover, teachers, train, run)


def relabel(run: Run) -> Path:
    """Label the images; return the folder of soft labels."""
    if run.broadcast(run.is_complete("relabel")):
        return run.path("soft_labels")
    run.begin()
    recipe = run.recipe
    for folder in recipe.label_folders:
        run.require(folder, "squeeze")
    run.require("images", "recover")
    teachers = [
        relabel_stage.LabelTeacher(folder, classifier, relabel_stage.teacher_digests(run.path(folder)))
        for folder, classifier in _label_teachers(recipe, run).items()
    ]
    return relabel_stage.relabel(recipe.relabel, teachers, condensed_images(run), recipe.publish.teacher, run)


def evaluate(run: Run, source: Source | None = None) -> Path:
    """Train and score students; return the folder of results."""
    if run.broadcast(run.is_complete("evaluate")):
        return run.path("evaluate")
    source = source or _open_source(run)
    run.begin()
    recipe = run.recipe
    for folder in recipe.label_folders:
        run.require(folder, "squeeze")
    run.require("images", "recover")
    run.require("soft_labels", "relabel")
    manifest = read_manifest(run.path("soft_labels", "manifest.json"))
    require_same_data(run.path("teacher"), source, manifest.class_names)
    teachers = list(_label_teachers(recipe, run).values())
    return evaluate_stage.evaluate(recipe.evaluate, teachers, manifest, source, run)


def evaluate_and_print(run: Run) -> None:
    """Train and score students, and print the results."""
    folder = evaluate(run)
    if run.is_main:
        print("\n".join(results_table(read_json(folder / "summary.json"))))


def _store_given(spec: config.GivenImages, run: Run) -> Path:
    run.begin()
    recipe = run.recipe
    run.require("teacher", "squeeze")
    teacher, selects = classifiers.load(run.path("teacher"), run.device), recipe.source.classes is not None
    with run.accelerator.main_process_first():
        given = open_given(spec, teacher.class_names, selects, recipe.recover.ipc, run.progress)
    if given.is_assumed and not recipe.squeeze.trust_class_order:
        require_accuracy(teacher, given.split, given.where, run.device, "images")
    return store_given(recipe.recover, given, teacher, run)


def _open_source(run: Run) -> Source:
    with run.accelerator.main_process_first():
        source = open_source(run.recipe.source, run.progress, run.recipe.opens_train)
    require_same_skipped(run, source)
    return source


def require_same_skipped(run: Run, source: Source) -> None:
    """Check that all processes of the launch leave out the same images. All of them call this together.

    Raises:
        UserError: If images can be read on some machines only.
    """
    if run.recipe.source.on_bad_image == "skip" and run.broadcast(source.skipped) != source.skipped:
        raise UserError(
            "source.on_bad_image=skip: this machine cannot read the same images as that of the main process; give all "
            "machines the same files and the same version of Pillow"
        )


def _label_teachers(recipe: Recipe, run: Run) -> dict[str, Classifier]:
    return {folder: classifiers.load(run.path(folder), run.device) for folder in recipe.label_folders}


def _resolve_stack(recipe: Recipe, classifier: Classifier, run: Run) -> Recipe:
    """Resolve `recover.stack: auto` once and store the value, which affects the order of floating-point sums."""
    spec = recipe.recover
    if spec.stack == "auto":
        stack = stack_of(spec, len(classifier.class_names), classifier.size)
        recipe = replace(recipe, recover=replace(spec, stack=stack))
        run.store_recipe(recipe)
    return recipe
