"""Recover: optimise pixels until the teacher's logits and BatchNorm statistics match (SRe2L, section 3.2).

    accelerate launch -m srel_hub.recover recipes/quickstart.yaml

Leaves `images/`, one parquet shard per unit of work: `stack` ipc indices of one block of classes.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from torch import Tensor

from srel_hub import recipe, teacher
from srel_hub.augment import random_resized_boxes
from srel_hub.cli import cli
from srel_hub.engine import FLOAT32, Engine, laid_out, wide
from srel_hub.faults import UserError
from srel_hub.files import atomic
from srel_hub.images import encode_png, write_parquet
from srel_hub.priors import bn_loss, classification_loss, l2_prior, matched, tv_prior, view, view_matrices
from srel_hub.run import Run
from srel_hub.teacher import Classifier
from srel_hub.training import descend, require_finite
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
    """What is done to the images: crop boxes int64 [N, 4], flips bool [N], rolls int64 [N, 2].

    N are one ipc index's iterations, or one iteration's ipc indices; with a leading axis of iterations, both.
    """

    boxes: Tensor
    flips: Tensor
    rolls: Tensor

    def at(self, t: int) -> "Moves":
        """Of iteration t."""
        return Moves(self.boxes[t], self.flips[t], self.rolls[t])


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
    with (
        Objective(classifier, spec, run.engine) as objective,
        Work(run, "recover", dict.fromkeys(found, spec.iterations), "it") as work,
    ):
        for name in work:
            steps = synthesise(objective, found[name], run.recipe.seed)
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


class Objective:
    """What recover minimises, as a function of the pixels; open as a context, for the network is changed within it.

        L = CE(f(x~), y) + a R_BN(x~) + a_l2 R_l2(x~) + a_tv R_TV(x~),  x~ = roll(flip(crop(x)))

    Raises:
        UserError: if the network has no BatchNorm layer to match.
    """

    def __init__(self, classifier: Classifier, spec: recipe.Recover, engine: Engine = FLOAT32) -> None:
        self.classifier, self.spec, self.engine = classifier, spec, engine
        self.model = laid_out(classifier.model.eval().requires_grad_(False))
        self._fast_terms = engine.fast(self._terms)

    def __enter__(self) -> "Objective":
        with ExitStack() as stack:
            self._layers = stack.enter_context(matched(self.model))
            if not self._layers:
                raise UserError("the teacher has no BatchNorm2d layer; SRe2L recovers images from their statistics")
            self._open = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def __call__(self, x: Tensor, labels: Tensor, moves: Moves) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss [G] of pixels [G, B, 3, H, W], moved as one iteration's moves say, and its terms."""
        cross_entropy, bn, prior = self._fast_terms(x, labels, moves.boxes, moves.flips, moves.rolls)
        loss = cross_entropy + self.spec.bn_weight * bn + prior
        return loss, {"cross_entropy": cross_entropy.detach().clone(), "bn": bn.detach().clone()}

    def _terms(
        self, x: Tensor, labels: Tensor, boxes: Tensor, flips: Tensor, rolls: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        for layer in self._layers:
            layer.groups = len(x)
        maps = move_matrices(Moves(boxes, flips, rolls), self.classifier.size)
        with self.engine.autocast(x.device):
            seen = view(x, *(matrix.to(x) for matrix in maps))
            logits = wide(self.model(seen.contiguous(memory_format=torch.channels_last)).logits)
        seen, bn = wide(seen), bn_loss([layer.distance for layer in self._layers], self.spec.first_bn_factor)
        return classification_loss(logits, labels, len(x)), bn, priors(seen, self.spec, len(x))


def synthesise(objective: Objective, unit: Unit, seed: int) -> Iterator[Step]:
    """The optimisation of one unit, an iteration a step, from noise to the last iterate.

    For t = 0 .. T - 1:  x <- clamp(Adam(x; L, lr_t, betas (0.5, 0.9))),  lr_t = lr_0 / 2 (1 + cos(pi t / T)),
    with the pixels clamped to what black and white become when normalised. Every ipc index draws its noise and its
    moves from its own generator. The device is the network's; nothing waits for it within the loop.
    """
    spec, size = objective.spec, objective.classifier.size
    weight = next(objective.model.parameters())
    draws = [generator(seed, "recover", ipc, unit.classes.start, unit.classes.stop) for ipc in unit.ipcs]
    x = torch.stack([torch.randn(len(unit.classes), 3, *size, generator=draw) for draw in draws])
    x = x.to(weight).requires_grad_(True)
    moves = stacked([sample_moves(spec, size, draw) for draw in draws], weight.device)
    labels = torch.tensor(unit.classes, device=x.device).repeat(len(unit.ipcs))
    low, high = (edge.to(x) for edge in pixel_range(objective.classifier))
    optimizer = torch.optim.Adam([x], lr=spec.lr, betas=BETAS, eps=EPS, foreach=True)
    yield Step(0, x.detach(), {})
    for t in range(spec.iterations):
        optimizer.param_groups[0]["lr"] = spec.lr * 0.5 * (1 + math.cos(math.pi * t / spec.iterations))
        loss, terms = objective(x, labels, moves.at(t))
        descend(optimizer, loss.sum())
        with torch.no_grad():
            x.clamp_(low, high)
        yield Step(t + 1, x.detach(), terms)


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


def stacked(moves: Sequence[Moves], device: torch.device) -> Moves:
    """The moves of several ipc indices, [T, G, ...], on the device."""
    each = ([getattr(move, field.name) for move in moves] for field in fields(Moves))
    return Moves(*(torch.stack(values, 1).to(device) for values in each))


def move_matrices(moves: Moves, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The maps (down, across), each float64 [G, side, side], of one iteration's moves."""
    top, left, height, width = moves.boxes.unbind(1)
    down = view_matrices(top, height, torch.zeros_like(moves.flips), moves.rolls[:, 0], size[0])
    return down, view_matrices(left, width, moves.flips, moves.rolls[:, 1], size[1])


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
