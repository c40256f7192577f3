"""Who labels: one network, or the mean of several; in eval mode, or by the statistics of groups of images.

In eval mode a label depends on its image alone. By batch statistics (FKD with a teacher in train mode, as SRe2L++ and
FADRM do it) it depends on the images that are shown with it: groups are consecutive runs of an epoch's order.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from srel_hub.core.augment import Views, normalize, render
from srel_hub.core.engine import Engine, at_least_float32
from srel_hub.core.seeds import blocks
from srel_hub.runs.run import Run
from srel_hub.teachers import classifier as teacher
from srel_hub.teachers.classifier import Classifier


@dataclass(frozen=True)
class Labeller:
    """A function from views to logits; it can be sent to another process.

    Attributes:
        members: each network, and the normalization float32 [3, 256] of its images, where it computes.
        group_size: images that share BatchNorm statistics; None in eval mode.
    """

    members: tuple[tuple[Callable[[Tensor], Tensor], Tensor], ...]
    group_size: int | None

    @torch.no_grad()
    def __call__(self, shown: Tensor) -> Tensor:
        """float32 [B, K]: the members' mean logits on views uint8 [B, 3, H, W]."""
        answers = [network(normalize(shown.to(table.device), table)) for network, table in self.members]
        return torch.stack(answers).mean(0)

    @property
    def table(self) -> Tensor:
        """The first member's normalization, which is the dataset's."""
        return self.members[0][1]


def make_labeller(
    classifiers: Sequence[Classifier], engine: Engine, device: torch.device, group_size: int | None
) -> Labeller:
    """The labeller that these classifiers make, the first of which is the teacher."""
    models = [c.model if group_size is None else by_groups(c.model, group_size) for c in classifiers]
    tables = [classifier.table(device) for classifier in classifiers]
    return Labeller(tuple((engine.network(m.to(device)), t) for m, t in zip(models, tables, strict=True)), group_size)


class GroupBatchNorm(nn.Module):
    """BatchNorm by the statistics of each run of `size` images of a batch, as in training, changing nothing.

    A batch that is not made of whole runs is one group.
    """

    def __init__(self, layer: Any, size: int) -> None:
        super().__init__()
        self.weight, self.bias, self.eps, self.size = layer.weight, layer.bias, layer.eps, size

    def forward(self, x: Tensor) -> Tensor:
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
    """A copy of the model whose BatchNorm layers use the statistics of groups of `size` images."""
    copied = copy.deepcopy(model)
    for parent in list(copied.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, _BatchNorm):
                setattr(parent, name, GroupBatchNorm(child, size))
    return copied


def groups_of(order: Tensor, size: int) -> list[Tensor]:
    """Runs of `size` images of an epoch's order int64 [N]; the last may be shorter, and a run of one joins the one
    before.
    """
    return [order[block.start : block.stop] for block in blocks(len(order), size)]


def passes(order: Tensor, rows: range, group_size: int | None, batch_size: int) -> list[Tensor]:
    """The images int64 [B] of each forward pass that labels these rows of an epoch.

    By groups, a pass has as many of them as `batch_size` holds, and what else is in the groups of the rows.
    """
    if group_size is None:
        return [torch.arange(rows.start + b.start, rows.start + b.stop) for b in blocks(len(rows), batch_size)]
    wanted = torch.zeros(len(order), dtype=torch.bool)
    wanted[rows.start : rows.stop] = True
    groups = [group for group in groups_of(order, group_size) if wanted[group].any()]
    whole = [group for group in groups if len(group) == group_size]
    at_once = max(1, batch_size // group_size)
    together = [torch.cat(whole[start : start + at_once]) for start in range(0, len(whole), at_once)]
    return together + [group for group in groups if len(group) != group_size]


def label(labeller: Labeller, pixels: Tensor, views: Views, each: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Raw logits, a forward pass a step.

    Args:
        pixels: uint8 [N, 3, H, W].
        each: the images of each pass (`passes`).

    Returns:
        the images int64 [B], and their logits float32 [B, K] where the labeller computes.
    """
    views = views.to(pixels.device)
    for indices in each:
        yield indices, labeller(render(pixels, views, indices))


def run_classifiers(run: Run) -> list[Classifier]:
    """Those that label in a run, the teacher first."""
    return [teacher.load(run.path(folder), run.device) for folder in run.recipe.label_folders]
