"""Labellers: one network, or the mean of several, in eval mode or with BatchNorm statistics of groups of images.

In eval mode a label depends on its image alone. With batch statistics (FKD with a teacher in train mode, as SRe2L++
and FADRM use it) it depends on the images in the same forward pass. Here these images form groups, which are
consecutive runs of an epoch's order.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from srel_hub.core.augment import Views, normalize, render
from srel_hub.core.engine import Engine, at_least_float32
from srel_hub.core.seeds import blocks


if TYPE_CHECKING:  # importing it imports transformers and accelerate, which a reader of stored labels does not need
    from srel_hub.teachers.classifier import Classifier


@dataclass(frozen=True)
class Labeller:
    """A function from views to logits, which can be pickled for another process.

    Attributes:
        members: Pairs of a network and its lookup table float32 [3, 256], which normalizes uint8 pixels; both are on
            the network's device.
        group_size: How many images share BatchNorm statistics; None in eval mode.
    """

    members: tuple[tuple[Callable[[Tensor], Tensor], Tensor], ...]
    group_size: int | None

    @torch.no_grad()
    def __call__(self, views: Tensor) -> Tensor:
        """Return the mean of the members' logits, float32 [B, K], on views uint8 [B, 3, H, W]."""
        logits = [network(normalize(views.to(table.device), table)) for network, table in self.members]
        return torch.stack(logits).mean(0)

    @property
    def table(self) -> Tensor:
        """The first member's normalization, float32 [3, 256], which is the dataset's."""
        return self.members[0][1]


def make_labeller(
    classifiers: Sequence["Classifier"], engine: Engine, device: torch.device, group_size: int | None
) -> Labeller:
    """Return the labeller that averages the logits of `classifiers`, the teacher first.

    Args:
        classifiers: The networks; they are moved to the device.
        engine: The precision in which the networks compute.
        device: The device on which the networks compute.
        group_size: How many images share BatchNorm statistics; None for eval mode.
    """
    models = [c.model if group_size is None else by_groups(c.model, group_size) for c in classifiers]
    tables = [classifier.table(device) for classifier in classifiers]
    return Labeller(tuple((engine.network(m.to(device)), t) for m, t in zip(models, tables, strict=True)), group_size)


class GroupBatchNorm(nn.Module):
    """BatchNorm that normalizes each group of `size` consecutive images with the group's own statistics.

    The running statistics stay unchanged. A batch whose length is not a multiple of `size` is one group.
    """

    def __init__(self, layer: Any, size: int) -> None:
        super().__init__()
        self.weight, self.bias, self.eps, self.size = layer.weight, layer.bias, layer.eps, size

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x [B, C, ...] by the mean and the biased variance of its groups."""
        groups = len(x) // self.size if len(x) % self.size == 0 else 1
        split = at_least_float32(x).unflatten(0, (groups, -1))
        var, mean = torch.var_mean(split, (1, *range(3, split.ndim)), correction=0, keepdim=True)
        y = ((split - mean) * (var + self.eps).rsqrt()).flatten(0, 1)
        if self.weight is not None:
            shape = (-1, *[1] * (x.ndim - 2))
            y = y * self.weight.view(shape) + self.bias.view(shape)
        result: Tensor = y.to(x.dtype)
        return result


def by_groups(model: nn.Module, size: int) -> nn.Module:
    """Return a copy of the model whose BatchNorm layers use the statistics of groups of `size` images."""
    copied = copy.deepcopy(model)
    for parent in list(copied.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, _BatchNorm):
                setattr(parent, name, GroupBatchNorm(child, size))
    return copied


def groups_of(order: Tensor, size: int) -> list[Tensor]:
    """Split an epoch's order, int64 [N], into runs of `size` images.

    The last run may be shorter, but a run of one joins the run before it: one image has no batch statistics.
    """
    return [order[block.start : block.stop] for block in blocks(len(order), size)]


def passes(order: Tensor, rows: range, group_size: int | None, batch_size: int) -> list[Tensor]:
    """Return the images, int64 [B], of each forward pass that labels these rows of an epoch.

    With groups, a pass holds as many whole groups as fit into `batch_size`, at least one. A group is always complete,
    so it may also contain images of rows that were not requested.
    """
    if group_size is None:
        return [torch.arange(rows.start + b.start, rows.start + b.stop) for b in blocks(len(rows), batch_size)]
    requested = torch.zeros(len(order), dtype=torch.bool)
    requested[rows.start : rows.stop] = True
    groups = [group for group in groups_of(order, group_size) if requested[group].any()]
    whole = [group for group in groups if len(group) == group_size]
    at_once = max(1, batch_size // group_size)
    together = [torch.cat(whole[start : start + at_once]) for start in range(0, len(whole), at_once)]
    # The last group of an epoch may have another size. It gets a pass of its own, which GroupBatchNorm takes as one.
    return together + [group for group in groups if len(group) != group_size]


def label(
    labeller: Labeller, pixels: Tensor, views: Views, batches: Sequence[Tensor]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Compute labels batch by batch; yield progress and print nothing.

    Args:
        labeller: The networks.
        pixels: All images, uint8 [N, 3, H, W].
        views: The view of each image.
        batches: The images of each forward pass (`passes`).

    Yields:
        The images int64 [B] of a pass and their logits float32 [B, K] on the labeller's device.
    """
    views = views.to(pixels.device)
    for indices in batches:
        yield indices, labeller(render(pixels, views, indices))
