"""Crop, flip, CutMix and Mixup of uint8 images, recorded as integers and exact on every device.

A `Views` record stores, in integers, how each image of an epoch is augmented. `render` applies it. Squeeze, relabel
and the consumer's loader call the same function, so a student sees bit for bit the image that its teacher labeled:
alone or in any batch, with any number of threads, on any device. docs/reference/label-format.md specifies the
arithmetic.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from srel_hub.config import Augment


PRECISION = 22  # bits of a crop weight; 255 * 2**22 + 2**21 < 2**31, so all sums fit in int32
ONE = 1 << PRECISION
TRIES = 10  # as in torchvision's RandomResizedCrop


@dataclass(frozen=True)
class Views:
    """One augmented view of each of N images.

    Attributes:
        boxes: int16 [N, 4], crop boxes (top, left, height, width) in stored pixels. Pixels outside the image are 0.
        flips: bool [N], whether the crop is mirrored left to right.
        partners: int32 [N], the image that each one is mixed with, or None if nothing is mixed. An image that is its
            own partner is not mixed.
        mix_boxes: int16 [N, 4], for CutMix: the box (top, left, height, width), in output pixels, that is copied from
            the partner's view.
        mix_weights: int16 [N], for Mixup: the image's own share in 256ths.
        patches: int16 [N, p * p], the patch of the image that moves to each place before the crop. Patches are counted
            row by row. They are never stored: a recipe with shuffled patches must set `encoding: none`.
    """

    boxes: Tensor
    flips: Tensor
    partners: Tensor | None = None
    mix_boxes: Tensor | None = None
    mix_weights: Tensor | None = None
    patches: Tensor | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> "Views":
        """Return views whose tensors are `function` of these; a tensor that is None stays None."""

        def optional(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else function(tensor)

        return Views(
            boxes=function(self.boxes),
            flips=function(self.flips),
            partners=optional(self.partners),
            mix_boxes=optional(self.mix_boxes),
            mix_weights=optional(self.mix_weights),
            patches=optional(self.patches),
        )

    def to(self, device: torch.device) -> "Views":
        """Return the views with all tensors on `device`."""
        return self.map(lambda tensor: tensor.to(device))

    def select(self, indices: Tensor) -> "Views":
        """Return the views of some images, int64 [M]. `partners` still index all N images."""
        rows = indices.to(self.boxes.device)
        return self.map(lambda tensor: tensor[rows])

    def own_share(self, size: tuple[int, int]) -> Tensor:
        """Return the share of each view that comes from the image itself; the partner has the rest.

        Args:
            size: (height, width) of the images, in pixels.

        Returns:
            float32 [N] in [0, 1].
        """
        if self.mix_boxes is not None:
            height, width = size
            return 1 - self.mix_boxes[:, 2].float() * self.mix_boxes[:, 3].float() / (height * width)
        if self.mix_weights is not None:
            return self.mix_weights.float() / 256
        return torch.ones(len(self.boxes), device=self.boxes.device)


def sample_views(augment: Augment, count: int, size: tuple[int, int], generator: torch.Generator) -> Views:
    """Draw one view of each of `count` images of `size` (height, width).

    The order of the draws (boxes, flips, partners, mixes, patches) matters: a different order gives different views for
    the same seed.
    """
    boxes = sample_boxes(augment, count, size, generator)
    flips = torch.rand(count, generator=generator) < 0.5 if augment.flip else torch.zeros(count, dtype=torch.bool)
    views = _sample_mixes(augment, Views(boxes, flips), size, generator)
    if augment.patches == 1:
        return views
    patches = torch.rand(count, augment.patches**2, generator=generator).argsort(1)
    return replace(views, patches=patches.short())


def _sample_mixes(augment: Augment, views: Views, size: tuple[int, int], generator: torch.Generator) -> Views:
    if augment.mix == "none":
        return views
    count = len(views.boxes)
    partners = torch.randperm(count, generator=generator)
    own = sample_beta(augment.mix_alpha, count, generator)
    if augment.mix == "mixup":
        weights = torch.where(partners == torch.arange(count), 256, (own * 256).round().long())
        return replace(views, partners=partners.int(), mix_weights=weights.short())
    mix_boxes = _sample_mix_boxes(own, size, generator)
    # An image that would be mixed with itself, or by an empty box, is recorded as unmixed.
    whole = (partners == torch.arange(count)) | (mix_boxes[:, 2] * mix_boxes[:, 3] == 0)
    partners = torch.where(whole, torch.arange(count), partners)
    mix_boxes[whole] = 0
    return replace(views, partners=partners.int(), mix_boxes=mix_boxes.short())


def sample_boxes(augment: Augment, count: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Draw crop boxes by the rule `augment.crop`: the whole image, a shifted one on black padding, or a resized crop.

    Args:
        augment: the section of the recipe.
        count: how many boxes to draw.
        size: (height, width) of the images, in pixels.
        generator: source of the draws, on the CPU.

    Returns:
        int16 [count, 4]: top, left, height, width. A padded crop may begin at -padding.
    """
    height, width = size
    if augment.crop == "none":
        return torch.tensor([0, 0, height, width], dtype=torch.int16).repeat(count, 1)
    if augment.crop == "padded":
        offsets = torch.randint(-augment.padding, augment.padding + 1, (count, 2), generator=generator)
        whole = torch.tensor([height, width]).expand(count, 2)
        return torch.cat([offsets, whole], 1).short()
    return random_resized_boxes(augment.scale, augment.ratio, count, size, generator)


def random_resized_boxes(
    scale: tuple[float | Tensor, float],
    ratio: tuple[float, float],
    count: int,
    size: tuple[int, int],
    generator: torch.Generator,
) -> Tensor:
    """Draw crop boxes by the rule of torchvision's RandomResizedCrop.

    Try ten times: the area is uniform in `scale`, the aspect ratio log-uniform in `ratio`. If no try fits into the
    image, take the largest centered box with an allowed aspect ratio.

    Args:
        scale: smallest and largest area, as shares of the image's area. The smallest may be a float64 [count] tensor
            with one value per box (recover's curriculum).
        ratio: smallest and largest width / height.
        count: how many boxes to draw.
        size: (height, width) of the images, in pixels.
        generator: source of the draws, on the CPU.

    Returns:
        int16 [count, 4]: top, left, height, width.
    """
    height, width = size
    draws = torch.rand(4, TRIES, count, generator=generator, dtype=torch.float64)
    area = height * width * (scale[0] + (scale[1] - scale[0]) * draws[0])
    aspect = torch.exp(math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * draws[1])
    w = (area * aspect).sqrt().round().long()
    h = (area / aspect).sqrt().round().long()
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    top = (draws[2] * (height - h + 1)).long()
    left = (draws[3] * (width - w + 1)).long()
    first = fits.int().argmax(0, keepdim=True)  # argmax returns the first of equal values: the first try that fits
    tried = torch.stack([top, left, h, w], -1).gather(0, first[..., None].expand(1, count, 4))[0]
    return torch.where(fits.any(0)[:, None], tried, _centered_box(ratio, size)).short()


def _centered_box(ratio: tuple[float, float], size: tuple[int, int]) -> Tensor:
    """Return the largest box (top, left, height, width) in the middle of the image with a ratio in `ratio`."""
    height, width = size
    if width / height < ratio[0]:
        height = min(height, round(width / ratio[0]))
    elif width / height > ratio[1]:
        width = min(width, round(height * ratio[1]))
    return torch.tensor([(size[0] - height) // 2, (size[1] - width) // 2, height, width])


def sample_beta(alpha: float, count: int, generator: torch.Generator) -> Tensor:
    """Draw float64 [count] from Beta(alpha, alpha)."""
    # numpy draws it, because torch.distributions.Beta takes no generator.
    seed = int(torch.randint(2**62, (), generator=generator))
    return torch.from_numpy(np.random.default_rng(seed).beta(alpha, alpha, count))


def _sample_mix_boxes(own: Tensor, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Draw int64 [N, 4] CutMix boxes of area 1 - own around a uniform center (Yun et al., 2019, section 3.1).

    A box that reaches beyond the border is cut off there, so its area may be smaller.
    """
    limits = torch.tensor(size)
    extent = ((1 - own).sqrt()[:, None] * limits).long()
    center = (torch.rand(len(own), 2, generator=generator, dtype=torch.float64) * limits).long()
    low = (center - extent // 2).clamp(min=0)
    high = torch.minimum(center - extent // 2 + extent, limits)
    return torch.cat([low, (high - low).clamp(min=0)], 1)


def render(images: Tensor, views: Views, indices: Tensor | Sequence[int]) -> Tensor:
    """Augment images as their views record it.

    Args:
        images: uint8 [N, 3, H, W], all stored images. All are needed, because a partner may be any of them.
        views: one view of each of the N images, on the device of `images`.
        indices: which images to render, int64 [B].

    Returns:
        uint8 [B, 3, H, W] on the device of `images`.
    """
    chosen = torch.as_tensor(indices, dtype=torch.int64).to(images.device)
    own = _crop_and_flip(images, views, chosen)
    if views.partners is None:
        return own
    # An unmixed image needs no case of its own: its mix box is empty, or its own share is 256 / 256.
    other = _crop_and_flip(images, views, views.partners[chosen].long())
    if views.mix_boxes is not None:
        inside = _inside(views.mix_boxes[chosen], own.shape[-2:])
        return torch.where(inside[:, None], other, own)
    assert views.mix_weights is not None
    weight = views.mix_weights[chosen].int()[:, None, None, None]
    return ((weight * own + (256 - weight) * other + 128) >> 8).to(torch.uint8)


def _crop_and_flip(images: Tensor, views: Views, indices: Tensor) -> Tensor:
    chosen = images[indices]
    if views.patches is not None:
        chosen = shuffle_patches(chosen, views.patches[indices].long())
    cropped = crop(chosen, views.boxes[indices])
    return torch.where(views.flips[indices][:, None, None, None], cropped.flip(-1), cropped)


def shuffle_patches(images: Tensor, patches: Tensor) -> Tensor:
    """Cut each image into p x p patches and put them together in a given order (RDED, Sun et al., 2024, section 3.3).

    Args:
        images: uint8 [B, C, H, W], with H and W multiples of p.
        patches: int64 [B, p * p], the patch that moves to each place. Patches and places are counted row by row.

    Returns:
        uint8 [B, C, H, W].
    """
    p = math.isqrt(patches.shape[1])
    cut = images.unflatten(3, (p, -1)).unflatten(2, (p, -1)).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    moved: Tensor = cut[torch.arange(len(images), device=images.device)[:, None], patches]
    joined: Tensor = moved.unflatten(1, (p, p)).permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
    return joined


def _inside(boxes: Tensor, size: Sequence[int]) -> Tensor:
    """Return a mask bool [B, H, W] of the pixels inside each box."""
    top, left, height, width = boxes.long().unbind(1)
    rows = torch.arange(size[0], device=boxes.device)
    columns = torch.arange(size[1], device=boxes.device)
    in_rows = (rows >= top[:, None]) & (rows < (top + height)[:, None])
    in_columns = (columns >= left[:, None]) & (columns < (left + width)[:, None])
    return in_rows[:, :, None] & in_columns[:, None, :]


def crop(images: Tensor, boxes: Tensor) -> Tensor:
    """Crop each image to its box and enlarge it to the full size. Equals Pillow's crop and resize(BILINEAR) exactly.

    Two passes, horizontal then vertical, each rounded half up to uint8, in int32 with weights in 1/2**22, which is
    Pillow's own precision: any device, batch or thread count gives the same bytes.

    Args:
        images: uint8 [B, C, H, W].
        boxes: integers [B, 4]: top, left, height, width, with height <= H and width <= W.

    Returns:
        uint8 [B, C, H, W].
    """
    top, left, height, width = boxes.long().unbind(1)
    rows = _enlarge(images, left, width)
    return _enlarge(rows.transpose(2, 3), top, height).transpose(2, 3)


def _enlarge(images: Tensor, start: Tensor, length: Tensor) -> Tensor:
    """Enlarge the `length` pixels that begin at `start` to the whole last axis."""
    taps, shares = (t[:, :, None, None] for t in bilinear_taps(start, length, images.shape[3]))
    left, right = (images.gather(3, tap.expand(images.shape)).int() for tap in taps.unbind(1))
    left_share, right_share = shares.unbind(1)
    return ((left * left_share + right * right_share + ONE // 2) >> PRECISION).to(torch.uint8)


def bilinear_taps(start: Tensor, length: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return the two source pixels of each output pixel along one axis, and the share of each in 1/2**22.

    Output o lies at ((2o + 1) * length - size) / (2 * size) pixels from the box's edge, clamped to [0, length - 1];
    the right pixel's share is rounded half up and the left one gets the rest. Pixels beyond the image are 0, so
    their share is set to 0.

    Args:
        start: int64 [B], the first pixel of each box along the axis; may be negative.
        length: int64 [B], the number of pixels of each box.
        size: the number of pixels of the image, and of the output.

    Returns:
        int64 [B, 2, size] positions within [0, size) and int32 [B, 2, size] shares.
    """
    numerator = (2 * torch.arange(size, device=length.device) + 1) * length[:, None] - size
    numerator = numerator.clamp(min=0).minimum(2 * size * (length[:, None] - 1))
    right_share = (numerator % (2 * size) * (2 * ONE) + 2 * size) // (4 * size)
    left = numerator // (2 * size) + start[:, None]
    taps = torch.stack([left, left + 1], 1)
    shares = torch.stack([ONE - right_share, right_share], 1).masked_fill((taps < 0) | (taps >= size), 0)
    return taps.clamp(0, size - 1), shares.int()


def normalization_table(mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Compute (v / 255 - mean) / std of every byte value v in float64, rounded once to float32 [3, 256].

    Args:
        mean: mean of each RGB channel, in [0, 1].
        std: standard deviation of each RGB channel, in [0, 1].
    """
    values = torch.arange(256, dtype=torch.float64) / 255
    columns = [(values - m) / s for m, s in zip(mean, std, strict=True)]
    return torch.stack(columns).float()


def normalize(images: Tensor, table: Tensor) -> Tensor:
    """Normalize uint8 [B, 3, H, W] to float32 [B, 3, H, W] by looking values up in `table` (normalization_table).

    A look-up gives the same bits on every device. Arithmetic does not, because a GPU may fuse the multiply and the add.
    """
    return torch.stack([table[c][images[:, c].int()] for c in range(3)], 1)
