"""core.crop_transform."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from srel_hub.config import Recover
from srel_hub.core.augment import random_resized_boxes


def view_matrices(start: Tensor, length: Tensor, flip: Tensor, shift: Tensor, size: int) -> Tensor:
    """Crop, bilinear enlargement, flip and roll along one axis, as one linear map each.

    The enlargement is F.interpolate's (bilinear, align_corners=False); the roll is torch.roll's, after the flip. All
    but the last step is in integers, on the device of the arguments.

    Args:
        start, length: int64 [...], the crop along this axis.
        flip: bool [...].
        shift: int64 [...], in pixels.

    Returns:
        float64 [..., size, size], output by source pixel.
    """
    pixel = torch.arange(size, device=start.device)
    start, length, flip, shift = (each[..., None] for each in (start, length, flip, shift))
    source = (pixel - shift) % size
    source = torch.where(flip, size - 1 - source, source)
    position = ((2 * source + 1) * length - size).clamp(min=0)  # in 1 / (2 * size) pixels
    left = (position // (2 * size)).minimum(length - 1)
    right = (left + 1).minimum(length - 1)
    share = (position % (2 * size)).double() / (2 * size)
    at_left, at_right = ((tap + start)[..., None] == pixel for tap in (left, right))
    return (1 - share)[..., None] * at_left + share[..., None] * at_right


def view(x: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """Apply maps [G, b, side, side] to images [G, B, 3, H, W]; where b is 1, to all of an index: [G * B, 3, H, W]."""
    return torch.einsum("gbhi,gbciw,gbvw->gbchv", down, x, across).flatten(0, 1)


@dataclass(frozen=True)
class Moves:
    """What is done to the images: crop boxes int64 [..., b, 4], flips bool [..., b], rolls int64 [..., b, 2].

    b is the images of an ipc index, or 1 where all of them move alike. Before it stand one index's iterations, or one
    iteration's ipc indices; of several of both, iterations first.
    """

    boxes: Tensor
    flips: Tensor
    rolls: Tensor

    def at(self, t: int) -> "Moves":
        """Of iteration t."""
        return Moves(self.boxes[t], self.flips[t], self.rolls[t])


def still(size: tuple[int, int], groups: int, device: torch.device) -> Moves:
    """One iteration's, of images that are looked at as they are."""
    box = torch.tensor([0, 0, *size], device=device).expand(groups, 1, 4)
    unmoved = torch.zeros(groups, 1, 2, dtype=torch.int64, device=device)
    return Moves(box, unmoved[..., 0].bool(), unmoved)


def sample_moves(spec: Recover, iterations: range, images: int, size: tuple[int, int], draw: torch.Generator) -> Moves:
    """Crop box, flip and shift of one ipc index at each of these iterations: one for all its images, or one each."""
    each = images if spec.per_image else 1
    count = len(iterations) * each
    boxes = torch.tensor([0, 0, *size]).expand(count, 4)
    if spec.crop == "resized":
        t = torch.tensor(iterations).repeat_interleave(each)
        boxes = random_resized_boxes((lowest_scale(spec, t), spec.scale[1]), spec.ratio, count, size, draw).long()
    flips = torch.rand(count, generator=draw) < 0.5 if spec.flip else torch.zeros(count, dtype=torch.bool)
    rolls = torch.randint(spec.roll[0], spec.roll[1] + 1, (count, 2), generator=draw)
    return Moves(*(values.unflatten(0, (len(iterations), each)) for values in (boxes, flips, rolls)))


def lowest_scale(spec: Recover, t: Tensor) -> Tensor:
    """float64 [T]: the least share of an image's area that a crop of iteration t may be.

    CDA (Yin & Shen, 2024, section 3.2), s the recipe's scale, p = t / (m T), m the milestone, up to p = 1:

        cosine: s_0 + (s_1 - s_0) (1 + cos(pi p)) / 2,   linear: s_0 + (s_1 - s_0) (1 - p),   step: s_1

    and s_0 after it; without a curriculum, s_0 always.
    """
    (low, high), p = spec.scale, t.double() / (spec.milestone * spec.iterations)
    share = {
        "none": torch.zeros_like(p),
        "cosine": (1 + torch.cos(math.pi * p)) / 2,
        "linear": 1 - p,
        "step": torch.ones_like(p),
    }[spec.curriculum]
    return low + (high - low) * share.where(p < 1, torch.zeros_like(p))


def stacked(moves: Sequence[Moves], device: torch.device) -> Moves:
    """The moves of several ipc indices, [T, G, b, ...], on the device."""
    each = ([getattr(move, field.name) for move in moves] for field in fields(Moves))
    return Moves(*(torch.stack(values, 1).to(device) for values in each))


def move_matrices(moves: Moves, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The maps (down, across), each float64 [G, b, side, side], of one iteration's moves."""
    top, left, height, width = moves.boxes.unbind(-1)
    down = view_matrices(top, height, torch.zeros_like(moves.flips), moves.rolls[..., 0], size[0])
    return down, view_matrices(left, width, moves.flips, moves.rolls[..., 1], size[1])
