"""Preflight: gather and check everything that a run needs, and report all mistakes together before it starts."""

import sys
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn
from tqdm import tqdm

from srel_hub import config
from srel_hub.config import Pretrained, Publish, Recipe
from srel_hub.data.class_names import require_usable_names
from srel_hub.data.given_images import open_given
from srel_hub.data.overview import look_at, overview_lines
from srel_hub.data.sources import Source, add_builtin_metadata, open_source
from srel_hub.errors import ErrorCollector, UnavailableError, UserError
from srel_hub.hub.permission import require_permission
from srel_hub.runs.run import Run
from srel_hub.stages.inputs import Adopted, Inputs, image_size, require_same_data, stage_of, teacher_specs
from srel_hub.stages.preflight import data_checks, disk_check, recipe_checks
from srel_hub.stages.preflight.class_fit import fit_classes
from srel_hub.stages.preflight.gathered import Gathered, Opened
from srel_hub.storage.decode import Frame
from srel_hub.teachers import classifier as classifiers
from srel_hub.teachers.class_subset import with_columns
from srel_hub.teachers.classifier import Classifier
from srel_hub.teachers.cost_model import build_on_meta, on_meta
from srel_hub.teachers.pretrained import load_pretrained, require_usable_classifier, with_size


CHECKS: tuple[Callable[[Gathered], list[str]], ...] = (
    data_checks.one_image_size,
    recipe_checks.patches_that_divide_images,
    recipe_checks.groups_with_batchnorm,
    recipe_checks.networks_that_fit,
    recipe_checks.recover_sizes,
    data_checks.enough_real_patches,
    recipe_checks.batches_to_share,
    disk_check.free_disk,
)

# These decode images, or run networks on them, so they come last and only if nothing else is wrong.
SLOW_CHECKS: tuple[Callable[[Gathered], list[str]], ...] = (
    data_checks.assumed_class_order,
    data_checks.given_image_size,
)


def prepare(run: Run, pushes: bool = False, writes: bool = True, shows: bool = False) -> Inputs:
    """Gather and check everything that a run needs.

    Args:
        run: The run, before `begin`.
        pushes: Whether the result will be pushed, so that license, token and repositories are checked too.
        writes: Whether the run will write, so that free disk space is checked too.
        shows: Whether to print the table of the dataset before the checks that take time.

    Raises:
        UserError: If anything is wrong. The message lists all mistakes.
        UnavailableError: If the result is to be pushed and the Hub cannot be reached.
    """
    problems = ErrorCollector()
    publish = run.recipe.publish if pushes else Publish()
    with problems.collect():
        for remark in require_permission(publish, add_builtin_metadata(run.recipe.source), run.recipe.recover.images):
            tqdm.write(remark, file=sys.stderr)
    gathered = gather(run.recipe, run, writes, problems, shows)
    for checks in (CHECKS, SLOW_CHECKS):
        for check in checks:
            problems.extend(check(gathered))
        problems.raise_all()
    return gathered.inputs


def gather(recipe: Recipe, run: Run, writes: bool, problems: ErrorCollector, shows: bool = False) -> Gathered:
    """Open the source and the teachers, and derive class names, image size and networks from them.

    Args:
        recipe: The resolved recipe.
        run: The run, which may already have finished teachers.
        writes: Whether the run will write.
        problems: The collector of all errors.
        shows: Whether to print the table of the dataset.

    Raises:
        UserError: If too much is missing for the remaining checks.
    """
    source, opened = _open(recipe, run, problems, shows)
    frame = image_frame(recipe.source, opened.get("teacher"))
    names = source.class_names
    if run.is_done("squeeze", "teacher"):
        finished = classifiers.load(run.path("teacher"), torch.device("cpu"))
        require_same_data(run.path("teacher"), source, finished.class_names)
        names, frame = finished.class_names, finished.frame
    adopted, unproven = dict[str, Adopted](), dict[str, Classifier]()
    trust = recipe.squeeze.trust_class_order
    for folder, teacher in opened.items():
        with problems.collect():
            own, wanted = teacher.classifier, recipe.source.classes
            ordered, remark = data_checks.in_order_of(own, source.whole_names or names, teacher.title)
            fit = fit_classes(ordered.class_names, names, wanted, source, teacher.title, trust)
            require_usable_names(fit.class_names, teacher.title)
            fitted = replace(ordered, class_names=fit.class_names)
            fitted = fitted if fit.columns is None else with_columns(fitted, fit.columns)
            names, fitted = fitted.class_names, framed(fitted, frame or Frame(image_size(source, None)))
            require_usable_classifier(fitted, teacher.title)
            adopted[folder] = Adopted(fitted, teacher.origin, remark)
            unproven |= {teacher.title: fitted} if fit.is_assumed else {}
    if names is None:
        problems.raise_all()
    assert names is not None, "without names, a problem was collected"
    given = None
    if recipe.recover.images is not None and not run.is_complete("recover"):
        selects = recipe.source.classes is not None
        with problems.collect():
            given = open_given(recipe.recover.images, names, selects, recipe.recover.ipc, run.progress)
            run.set_ipc(given.ipc)
            recipe = run.recipe
    inputs = Inputs(source, names, frame, adopted, given)
    return Gathered(
        recipe=recipe,
        inputs=inputs,
        opened=opened,
        unproven=unproven,
        trainable=_trainable_networks(recipe, inputs, problems),
        network_of=lambda folder: _meta_network(folder, recipe, inputs, run),
        trains_teacher=recipe.squeeze.pretrained is None and not run.is_done("squeeze", "teacher"),
        folder=run.folder if writes else None,
        processes=run.accelerator.num_processes,
        device=run.device,
    )


def _open(recipe: Recipe, run: Run, problems: ErrorCollector, shows: bool) -> tuple[Source, dict[str, Opened]]:
    """Open the source, and the pretrained teachers that the run does not have yet.

    Raises:
        UserError: If the source, or the network to recover from, cannot be opened.
    """
    source, opened = None, dict[str, Opened]()
    with problems.collect():
        source = open_source(recipe.source, run.progress, recipe.opens_train)
        if shows and run.is_main:
            print("\n".join(overview_lines(look_at(source, recipe.source, run.progress))))
    missing: dict[str, tuple[Pretrained | None, str]] = {
        folder: spec for folder, spec in teacher_specs(recipe).items() if not run.is_done(stage_of(folder), folder)
    }
    for folder, (spec, field) in missing.items():
        if spec is not None:
            with problems.collect():
                network = recipe.squeeze.network if folder == "teacher" else None  # whose weights a file may have
                classifier, origin = load_pretrained(spec, field, network)
                opened[folder] = Opened(classifier, origin, f"{field}={origin.path}")
    problems.extend(recipe_checks.batchnorm_to_match(recipe, opened))
    failed = recipe.squeeze.pretrained is not None and "teacher" in missing and "teacher" not in opened
    if source is None or failed:
        problems.raise_all()
    assert source is not None, "without a source, a problem was collected"
    return source, opened


def image_frame(spec: config.Source, teacher: Opened | None) -> Frame | None:
    """Return the frame for the recipe's image size, else the pretrained teacher's frame, else None (no resizing)."""
    side = spec.image_size
    if teacher is None:
        return None if side is None else Frame((side, side))
    return teacher.classifier.frame if side is None else with_size(teacher.classifier, side).frame


def framed(classifier: Classifier, frame: Frame) -> Classifier:
    """Return the classifier with `frame` as the frame of its images."""
    return replace(classifier, size=frame.size, resize=frame.resize, resample=frame.resample)


def _trainable_networks(recipe: Recipe, inputs: Inputs, problems: ErrorCollector) -> dict[str, nn.Module]:
    """Build the networks that the run will train, without weights, by the field that names them."""
    fields = {} if recipe.squeeze.pretrained is not None else {"squeeze.network": recipe.squeeze.network}
    if inputs.source.eval is not None:
        fields |= {f"evaluate.students.{index}": student for index, student in enumerate(recipe.evaluate.students)}
    networks = {}
    for field, network in fields.items():
        with problems.collect():
            name = f"{field}.{'factory' if network.factory else 'model'}={network.model}"
            try:
                networks[name] = build_on_meta(network, len(inputs.class_names), inputs.size)
            except (UserError, UnavailableError) as error:
                raise type(error)(name + str(error).removeprefix(network.model)) from None
    return networks


def _meta_network(folder: str, recipe: Recipe, inputs: Inputs, run: Run) -> nn.Module:
    """Return the network of a teacher's folder on the meta device, whether it is adopted, finished or to be trained."""
    if folder in inputs.adopted:
        return on_meta(inputs.adopted[folder].classifier.model)
    if teacher_specs(recipe)[folder][0] is None:
        return build_on_meta(recipe.squeeze.network, len(inputs.class_names), inputs.size)
    return on_meta(classifiers.load(run.path(folder), torch.device("cpu")).model)
