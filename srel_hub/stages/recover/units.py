"""Units of work of recover: which images are optimized together, and each group's own random generator."""

from dataclasses import dataclass

import torch
from torch import Tensor

from srel_hub import config
from srel_hub.core.seeds import blocks, generator


GIVEN_BYTES = 64_000_000  # of given images that a unit decodes
STACKED_PIXELS = 100 * 64 * 64  # `recover.stack: auto` fills a forward pass with about this many pixels


@dataclass(frozen=True)
class Unit:
    """A unit of work: the images of some ipc indices and classes, in groups.

    The images of a group share BatchNorm statistics and random moves (crop, flip, roll). By default a group has one
    image per class, all of one ipc index; with `by_class`, all images of one class.

    Attributes:
        ipcs: ipc indices.
        classes: Class indices.
        by_class: Whether each group holds one class.
    """

    ipcs: range
    classes: range
    by_class: bool = False

    @property
    def name(self) -> str:
        """Name of the unit's shard and mark."""
        return f"ipc-{self.ipcs.start:05d}-class-{self.classes.start:05d}"

    @property
    def labels(self) -> Tensor:
        """Classes of the images, int64 [G * B], group by group."""
        classes = torch.tensor(self.classes)
        return classes.repeat_interleave(len(self.ipcs)) if self.by_class else classes.repeat(len(self.ipcs))

    def draws(self, seed: int) -> list[torch.Generator]:
        """Return the generator of each group, which does not depend on the other groups."""
        if self.by_class:
            return [generator(seed, "recover", "class", label) for label in self.classes]
        return [generator(seed, "recover", ipc, self.classes.start, self.classes.stop) for ipc in self.ipcs]

    def turned(self, images: Tensor) -> Tensor:
        """Turn images [ipc, class, ...] into groups [G, B, ...], or back."""
        return images.transpose(0, 1) if self.by_class else images


def recipe_units(spec: config.Recover, num_classes: int, size: tuple[int, int]) -> list[Unit]:
    """Return all units of a recipe, for images of `size` (height, width)."""
    if spec.images is not None:
        stack = max(1, GIVEN_BYTES // (3 * size[0] * size[1] * num_classes))
        return [Unit(ipcs, range(num_classes)) for ipcs in _stacks(spec.ipc, stack)]
    return units(spec, num_classes, stack_of(spec, num_classes, size))


def units(spec: config.Recover, num_classes: int, stack: int) -> list[Unit]:
    """Return all units of a run: stacks of ipc indices over every block of classes, or stacks of classes."""
    if spec.statistics == "class":
        return [Unit(range(spec.ipc), classes, by_class=True) for classes in _stacks(num_classes, stack)]
    return [
        Unit(ipcs, classes) for ipcs in _stacks(spec.ipc, stack) for classes in blocks(num_classes, spec.class_block)
    ]


def _stacks(count: int, stack: int) -> list[range]:
    return [range(start, min(start + stack, count)) for start in range(0, count, stack)]


def stack_of(spec: config.Recover, num_classes: int, size: tuple[int, int]) -> int:
    """Return the number of groups per forward pass: the recipe's number, or the number that fills STACKED_PIXELS.

    The number follows from the image size and the number of classes alone, never from the machine's memory, because it
    affects the order of floating-point sums.
    """
    if spec.stack != "auto":
        return spec.stack
    group, most = min(spec.class_block, num_classes), spec.ipc
    if spec.statistics == "class":
        group, most = spec.ipc, num_classes
    return max(1, min(most, STACKED_PIXELS // (group * size[0] * size[1])))
