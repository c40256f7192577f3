"""Recover: optimize pixels until the teacher's predictions and BatchNorm statistics match (SRe2L, section 3.2).

Writes `images/`, one parquet shard for every unit of work: `stack` ipc indices of one block of classes, or all images
of `stack` classes where each class is matched to its own statistics. Writes `history/`, the loss curves of the units.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from torch import Tensor

from srel_hub import config
from srel_hub.core.optim import require_finite
from srel_hub.core.seeds import generator
from srel_hub.data.splits import Split, random_subset
from srel_hub.runs.decoded_images import source_images
from srel_hub.runs.run import Run
from srel_hub.runs.work_queue import WorkQueue
from srel_hub.stages.recover import class_statistics, patches
from srel_hub.stages.recover.class_statistics import Statistics
from srel_hub.stages.recover.objective import Objective
from srel_hub.stages.recover.optimize import Step, synthesize, to_uint8
from srel_hub.stages.recover.trace import CLASSES, Trace
from srel_hub.stages.recover.units import Unit, recipe_units
from srel_hub.storage.condensed_table import encode_png, write_parquet
from srel_hub.storage.files import atomic_write
from srel_hub.teachers.classifier import Classifier


# Times the cross-entropy, rounded as printed. It was 27 for an EfficientNet-Lite0 at the default weight of 0.01. It is
# 10.05 for the quickstart, whose images are good.
DOMINANT = 10


def recover(spec: config.Recover, teachers: Mapping[str, Classifier], train: Split | None, run: Run) -> Path:
    """Recover every unit that is not done yet.

    Args:
        spec: The recipe's section, with `stack` resolved.
        teachers: The networks to match, by their folder in the run, squeeze's teacher first.
        train: The real training split, if the recipe starts from real patches or matches class statistics.
        run: The run, after `begin`.

    Returns:
        The folder of image shards.
    """
    classifier = next(iter(teachers.values()))
    units = {unit.name: unit for unit in recipe_units(spec, len(classifier.class_names), classifier.size)}
    goals: list[Statistics] | None = None
    if spec.patches is not None:
        assert train is not None, "a recipe with patches names its training split"
        blocks = [unit.classes for unit in units.values() if unit.ipcs.start == 0]
        cut_patches(spec.patches, spec.ipc, classifier, train, blocks, run)
    if spec.statistics == "class":
        assert train is not None, "a recipe with class statistics names its training split"
        goals = measure_class_statistics(spec, teachers, train, run)
    with (
        Objective(list(teachers.values()), spec, run.engine, run.seed, goals) as objective,
        WorkQueue(run, "recover", dict.fromkeys(units, spec.iterations), "it") as work,
    ):
        if spec.bn_weight == "auto":
            run.print(
                "recover: BatchNorm weight chosen automatically: "
                f"{', '.join(f'{member.weight:.4g}' for member in objective.members)} (one per teacher)"
            )
        first = next(iter(units))
        for name in work:
            unit, start = units[name], None
            if spec.patches is not None:
                start = patches.read_patches(run.path(patches.FOLDER), unit.ipcs, unit.classes)
            steps: Iterable[Step] = synthesize(objective, unit, run.seed, start)
            trace = Trace(spec.iterations, frames=name == first)
            if name == first:
                steps = _warned(steps, spec, run.print)
            step = _record(trace, work, steps, unit, classifier)
            require_finite(step.x.sum(), f"recover, part {name}", "recover.lr")
            files = [run.path("images", f"{name}.parquet"), run.path("history", f"{name}.safetensors")]
            save_images(files[0], step.x, unit, classifier)
            trace.save(files[1])
            work.done(files, **{term: float(value.mean()) for term, value in step.terms.items()})
    return run.path("images")


def _warned(steps: Iterable[Step], spec: config.Recover, say: Callable[[str], None]) -> Iterator[Step]:
    """Yield the steps, and warn after the first iteration if the BatchNorm term dominates."""
    for step in steps:
        yield step
        if step.iteration == 1 and spec.bn_weight != "auto":
            ratio = spec.bn_weight * float(step.terms["bn"].mean() / step.terms["cross_entropy"].mean())
            if round(ratio) > DOMINANT:
                say(
                    f"warning: recover.bn_weight={spec.bn_weight:g}: the BatchNorm term is {round(ratio)} times the "
                    "cross-entropy, so the images may not show their classes; set recover.bn_weight=auto"
                )


def _record(trace: Trace, work: WorkQueue, steps: Iterable[Step], unit: Unit, classifier: Classifier) -> Step:
    """Run an optimization to its end, recording its trace; return the last step."""
    iterator = iter(steps)
    step = next(iterator)  # the start, which is no iteration
    trace.record(0, step.terms, partial(first_images, step.x, unit, classifier))
    for step in work.steps(iterator):  # noqa: B020 (the last step is the result)
        trace.record(step.iteration, step.terms, partial(first_images, step.x, unit, classifier))
    return step


def cut_patches(
    spec: config.Patches, ipc: int, classifier: Classifier, train: Split, blocks: Sequence[range], run: Run
) -> None:
    """Choose the real patches of every class and write them to `patches/`, unless they already exist.

    Args:
        spec: The recipe's section.
        ipc: Images per class.
        classifier: The teacher, which scores the candidates.
        train: The real training split.
        blocks: The classes of each file.
        run: The run.
    """
    units = {patches.unit_name(block): block for block in blocks}
    draw = generator(run.seed, "recover", patches.FOLDER)
    rows = random_subset(train.labels, spec.images, len(classifier.class_names), draw)
    images = source_images(run, train, classifier.frame, rows)
    candidates = patches.Candidates(images.pixels, images.labels, rows)
    with WorkQueue(run, patches.FOLDER, {name: len(block) for name, block in units.items()}, "class") as work:
        for name in work:
            block = units[name]
            chosen = list(work.steps(patches.choose_patches(classifier, candidates, block, spec, ipc, run.seed)))
            work.done(patches.save_patches(run.path(patches.FOLDER), block, chosen, classifier))


def measure_class_statistics(
    spec: config.Recover, teachers: Mapping[str, Classifier], train: Split, run: Run
) -> list[Statistics]:
    """Measure every teacher's class statistics and write them to `statistics/`, unless they already exist.

    Returns:
        The statistics of every teacher, on the device.
    """
    first = next(iter(teachers.values()))
    K = len(first.class_names)
    draw = generator(run.seed, "recover", class_statistics.FOLDER)
    rows = random_subset(train.labels, spec.statistics_images, K, draw)
    images = source_images(run, train, first.frame, rows)
    members = [(images.labels == label).nonzero()[:, 0] for label in range(K)]
    files = {folder: run.path(class_statistics.FOLDER, f"{folder}.safetensors") for folder in teachers}
    with WorkQueue(run, class_statistics.FOLDER, dict.fromkeys(teachers, K), "class") as work:
        for folder in work:
            steps = class_statistics.of_each_class(teachers[folder], images.pixels, members)
            class_statistics.save(files[folder], list(work.steps(steps)))
            work.done([files[folder]])
    return [class_statistics.load(file, run.device) for file in files.values()]


def first_images(x: Tensor, unit: Unit, classifier: Classifier) -> Tensor:
    """Return the first image of the first CLASSES classes in pixels [G, B, 3, H, W], as uint8 [n, 3, H, W]."""
    return to_uint8(unit.turned(x)[0, :CLASSES], classifier)


def save_images(file: Path, x: Tensor, unit: Unit, classifier: Classifier) -> None:
    """Write normalized pixels [G, B, 3, H, W] of a unit as PNGs, ipc index by ipc index."""
    pixels = unit.turned(to_uint8(x, classifier)).flatten(0, 1)
    labels = list(unit.classes) * len(unit.ipcs)
    with atomic_write(file) as temporary:
        write_parquet(temporary, [encode_png(image) for image in pixels], labels, classifier.class_names)
