"""The protocol of class-incremental learning: the steps in which classes arrive, and the memories of students."""

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
    """The options of a continual-learning study.

    Attributes:
        steps: Number of steps in which the classes arrive, as equal in size as possible.
        labels: The information about future classes in soft labels. 'step': none, because a teacher is trained at every
            step. 'seen': the run's teacher with only its logits of the classes seen so far. 'all': the run's teacher
            with all of its logits.
        seeds: Trainings per memory and step.
        order: Seed of the order of classes. 0 gives the order of the official SRe2L code, which also shuffles with
            numpy's `RandomState`.
    """

    steps: int
    labels: Labels
    seeds: int
    order: int

    def seen(self, num_classes: int) -> list[list[int]]:
        """Return the classes seen after each step, in their order of arrival."""
        classes = np.random.RandomState(self.order).permutation(num_classes).tolist()
        ends = [num_classes * (step + 1) // self.steps for step in range(self.steps)]
        return [classes[:end] for end in ends]

    def trainings(self, memories: Sequence[str]) -> "list[Training]":
        """Return the trainings of all students, those of the first step first."""
        steps, seeds = range(self.steps), range(self.seeds)
        return [Training(step, memory, seed) for step in steps for memory in memories for seed in seeds]


@dataclass(frozen=True)
class Training:
    """The training of one student.

    Attributes:
        step: The step after which the student is trained, from 0.
        memory: The images and labels that it uses (`memory_names`).
        seed: Number of the repetition, from 0.
    """

    step: int
    memory: str
    seed: int

    @property
    def name(self) -> str:
        """The name of its result file: 'step-1-condensed-seed0'."""
        return f"step-{self.step + 1}-{self.memory}-seed{self.seed}"

    @property
    def is_condensed(self) -> bool:
        """Whether the memory has condensed images, not random real ones."""
        return self.memory.startswith("condensed")

    @property
    def is_hard(self) -> bool:
        """Whether the student is trained with class labels only."""
        return self.memory.endswith("hard")


def memory_names(spec: Evaluate) -> tuple[str, ...]:
    """Return the names of the memories that students are trained on.

    A protocol whose loss uses class labels only has no variants with `-hard`, because these would be duplicates.
    """
    if spec.loss == "hard":
        return "condensed", "random-real"
    return "condensed", "condensed-hard", "random-real", "random-real-hard"


def rows_of_classes(labels: Tensor, classes: Tensor) -> Tensor:
    """Return the rows, int64 [M], of `labels` [N] that are among `classes` [C]."""
    return torch.isin(labels, classes).nonzero()[:, 0]


def select_classes(images: Images, classes: Tensor) -> Images:
    """Return the images of the classes `classes`, int64 [C]."""
    rows = rows_of_classes(images.labels, classes)
    return Images(images.pixels[rows], images.labels[rows])


def remap_labels(images: Images, outputs: Tensor) -> Images:
    """Return the images with each label replaced by its index in `outputs`, int64 [C], which contains all labels."""
    index = torch.full((int(torch.cat([outputs, images.labels]).max()) + 1,), -1)
    index[outputs] = torch.arange(len(outputs))
    labels = index[images.labels]
    assert not (labels < 0).any(), "an image of a class for which there is no output"
    return Images(images.pixels, labels)


def restrict_labeller(labeller: Labeller, classes: Tensor) -> Labeller:
    """Return a labeller that returns only the logits [B, C] of `classes`, int64 [C], in the order of `classes`."""
    members = tuple((partial(_select_logits, network, classes), table) for network, table in labeller.members)
    return replace(labeller, members=members)


def _select_logits(network: Callable[[Tensor], Tensor], classes: Tensor, x: Tensor) -> Tensor:
    logits = network(x)
    return logits[:, classes.to(logits.device)]
