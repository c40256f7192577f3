"""What a run needs, found and checked together, so that a mistake is told before anything is spent."""

import sys
from dataclasses import dataclass, replace

import torch
from torch.nn.modules.batchnorm import _BatchNorm
from tqdm import tqdm

from srel_hub.config import Pretrained, Publish, Recipe, Squeeze
from srel_hub.core.optim import batch_count
from srel_hub.data.sources import Source, add_builtin_metadata, open_source
from srel_hub.errors import ErrorCollector, UserError, first_line
from srel_hub.hub.push import require_permission
from srel_hub.runs.completion import Stage
from srel_hub.runs.run import Run
from srel_hub.stages.preflight.data_checks import (
    agree,
    require_accuracy,
    require_disk,
    require_one_size,
    require_same_data,
)
from srel_hub.stages.recover.patches import require_enough
from srel_hub.storage.decode import Frame, scale_shorter_side
from srel_hub.teachers import classifier as teacher
from srel_hub.teachers.architectures import require_usable
from srel_hub.teachers.classifier import Classifier
from srel_hub.teachers.cost_model import build_on_meta, on_meta, weights_bytes
from srel_hub.teachers.pretrained import (
    Origin,
    load_pretrained,
    require_batchnorm,
    require_usable_classifier,
    with_size,
)


@dataclass(frozen=True)
class Adopted:
    """A pretrained teacher that fits: it has the dataset's class names and the images' size."""

    classifier: Classifier
    origin: Origin


@dataclass(frozen=True)
class Prepared:
    """What the stages need.

    Attributes:
        class_names: of the condensed dataset, in its order.
        frame: how a real image becomes one of the dataset's size; None leaves images as they are.
        adopted: pretrained teachers by the run's folder that they are kept in; those that are there are left out.
    """

    source: Source
    class_names: tuple[str, ...]
    frame: Frame | None
    adopted: dict[str, Adopted]


def teachers(recipe: Recipe) -> dict[str, tuple[Pretrained | None, str]]:
    """The run's folders of teachers, each with what is adopted there (None: trained) and the recipe's name for it."""
    wanted = {"teacher": (recipe.squeeze.pretrained, "squeeze.pretrained")}
    for index, spec in enumerate(recipe.recover.teachers):
        wanted[f"recover_teacher-{index + 1}"] = (spec, f"recover.teachers.{index}")
    if recipe.relabel.teacher is not None:
        wanted["label_teacher"] = (recipe.relabel.teacher, "relabel.teacher")
    for index, spec in enumerate(recipe.relabel.committee):
        wanted[f"label_committee-{index + 1}"] = (spec, f"relabel.committee.{index}")
    return wanted


def stage_of(folder: str) -> Stage:
    """The stage that a teacher is part of: whoever labels belongs to relabel, whom images match besides to recover."""
    if folder == "teacher":
        return "squeeze"
    return "recover" if folder.startswith("recover_") else "relabel"


def prepare(run: Run, pushes: bool = False, writes: bool = True) -> Prepared:
    """Open the source and the pretrained teachers, and check them, each other and the disk.

    Args:
        pushes: whether the result will be pushed, so that license, token and repositories are looked at too.
        writes: whether the run will write here, so that the disk is looked at too.

    Raises:
        UserError: with every fault at once.
        UnavailableError: where the Hub is to get the result and cannot be reached.
    """
    faults = ErrorCollector()
    with faults.collect():
        publish = run.recipe.publish if pushes else Publish()
        for remark in require_permission(publish, add_builtin_metadata(run.recipe.source).license):
            tqdm.write(remark, file=sys.stderr)
    source, opened = _open(run, faults)
    begun = run.is_done("squeeze", "teacher")
    names, frame = source.class_names, image_frame(run.recipe, opened.get("teacher"))
    if begun:
        kept = teacher.load(run.path("teacher"), torch.device("cpu"))
        require_same_data(run, source, kept.class_names)
        names, frame = kept.class_names, kept.frame
    adopted, assumed = dict[str, Adopted](), dict[str, Classifier]()
    for folder, (classifier, origin) in opened.items():
        with faults.collect():
            who = f"{teachers(run.recipe)[folder][1]}={origin.path}"
            names, unproven = agree(classifier.class_names, names, who, run.recipe.squeeze.trust_class_order)
            fitted = framed(replace(classifier, class_names=names), frame or Frame(first_size(source)))
            require_usable_classifier(fitted, who)
            adopted[folder] = Adopted(fitted, origin)
            assumed |= {who: fitted} if unproven else {}
    with faults.collect():
        if frame is None:
            require_one_size(source)
    with faults.collect():
        require_patches(run.recipe, frame.size if frame else first_size(source))
    with faults.collect():
        require_groups(run.recipe, opened)
    faults.raise_all()
    assert names is not None
    require_networks(run.recipe, source, len(names), frame.size if frame else first_size(source), faults)
    faults.raise_all()
    with faults.collect():
        require_sizes(run, adopted, len(names), frame.size if frame else first_size(source))
    with faults.collect():
        if source.train is not None and run.recipe.recover.patches is not None:
            require_enough(source.train.labels, names, run.recipe.recover.patches, run.recipe.recover.ipc)
    with faults.collect():
        if source.train is not None:
            require_shares(run.recipe.squeeze, len(source.train.labels), run.accelerator.num_processes)
    if writes:
        with faults.collect():
            size = frame.size if frame else first_size(source)
            require_disk(run, source, len(names), size, _weights(run, adopted, len(names), size))
    for who, classifier in assumed.items():
        with faults.collect():
            require_accuracy(replace(classifier, model=classifier.model.to(run.device)), source.eval, who)
    faults.raise_all()
    return Prepared(source, names, frame, adopted)


def _open(run: Run, faults: ErrorCollector) -> tuple[Source, dict[str, tuple[Classifier, Origin]]]:
    """The source, and the pretrained teachers that the run does not hold yet.

    Raises:
        UserError: where the source or the network to recover from cannot be opened, and the rest not be compared.
    """
    source, opened, recipe = None, dict[str, tuple[Classifier, Origin]](), run.recipe
    with faults.collect():
        source = open_source(recipe.source, run.progress, recipe.opens_train)
    wanted = {folder: what for folder, what in teachers(recipe).items() if not run.is_done(stage_of(folder), folder)}
    for folder, (spec, field) in wanted.items():
        if spec is not None:
            with faults.collect():
                opened[folder] = load_pretrained(spec, field)
    for folder in recipe.recover_folders:
        if folder in opened:
            with faults.collect():
                require_batchnorm(opened[folder][0].model, f"{teachers(recipe)[folder][1]}={opened[folder][1].path}")
    failed = recipe.squeeze.pretrained is not None and "teacher" in wanted and "teacher" not in opened
    if source is None or failed:
        faults.raise_all()
    assert source is not None
    return source, opened


def _weights(run: Run, adopted: dict[str, Adopted], num_classes: int, size: tuple[int, int]) -> int:
    """Bytes of the teachers that are still to be saved."""
    networks = [each.classifier.model for each in adopted.values()]
    if run.recipe.squeeze.pretrained is None and not run.is_done("squeeze", "teacher"):
        networks.append(build_on_meta(run.recipe.squeeze.network, num_classes, size))
    return sum(weights_bytes(network) for network in networks)


def require_shares(spec: Squeeze, count: int, processes: int) -> None:
    """Refuse a launch of which each process would train on a single image of a batch."""
    if spec.pretrained is None and processes > 1 and count // batch_count(count, spec.batch_size) < 2 * processes:
        raise UserError(
            f"squeeze.batch_size={spec.batch_size}: {processes} processes share a batch, and BatchNorm needs two "
            f"images in each; set at least {2 * processes}, or start fewer processes"
        )


def require_patches(recipe: Recipe, size: tuple[int, int]) -> None:
    """Refuse images that cannot be cut into as many patches as the recipe shuffles."""
    for section, augment in (("squeeze", recipe.squeeze.augment), ("relabel", recipe.relabel.augment)):
        if size[0] % augment.patches or size[1] % augment.patches:
            raise UserError(
                f"{section}.augment.patches={augment.patches}: images of {size[1]} x {size[0]} pixels cannot be cut "
                "into as many equal patches a side"
            )


def require_sizes(run: Run, adopted: dict[str, Adopted], num_classes: int, size: tuple[int, int]) -> None:
    """Refuse stages of recover at sizes that a teacher cannot see, or that do not end at the images' own."""
    sides = run.recipe.recover.sizes
    if sides and (sides[-1] != min(size) or max(sides) > min(size)):
        raise UserError(
            f"recover.sizes={list(sides)}: the last must be the images' shorter side, {min(size)}, and none larger"
        )
    for folder, (spec, field) in teachers(run.recipe).items():
        for side in set(sides) - {min(size)} if folder in run.recipe.recover_folders else ():
            if folder in adopted:
                network = on_meta(adopted[folder].classifier.model)
            elif spec is None:
                network = build_on_meta(run.recipe.squeeze.network, num_classes, size)
            else:
                network = on_meta(teacher.load(run.path(folder), torch.device("cpu")).model)
            try:
                network.eval()(torch.empty(1, 3, *scale_shorter_side(size, side), device="meta"))
            except (RuntimeError, ValueError) as error:
                who = "squeeze.network" if spec is None else f"{field}={spec.path}"
                raise UserError(
                    f"recover.sizes={list(sides)}: {who} takes images of {min(size)} pixels only "
                    f"({first_line(error)}); leave the field out"
                ) from None


def require_networks(
    recipe: Recipe, source: Source, num_classes: int, size: tuple[int, int], faults: ErrorCollector
) -> None:
    """Collect faults of networks that are to be trained: they must be there, take the images, and squeeze's have
    BatchNorm."""
    asked = {} if recipe.squeeze.pretrained is not None else {"squeeze.network": recipe.squeeze.network}
    if source.eval is not None:
        asked |= {f"evaluate.students.{index}": student for index, student in enumerate(recipe.evaluate.students)}
    for field, network in asked.items():
        with faults.collect():
            try:
                built = build_on_meta(network, num_classes, size)
            except UserError as error:
                raise UserError(f"{field}.model={error}") from None
            require_usable(built, num_classes, size, f"{field}.model={network.model}")
            if field == "squeeze.network":
                require_batchnorm(built, f"{field}.model={network.model}")


def require_groups(recipe: Recipe, opened: dict[str, tuple[Classifier, Origin]]) -> None:
    """Refuse to label by groups with a teacher whose answers cannot depend on them."""
    if recipe.relabel.group_size is not None and recipe.label_folder in opened:
        classifier, origin = opened[recipe.label_folder]
        if not any(isinstance(layer, _BatchNorm) for layer in classifier.model.modules()):
            raise UserError(
                f"relabel.group_size={recipe.relabel.group_size}: the teacher {origin.path} has no BatchNorm layer, "
                "so that its labels depend on no group; leave it out"
            )


def image_frame(recipe: Recipe, opened: tuple[Classifier, Origin] | None) -> Frame | None:
    """The recipe's size, else the pretrained teacher's, else the images' own."""
    side = recipe.source.image_size
    if opened is None:
        return None if side is None else Frame((side, side))
    return opened[0].frame if side is None else with_size(opened[0], side).frame


def framed(classifier: Classifier, frame: Frame) -> Classifier:
    """The classifier, for images of this frame."""
    return replace(classifier, size=frame.size, resize=frame.resize, resample=frame.resample)


def first_size(source: Source) -> tuple[int, int]:
    """Height and width of the first image."""
    split = source.train or source.eval
    assert split is not None
    return split.size
