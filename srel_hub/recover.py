"""Recover: optimise pixels until the teacher's logits and BatchNorm statistics match (SRe2L, section 3.2).

    accelerate launch -m srel_hub.recover recipes/quickstart.yaml

Leaves `images/`, one parquet shard per unit of work: `stack` ipc indices of one block of classes, or all images of
`stack` classes where each class is matched to its own statistics; and `history/`, the units' loss terms on their way.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from srel_hub import recipe, teacher
from srel_hub.augment import normalise
from srel_hub.class_statistics import Statistics, measure_statistics
from srel_hub.class_statistics import load as load_statistics
from srel_hub.cli import cli
from srel_hub.files import atomic
from srel_hub.history import CLASSES, History
from srel_hub.images import encode_png, write_parquet
from srel_hub.moves import sample_moves, stacked
from srel_hub.objective import Objective, channel_statistics
from srel_hub.patches import FOLDER as PATCHES
from srel_hub.patches import cut_patches, read_patches
from srel_hub.picture import scaled
from srel_hub.run import Run
from srel_hub.source import Source, open_source
from srel_hub.teacher import Classifier
from srel_hub.training import descend, require_finite
from srel_hub.units import blocks, generator
from srel_hub.work import Work


STACKED_PIXELS = 100 * 64 * 64  # `recover.stack: auto` fills one forward pass with about as many pixels
BETAS = (0.5, 0.9)
EPS = 1e-8


@dataclass(frozen=True)
class Unit:
    """The images of these ipc indices and classes, in groups that share statistics and moves: an ipc index's images of
    all the classes, or `by_class` one class's images. `name` names its shard and its marker."""

    ipcs: range
    classes: range
    by_class: bool = False

    @property
    def name(self) -> str:
        return f"ipc-{self.ipcs.start:05d}-class-{self.classes.start:05d}"

    @property
    def labels(self) -> Tensor:
        """int64 [G * B], group by group."""
        classes = torch.tensor(self.classes)
        return classes.repeat_interleave(len(self.ipcs)) if self.by_class else classes.repeat(len(self.ipcs))

    def draws(self, seed: int) -> list[torch.Generator]:
        """Each group's own generator."""
        if self.by_class:
            return [generator(seed, "recover", "class", label) for label in self.classes]
        return [generator(seed, "recover", ipc, self.classes.start, self.classes.stop) for ipc in self.ipcs]

    def turned(self, images: Tensor) -> Tensor:
        """Images [ipc, class, ...] in groups [G, B, ...], and back."""
        return images.transpose(0, 1) if self.by_class else images


@dataclass(frozen=True)
class Stage:
    """Iterations that work at one (height, width)."""

    iterations: range
    size: tuple[int, int]


@dataclass(frozen=True)
class Step:
    """Progress: the state after an iteration. `terms` are device tensors, so that reading them is the reader's choice.

    Attributes:
        iteration: 0 for what it begins with.
        x: normalised pixels [G, B, 3, H, W] of the stage's size; the live tensor, which the next iteration changes.
        terms: 'cross_entropy' and 'bn', each [G]; the loss is their weighted sum over the priors in force.
    """

    iteration: int
    x: Tensor
    terms: dict[str, Tensor]


def units(spec: recipe.Recover, num_classes: int, stack: int) -> list[Unit]:
    """All units of a run: stacks of ipc indices, each over every block of classes; or stacks of classes."""
    if spec.statistics == "class":
        return [Unit(range(spec.ipc), classes, by_class=True) for classes in _stacks(num_classes, stack)]
    return [
        Unit(ipcs, classes) for ipcs in _stacks(spec.ipc, stack) for classes in blocks(num_classes, spec.class_block)
    ]


def _stacks(count: int, stack: int) -> list[range]:
    return [range(start, min(start + stack, count)) for start in range(0, count, stack)]


def recover(run: Run, source: Source | None = None) -> Path:
    """Recover every unit that is not marked yet.

    Returns:
        the folder of image shards.
    """
    if run.agreed(run.is_complete("recover")):
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
            run.say(f"recover: BatchNorm weight {', '.join(f'{member.weight:.4g}' for member in objective.members)}")
        for name in work:
            unit = found[name]
            start = read_patches(run.path(PATCHES), unit.ipcs, unit.classes) if spec.patches is not None else None
            steps = synthesise(objective, unit, run.recipe.seed, start)
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


def recipe_units(spec: recipe.Recover, num_classes: int, size: tuple[int, int]) -> list[Unit]:
    """All units of a recipe."""
    return units(spec, num_classes, stack_of(spec, num_classes, size))


def stack_of(spec: recipe.Recover, num_classes: int, size: tuple[int, int]) -> int:
    """How many groups share a forward pass: as said, or as fill it with about STACKED_PIXELS."""
    if spec.stack != "auto":
        return spec.stack
    group, most = min(spec.class_block, num_classes), spec.ipc
    if spec.statistics == "class":
        group, most = spec.ipc, num_classes
    return max(1, min(most, STACKED_PIXELS // (group * size[0] * size[1])))


def _settle_stack(run: Run, classifier: Classifier) -> None:
    """Resolve `recover.stack: auto` once, and keep it in the run's recipe."""
    spec = run.recipe.recover
    if spec.stack == "auto":
        stack = stack_of(spec, len(classifier.class_names), classifier.size)
        run.recipe = replace(run.recipe, recover=replace(spec, stack=stack))
        if run.is_main:
            run.keep_recipe()


def stages(spec: recipe.Recover, size: tuple[int, int]) -> list[Stage]:
    """The recipe's stages: as equal as they can be, and one where it names no sizes."""
    sides = spec.sizes or (min(size),)
    ends = [spec.iterations * k // len(sides) for k in range(len(sides) + 1)]
    return [Stage(range(*ends[k : k + 2]), scaled(size, side)) for k, side in enumerate(sides)]


def synthesise(objective: Objective, unit: Unit, seed: int, patches: Tensor | None = None) -> Iterator[Step]:
    """The optimisation of one unit, an iteration a step, from noise or patches P to the last iterate.

    For t = 0 .. T - 1:  x <- clamp(Adam(x; L, lr_t, betas (0.5, 0.9))),  lr_t = lr_0 / 2 (1 + cos(pi t / T)),
    with the pixels clamped to what black and white become when normalised. After each stage, the last one included,
    x <- (1 - r) up(x) + r P, and Adam begins anew (FADRM, Cui et al., 2025, section 3; r = 1 - alpha there). Every
    group draws its noise and its moves from its own generator. The device is the network's; nothing waits for it
    within the loop.

    Args:
        patches: uint8 [ipc, class, 3, H, W] to begin with; None begins with noise.
    """
    spec, size = objective.spec, objective.classifier.size
    draws = unit.draws(seed)
    start = _start(objective, unit, draws, patches)
    labels = unit.labels.to(start.device)
    low, high = (edge.to(start) for edge in pixel_range(objective.classifier))
    x, planned = start.clone(), stages(spec, size)
    yield Step(0, x, {})
    for number, stage in enumerate(planned):
        x = resized(x, stage.size).requires_grad_(True)
        optimizer = torch.optim.Adam([x], lr=spec.lr, betas=BETAS, eps=EPS, foreach=True)
        each = [sample_moves(spec, stage.iterations, x.shape[1], stage.size, draw) for draw in draws]
        moves = stacked(each, x.device)
        for done, t in enumerate(stage.iterations):
            optimizer.param_groups[0]["lr"] = spec.lr * 0.5 * (1 + math.cos(math.pi * t / spec.iterations))
            loss, terms = objective(x, labels, moves.at(done), t)
            descend(optimizer, loss.sum())
            with torch.no_grad():
                x.clamp_(low, high)
            if t + 1 == stage.iterations.stop:
                x = x.detach()
                if spec.residual:
                    x = resized(x, planned[number + 1].size if number + 1 < len(planned) else size)
                    x = torch.lerp(x, resized(start, (x.shape[-2], x.shape[-1])), spec.residual)
            yield Step(t + 1, x.detach(), terms)


def _start(objective: Objective, unit: Unit, draws: list[torch.Generator], patches: Tensor | None) -> Tensor:
    """Pixels [G, B, 3, H, W] to begin with, normalised."""
    weight, classifier = next(objective.members[0].model.parameters()), objective.classifier
    if patches is not None:
        shown = normalise(patches.flatten(0, 1), classifier.table(torch.device("cpu"))).view(patches.shape)
        return unit.turned(shown).to(weight).contiguous()
    each = len(unit.labels) // len(draws)
    noise = [torch.randn(each, 3, *classifier.size, generator=draw) for draw in draws]
    return torch.stack(noise).to(weight)


def resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Images [G, B, 3, H, W] at another size, bilinear and antialiased; as they are where it is theirs."""
    if x.shape[-2:] == size:
        return x.clone()
    flat = F.interpolate(x.flatten(0, 1), size, mode="bilinear", align_corners=False, antialias=True)
    return flat.view(*x.shape[:3], *size)


def pixel_range(classifier: Classifier) -> tuple[Tensor, Tensor]:
    """Normalised black and white, each float64 [3, 1, 1]: -m / s and (1 - m) / s."""
    mean, std = channel_statistics(classifier)
    return -mean / std, (1 - mean) / std


def to_uint8(x: Tensor, classifier: Classifier) -> Tensor:
    """Normalised pixels [..., 3, H, W] to uint8, rounded to the nearest."""
    mean, std = channel_statistics(classifier)
    return ((x.double().cpu() * std + mean).clamp(0, 1) * 255).round().to(torch.uint8)


def first_images(x: Tensor, unit: Unit, classifier: Classifier) -> Tensor:
    """uint8 [n, 3, H, W]: of pixels [G, B, 3, H, W], the first image of the first classes."""
    return to_uint8(unit.turned(x)[0, :CLASSES], classifier)


def save_unit(file: Path, x: Tensor, unit: Unit, classifier: Classifier) -> None:
    pixels = unit.turned(to_uint8(x, classifier)).flatten(0, 1)
    labels = list(unit.classes) * len(unit.ipcs)
    with atomic(file) as temporary:
        write_parquet(temporary, [encode_png(image) for image in pixels], labels, classifier.class_names)


if __name__ == "__main__":
    cli(recover)
