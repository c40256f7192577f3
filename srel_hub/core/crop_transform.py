"""The crop, flip and roll that recover applies before each forward pass: drawn as integers, applied as linear maps.

This crop is differentiable and works on float pixels. The exact uint8 crop of labels is in `core.augment`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from srel_hub.config import Recover
from srel_hub.core.augment import random_resized_boxes


@dataclass(frozen=True)
class Moves:
    """How images are moved: crop boxes int64 [..., b, 4], flips bool [..., b], rolls int64 [..., b, 2].

    b is the number of images of a group, or 1 if all of them share one move. The leading axis holds the iterations of
    one group, or the groups of one iteration. If both are present, iterations come first.
    """

    boxes: Tensor
    flips: Tensor
    rolls: Tensor

    def at(self, t: int) -> "Moves":
        """Return the moves of iteration t."""
        return Moves(self.boxes[t], self.flips[t], self.rolls[t])


def still(size: tuple[int, int], groups: int, device: torch.device) -> Moves:
    """Return the identity move (no crop, flip or roll) for one iteration."""
    box = torch.tensor([0, 0, *size], device=device).expand(groups, 1, 4)
    no_roll = torch.zeros(groups, 1, 2, dtype=torch.int64, device=device)
    return Moves(box, no_roll[..., 0].bool(), no_roll)


def sample_moves(spec: Recover, iterations: range, images: int, size: tuple[int, int], draw: torch.Generator) -> Moves:
    """Draw the crop box, flip and roll of one group at each iteration in `iterations`.

    Args:
        spec: The recipe's section; `per_image` draws one move for every image instead of one for the group.
        iterations: The iterations, counted over the whole optimization.
        images: Number of images of the group.
        size: (height, width) of the images.
        draw: The group's generator.
    """
    per_iteration = images if spec.per_image else 1
    count = len(iterations) * per_iteration
    boxes = torch.tensor([0, 0, *size]).expand(count, 4)
    if spec.crop == "resized":
        t = torch.tensor(iterations).repeat_interleave(per_iteration)
        boxes = random_resized_boxes((lowest_scale(spec, t), spec.scale[1]), spec.ratio, count, size, draw).long()
    flips = torch.rand(count, generator=draw) < 0.5 if spec.flip else torch.zeros(count, dtype=torch.bool)
    rolls = torch.randint(spec.roll[0], spec.roll[1] + 1, (count, 2), generator=draw)
    return Moves(*(values.unflatten(0, (len(iterations), per_iteration)) for values in (boxes, flips, rolls)))


def lowest_scale(spec: Recover, t: Tensor) -> Tensor:
    """Return the smallest share of an image's area that a crop of iteration t may have, float64 [T].

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
    """Return the moves of several groups together, [T, G, b, ...], on the device."""
    columns = ([getattr(move, field.name) for move in moves] for field in fields(Moves))
    return Moves(*(torch.stack(values, 1).to(device) for values in columns))


def move_matrices(moves: Moves, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return the maps (down, across) of one iteration's moves, each float64 [G, b, side, side]."""
    top, left, height, width = moves.boxes.unbind(-1)
    down = view_matrices(top, height, torch.zeros_like(moves.flips), moves.rolls[..., 0], size[0])
    return down, view_matrices(left, width, moves.flips, moves.rolls[..., 1], size[1])


def view_matrices(start: Tensor, length: Tensor, flip: Tensor, shift: Tensor, size: int) -> Tensor:
    """Return crop, bilinear enlargement, flip and roll along one axis as one linear map each.

    The enlargement is that of F.interpolate (bilinear, align_corners=False). The roll is that of torch.roll, after the
    flip. All but the last step is in integers, on the device of the arguments.

    Args:
        start: int64 [...], where the crop begins along this axis.
        length: int64 [...], the crop's length.
        flip: bool [...].
        shift: int64 [...], the roll in pixels.
        size: The length of the axis.

    Returns:
        float64 [..., size, size], with one row per output pixel and one column per source pixel.
    """
    pixel = torch.arange(size, device=start.device)
    start, length, flip, shift = (values[..., None] for values in (start, length, flip, shift))
    source = (pixel - shift) % size
    source = torch.where(flip, size - 1 - source, source)
    position = ((2 * source + 1) * length - size).clamp(min=0)  # in 1 / (2 * size) pixels
    left = (position // (2 * size)).minimum(length - 1)
    right = (left + 1).minimum(length - 1)
    share = (position % (2 * size)).double() / (2 * size)
    at_left, at_right = ((tap + start)[..., None] == pixel for tap in (left, right))
    return (1 - share)[..., None] * at_left + share[..., None] * at_right


def view(x: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """Apply maps to images.

    Args:
        x: Images [G, B, 3, H, W].
        down: [G, b, H, H], one map for each image, or one for all of a group if b is 1.
        across: [G, b, W, W], with the same meaning of b.

    Returns:
        The moved images [G * B, 3, H, W].
    """
    return torch.einsum("gbhi,gbciw,gbvw->gbchv", down, x, across).flatten(0, 1)
