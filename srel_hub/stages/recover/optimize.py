"""stages.recover.optimize."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from srel_hub import config
from srel_hub.core.augment import normalize
from srel_hub.core.crop_transform import sample_moves, stacked
from srel_hub.core.optim import descend
from srel_hub.core.seeds import blocks, generator
from srel_hub.stages.recover.objective import Objective, channel_statistics
from srel_hub.stages.recover.trace import CLASSES
from srel_hub.storage.decode import scale_shorter_side
from srel_hub.teachers.classifier import Classifier


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
        x: normalized pixels [G, B, 3, H, W] of the stage's size; the live tensor, which the next iteration changes.
        terms: 'cross_entropy' and 'bn', each [G]; the loss is their weighted sum over the priors in force.
    """

    iteration: int
    x: Tensor
    terms: dict[str, Tensor]


def units(spec: config.Recover, num_classes: int, stack: int) -> list[Unit]:
    """All units of a run: stacks of ipc indices, each over every block of classes; or stacks of classes."""
    if spec.statistics == "class":
        return [Unit(range(spec.ipc), classes, by_class=True) for classes in _stacks(num_classes, stack)]
    return [
        Unit(ipcs, classes) for ipcs in _stacks(spec.ipc, stack) for classes in blocks(num_classes, spec.class_block)
    ]


def _stacks(count: int, stack: int) -> list[range]:
    return [range(start, min(start + stack, count)) for start in range(0, count, stack)]


def recipe_units(spec: config.Recover, num_classes: int, size: tuple[int, int]) -> list[Unit]:
    """All units of a recipe."""
    return units(spec, num_classes, stack_of(spec, num_classes, size))


def stack_of(spec: config.Recover, num_classes: int, size: tuple[int, int]) -> int:
    """How many groups share a forward pass: as said, or as fill it with about STACKED_PIXELS."""
    if spec.stack != "auto":
        return spec.stack
    group, most = min(spec.class_block, num_classes), spec.ipc
    if spec.statistics == "class":
        group, most = spec.ipc, num_classes
    return max(1, min(most, STACKED_PIXELS // (group * size[0] * size[1])))


def stages(spec: config.Recover, size: tuple[int, int]) -> list[Stage]:
    """The recipe's stages: as equal as they can be, and one where it names no sizes."""
    sides = spec.sizes or (min(size),)
    ends = [spec.iterations * k // len(sides) for k in range(len(sides) + 1)]
    return [Stage(range(*ends[k : k + 2]), scale_shorter_side(size, side)) for k, side in enumerate(sides)]


def synthesize(objective: Objective, unit: Unit, seed: int, patches: Tensor | None = None) -> Iterator[Step]:
    """The optimization of one unit, an iteration a step, from noise or patches P to the last iterate.

    For t = 0 .. T - 1:  x <- clamp(Adam(x; L, lr_t, betas (0.5, 0.9))),  lr_t = lr_0 / 2 (1 + cos(pi t / T)),
    with the pixels clamped to what black and white become when normalized. After each stage, the last one included,
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
    """Pixels [G, B, 3, H, W] to begin with, normalized."""
    weight, classifier = next(objective.members[0].model.parameters()), objective.classifier
    if patches is not None:
        shown = normalize(patches.flatten(0, 1), classifier.table(torch.device("cpu"))).view(patches.shape)
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
    """Normalized black and white, each float64 [3, 1, 1]: -m / s and (1 - m) / s."""
    mean, std = channel_statistics(classifier)
    return -mean / std, (1 - mean) / std


def to_uint8(x: Tensor, classifier: Classifier) -> Tensor:
    """Normalized pixels [..., 3, H, W] to uint8, rounded to the nearest."""
    mean, std = channel_statistics(classifier)
    return ((x.double().cpu() * std + mean).clamp(0, 1) * 255).round().to(torch.uint8)


def first_images(x: Tensor, unit: Unit, classifier: Classifier) -> Tensor:
    """uint8 [n, 3, H, W]: of pixels [G, B, 3, H, W], the first image of the first classes."""
    return to_uint8(unit.turned(x)[0, :CLASSES], classifier)
