"""Recover: optimise pixels until the teacher's logits and BatchNorm statistics match (SRe2L, section 3.2).

    accelerate launch -m srel_hub.recover recipes/quickstart.yaml

Leaves `images/`, one parquet shard per unit of work: `stack` ipc indices of one block of classes.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from srel_hub import recipe, teacher
from srel_hub.augment import random_resized_boxes
from srel_hub.cli import cli
from srel_hub.faults import UserError
from srel_hub.files import atomic
from srel_hub.images import encode_png, write_parquet
from srel_hub.priors import BatchNormInputs, bn_loss, classification_loss, l2_prior, tv_prior, view, view_matrices
from srel_hub.run import Run
from srel_hub.teacher import Classifier
from srel_hub.training import require_finite
from srel_hub.units import blocks, generator
from srel_hub.work import Work


STACKED_PIXELS = 100 * 64 * 64  # `recover.stack: auto` fills one forward pass with about as many pixels
BETAS = (0.5, 0.9)
EPS = 1e-8


@dataclass(frozen=True)
class Unit:
    """The images of these ipc indices and classes; `name` names its shard and its marker."""

    ipcs: range
    classes: range

    @property
    def name(self) -> str:
        return f"ipc-{self.ipcs.start:05d}-class-{self.classes.start:05d}"


@dataclass(frozen=True)
class Moves:
    """What each iteration does to the images: crop boxes int64 [T, 4], flips bool [T], rolls int64 [T, 2]."""

    boxes: Tensor
    flips: Tensor
    rolls: Tensor


@dataclass(frozen=True)
class Step:
    """Progress: the state after an iteration. `terms` are device tensors, so that reading them is the reader's choice.

    Attributes:
        iteration: 0 for the starting noise.
        x: normalised pixels [G, B, 3, H, W]; the live tensor, which the next iteration changes.
        terms: 'cross_entropy' and 'bn', each [G]; the loss is their weighted sum over the priors in force.
    """

    iteration: int
    x: Tensor
    terms: dict[str, Tensor]


def units(ipc: int, num_classes: int, stack: int, class_block: int) -> list[Unit]:
    """All units of a run: stacks of ipc indices, each over every block of classes."""
    stacks = [range(start, min(start + stack, ipc)) for start in range(0, ipc, stack)]
    return [Unit(ipcs, classes) for ipcs in stacks for classes in blocks(num_classes, class_block)]


def recover(run: Run) -> Path:
    """Recover every unit that is not marked yet.

    Returns:
        the folder of image shards.
    """
    if run.agreed(run.is_complete("recover")):
        return run.path("images")
    run.begin()
    run.require("teacher", "squeeze")
    classifier = teacher.load(run.path("teacher"), run.device)
    _settle_stack(run, classifier)
    spec, folder = run.recipe.recover, run.path("images")
    found = {unit.name: unit for unit in recipe_units(spec, len(classifier.class_names), classifier.size)}
    with Work(run, "recover", dict.fromkeys(found, spec.iterations), "it") as work:
        for name in work:
            steps = synthesise(classifier, spec, found[name], run.recipe.seed)
            last = next(steps)  # the noise that it begins with
            for last in work.steps(steps):  # noqa: B007, B020
                pass
            require_finite(last.x.sum(), f"recover, unit {name}", "recover.lr")
            file = folder / f"{name}.parquet"
            save_unit(file, last.x, found[name], classifier)
            work.done([file], **{term: float(value.mean()) for term, value in last.terms.items()})
    return folder


def recipe_units(spec: recipe.Recover, num_classes: int, size: tuple[int, int]) -> list[Unit]:
    """All units of a recipe."""
    return units(spec.ipc, num_classes, stack_of(spec, num_classes, size), spec.class_block)


def stack_of(spec: recipe.Recover, num_classes: int, size: tuple[int, int]) -> int:
    """How many ipc indices share a forward pass: as said, or as fill it with about STACKED_PIXELS."""
    if spec.stack != "auto":
        return spec.stack
    block = min(spec.class_block, num_classes)
    return max(1, min(spec.ipc, STACKED_PIXELS // (block * size[0] * size[1])))


def _settle_stack(run: Run, classifier: Classifier) -> None:
    """Resolve `recover.stack: auto` once, and keep it in the run's recipe."""
    spec = run.recipe.recover
    if spec.stack == "auto":
        stack = stack_of(spec, len(classifier.class_names), classifier.size)
        run.recipe = replace(run.recipe, recover=replace(spec, stack=stack))
        if run.is_main:
            run.keep_recipe()


def synthesise(classifier: Classifier, spec: recipe.Recover, unit: Unit, seed: int) -> Iterator[Step]:
    """The optimisation of one unit, an iteration a step, from noise to the last iterate.

    For t = 0 .. T - 1:  x~ = roll(flip(crop(x)));
    L = CE(f(x~), y) + a R_BN(x~) + a_l2 R_l2(x~) + a_tv R_TV(x~);
    x <- clamp(Adam(x; lr_t, betas (0.5, 0.9))),  lr_t = lr_0 / 2 (1 + cos(pi t / T)),
    with the pixels clamped to what black and white become when normalised. Every ipc index draws its noise and its
    moves from its own generator. Device and precision are the teacher's.
    """
    model, size, groups = classifier.model.eval(), classifier.size, len(unit.ipcs)
    draws = [generator(seed, "recover", ipc, unit.classes.start, unit.classes.stop) for ipc in unit.ipcs]
    x = torch.stack([torch.randn(len(unit.classes), 3, *size, generator=draw) for draw in draws])
    x = x.to(next(model.parameters()))
    x.requires_grad_(True)
    moves = [sample_moves(spec, size, draw) for draw in draws]
    labels = torch.tensor(unit.classes, device=x.device).repeat(groups)
    low, high = (edge.to(x) for edge in pixel_range(classifier))
    optimizer = torch.optim.Adam([x], lr=spec.lr, betas=BETAS, eps=EPS)
    yield Step(0, x.detach(), {})
    with BatchNormInputs(model) as bn:
        if not bn.layers:
            raise UserError("the teacher has no BatchNorm2d layer; SRe2L recovers images from their statistics")
        running = bn.running()
        for t in range(spec.iterations):
            optimizer.param_groups[0]["lr"] = spec.lr * 0.5 * (1 + math.cos(math.pi * t / spec.iterations))
            optimizer.zero_grad(set_to_none=True)
            seen = view(x, *(matrix.to(x) for matrix in move_matrices(moves, t, size)))
            logits = model(seen).logits
            terms = {
                "cross_entropy": classification_loss(logits, labels, groups),
                "bn": bn_loss(bn.take(), running, spec.first_bn_factor, groups),
            }
            loss = terms["cross_entropy"] + spec.bn_weight * terms["bn"] + priors(seen, spec, groups)
            loss.sum().backward()
            optimizer.step()
            with torch.no_grad():
                x.copy_(x.clamp(low, high))
            yield Step(t + 1, x.detach(), {name: value.detach() for name, value in terms.items()})


def priors(seen: Tensor, spec: recipe.Recover, groups: int) -> Tensor:
    """[G]: the optional image priors, weighted; 0 where both weights are."""
    total = torch.zeros(groups, device=seen.device)
    if spec.l2_weight:
        total = total + spec.l2_weight * l2_prior(seen, groups)
    if spec.tv_weight:
        total = total + spec.tv_weight * tv_prior(seen, groups)
    return total


def sample_moves(spec: recipe.Recover, size: tuple[int, int], draw: torch.Generator) -> Moves:
    """One crop box, one flip and one shift for every iteration; all images of an ipc index share them."""
    T = spec.iterations
    boxes = torch.tensor([0, 0, *size]).expand(T, 4)
    if spec.crop == "resized":
        boxes = random_resized_boxes(spec.scale, spec.ratio, T, size, draw).long()
    flips = torch.rand(T, generator=draw) < 0.5 if spec.flip else torch.zeros(T, dtype=torch.bool)
    rolls = torch.randint(spec.roll[0], spec.roll[1] + 1, (T, 2), generator=draw)
    return Moves(boxes, flips, rolls)


def move_matrices(moves: Sequence[Moves], t: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The maps (down, across), each [G, side, side], of iteration t."""
    top, left, height, width = torch.stack([move.boxes[t] for move in moves]).unbind(1)
    flip = torch.stack([move.flips[t] for move in moves])
    roll = torch.stack([move.rolls[t] for move in moves])
    down = view_matrices(top, height, torch.zeros_like(flip), roll[:, 0], size[0])
    return down, view_matrices(left, width, flip, roll[:, 1], size[1])


def pixel_range(classifier: Classifier) -> tuple[Tensor, Tensor]:
    """Normalised black and white, each float64 [3, 1, 1]: -m / s and (1 - m) / s."""
    mean, std = channel_statistics(classifier)
    return -mean / std, (1 - mean) / std


def to_uint8(x: Tensor, classifier: Classifier) -> Tensor:
    """Normalised pixels [..., 3, H, W] to uint8, rounded to the nearest."""
    mean, std = channel_statistics(classifier)
    return ((x.double().cpu() * std + mean).clamp(0, 1) * 255).round().to(torch.uint8)


def channel_statistics(classifier: Classifier) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, each float64 [3, 1, 1]."""
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (classifier.mean, classifier.std))
    return mean, std


def save_unit(file: Path, x: Tensor, unit: Unit, classifier: Classifier) -> None:
    pixels = to_uint8(x, classifier).flatten(0, 1)
    labels = list(unit.classes) * len(unit.ipcs)
    with atomic(file) as temporary:
        write_parquet(temporary, [encode_png(image) for image in pixels], labels, classifier.class_names)


if __name__ == "__main__":
    cli(recover)
