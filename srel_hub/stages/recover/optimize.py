"""The optimization of one unit's pixels, from noise or real patches to the last iterate (SRe2L, section 3.2)."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from srel_hub import config
from srel_hub.core.augment import normalize
from srel_hub.core.crop_transform import sample_moves, stacked
from srel_hub.core.optim import descend
from srel_hub.stages.recover.objective import Objective, Terms, channel_statistics
from srel_hub.stages.recover.units import Unit
from srel_hub.storage.decode import scale_shorter_side
from srel_hub.teachers.classifier import Classifier


BETAS = (0.5, 0.9)  # of Adam, as in SRe2L's code
EPS = 1e-8


@dataclass(frozen=True)
class Stage:
    """Consecutive iterations at one image size (FADRM).

    Attributes:
        iterations: The iterations of this stage, counted over the whole optimization.
        size: (height, width).
    """

    iterations: range
    size: tuple[int, int]


@dataclass(frozen=True)
class Step:
    """The state after an iteration. `terms` stay on the device, so that the caller decides when to wait for it.

    Attributes:
        iteration: 0 for the start, then the number of iterations made.
        x: Normalized pixels [G, B, 3, H, W] at the stage's size. The next iteration changes this tensor in place.
        terms: 'cross_entropy' and 'bn', each [G], unweighted; empty for the start.
    """

    iteration: int
    x: Tensor
    terms: Terms


def stages(spec: config.Recover, size: tuple[int, int]) -> list[Stage]:
    """Divide the iterations among the recipe's sizes, as equally as possible. Without sizes, return one stage."""
    sides = spec.sizes or (min(size),)
    ends = [spec.iterations * k // len(sides) for k in range(len(sides) + 1)]
    return [Stage(range(*ends[k : k + 2]), scale_shorter_side(size, side)) for k, side in enumerate(sides)]


def synthesize(objective: Objective, unit: Unit, seed: int, patches: Tensor | None = None) -> Iterator[Step]:
    """Optimize the pixels of one unit, from noise or patches P to the last iterate.

    For t = 0 .. T - 1:  x <- clamp(Adam(x; L, lr_t, betas (0.5, 0.9))),  lr_t = lr_0 / 2 (1 + cos(pi t / T)),
    with pixels clamped to normalized black and white. After each stage, the last one included,
    x <- (1 - r) up(x) + r P, and Adam starts again (FADRM, Cui et al., 2025, section 3; r = 1 - alpha there). The
    optimization runs on the network's device, and the loop never waits for it.

    Args:
        objective: The objective to minimize, inside its `with` block.
        unit: The images to optimize.
        seed: The recipe's seed. Every group draws its noise and its moves from its own generator.
        patches: uint8 [ipc, class, 3, H, W] to start from; None starts from noise.

    Yields:
        The start, then the state after every iteration.
    """
    spec, size = objective.spec, objective.classifier.size
    draws = unit.draws(seed)
    start = _start(objective, unit, draws, patches)
    labels = unit.labels.to(start.device)
    plan = stages(spec, size)
    sizes_after = [*(stage.size for stage in plan[1:]), size]
    x = start.clone()
    yield Step(0, x, {})
    for stage, size_after in zip(plan, sizes_after, strict=True):
        x = resized(x, stage.size).requires_grad_(True)
        for t, terms in _optimize_stage(objective, x, labels, stage, draws):
            if t + 1 == stage.iterations.stop:
                x = _end_stage(x.detach(), start, spec.residual, size_after)
            yield Step(t + 1, x.detach(), terms)


def _optimize_stage(
    objective: Objective, x: Tensor, labels: Tensor, stage: Stage, draws: Sequence[torch.Generator]
) -> Iterator[tuple[int, Terms]]:
    """Optimize x [G, B, 3, H, W] in place; yield every iteration's number and terms."""
    spec = objective.spec
    low, high = (edge.to(x) for edge in pixel_range(objective.classifier))
    optimizer = torch.optim.Adam([x], lr=spec.lr, betas=BETAS, eps=EPS, foreach=True)
    moves = [sample_moves(spec, stage.iterations, x.shape[1], stage.size, draw) for draw in draws]
    on_device = stacked(moves, x.device)  # once, so that no iteration copies from the host
    for index, t in enumerate(stage.iterations):
        optimizer.param_groups[0]["lr"] = spec.lr * 0.5 * (1 + math.cos(math.pi * t / spec.iterations))
        loss, terms = objective(x, labels, on_device.at(index), t)
        descend(optimizer, loss.sum())
        with torch.no_grad():
            x.clamp_(low, high)
        yield t, terms


def _end_stage(x: Tensor, start: Tensor, residual: float, size: tuple[int, int]) -> Tensor:
    """Mix the start in again, at the size of the next stage: (1 - r) up(x) + r P. Without a residual, keep x."""
    if not residual:
        return x
    return torch.lerp(resized(x, size), resized(start, size), residual)


def _start(objective: Objective, unit: Unit, draws: Sequence[torch.Generator], patches: Tensor | None) -> Tensor:
    """Return normalized pixels [G, B, 3, H, W] to start from."""
    weight, classifier = next(objective.members[0].model.parameters()), objective.classifier
    if patches is not None:
        normalized = normalize(patches.flatten(0, 1), classifier.table(torch.device("cpu"))).view(patches.shape)
        return unit.turned(normalized).to(weight).contiguous()
    images = len(unit.labels) // len(draws)
    noise = [torch.randn(images, 3, *classifier.size, generator=draw) for draw in draws]
    return torch.stack(noise).to(weight)


def resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Return images [G, B, 3, H, W] at another size, bilinear with antialiasing; a copy if the size is unchanged."""
    if x.shape[-2:] == size:
        return x.clone()
    flat = F.interpolate(x.flatten(0, 1), size, mode="bilinear", align_corners=False, antialias=True)
    return flat.view(*x.shape[:3], *size)


def pixel_range(classifier: Classifier) -> tuple[Tensor, Tensor]:
    """Return normalized black and white, -m / s and (1 - m) / s, each float64 [3, 1, 1]."""
    mean, std = channel_statistics(classifier)
    return -mean / std, (1 - mean) / std


def to_uint8(x: Tensor, classifier: Classifier) -> Tensor:
    """Convert normalized pixels [..., 3, H, W] to uint8, rounded to the nearest."""
    mean, std = channel_statistics(classifier)
    return ((x.double().cpu() * std + mean).clamp(0, 1) * 255).round().to(torch.uint8)
