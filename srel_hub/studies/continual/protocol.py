"""Classes that come in steps: which are seen when, what is trained on then, and how classes are counted."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from srel_hub.config import Evaluate
from srel_hub.data.splits import Images
from srel_hub.labels.labeller import Labeller


Labels = Literal["step", "seen", "all"]


@dataclass(frozen=True)
class Setting:
    """What is asked for.

    Attributes:
        steps: in which the classes come, as equal as they can be.
        labels: what the labels may know of classes to come.
        seeds: trainings of each memory after each step.
        order: seed of the classes' order (numpy's RandomState.permutation, with 0 as SRe2L-CL has it).
    """

    steps: int
    labels: Labels
    seeds: int
    order: int

    def seen(self, num_classes: int) -> list[list[int]]:
        """The classes seen after each step, in the order in which they came."""
        classes = np.random.RandomState(self.order).permutation(num_classes).tolist()
        ends = [num_classes * (step + 1) // self.steps for step in range(self.steps)]
        return [classes[:end] for end in ends]

    def trainings(self, memories: Sequence[str]) -> "list[Training]":
        """All students, the first step's first."""
        steps, seeds = range(self.steps), range(self.seeds)
        return [Training(step, memory, seed) for step in steps for memory in memories for seed in seeds]


@dataclass(frozen=True)
class Training:
    """One student: after which step (from 0), on which memory, of which seed."""

    step: int
    memory: str
    seed: int

    @property
    def name(self) -> str:
        return f"step-{self.step + 1}-{self.memory}-seed{self.seed}"

    @property
    def is_condensed(self) -> bool:
        return self.memory.startswith("condensed")


def memories(spec: Evaluate) -> tuple[str, ...]:
    """What students are trained on; where the protocol's loss is that of the classes, there are no other labels."""
    if spec.loss == "hard":
        return "condensed", "random-real"
    return "condensed", "condensed-hard", "random-real", "random-real-hard"


def rows_of(labels: Tensor, classes: Tensor) -> Tensor:
    """Rows int64 of the images of these classes."""
    return torch.isin(labels, classes).nonzero()[:, 0]


def only(images: Images, classes: Tensor) -> Images:
    """The images of these classes."""
    rows = rows_of(images.labels, classes)
    return Images(images.pixels[rows], images.labels[rows])


def remapped(images: Images, known: Tensor) -> Images:
    """The images, their labels as places in `known`, int64 [K'], which must hold them all."""
    place = torch.full((int(torch.cat([known, images.labels]).max()) + 1,), -1)
    place[known] = torch.arange(len(known))
    labels = place[images.labels]
    assert not (labels < 0).any(), "an image of a class that is not known"
    return Images(images.pixels, labels)


def restricted(labeller: Labeller, classes: Tensor) -> Labeller:
    """A labeller of the logits [B, K'] of these classes, int64 [K'], in this order."""
    members = tuple((partial(_columns, network, classes), table) for network, table in labeller.members)
    return replace(labeller, members=members)


def _columns(network: Callable[[Tensor], Tensor], classes: Tensor, x: Tensor) -> Tensor:
    logits = network(x)
    return logits[:, classes.to(logits.device)]
