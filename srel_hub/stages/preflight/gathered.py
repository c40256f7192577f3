"""The facts that preflight gathers before its checks."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from srel_hub.config import Recipe
from srel_hub.stages.inputs import Inputs
from srel_hub.teachers.classifier import Classifier
from srel_hub.teachers.pretrained import Origin


@dataclass(frozen=True)
class Opened:
    """A loaded pretrained teacher.

    Attributes:
        classifier: The network, with its own class names and image size.
        origin: The source of the network.
        title: The name of the teacher in messages: the recipe's field and the teacher's name.
    """

    classifier: Classifier
    origin: Origin
    title: str


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """The facts that the checks use.

    Attributes:
        recipe: The resolved recipe.
        inputs: The source, class names, frame and adopted teachers.
        opened: Pretrained teachers that the run does not have yet, by their folder in the run.
        unproven: Teachers whose class order is only assumed, because the teacher or the dataset has no class names, by
            the recipe's field and the teacher's path.
        trainable: Networks that the run will train, on the meta device, by the recipe's field and the model's name.
        network_of: A function that returns the network of a teacher's folder, on the meta device.
        trains_teacher: Whether squeeze still has to train a network.
        folder: The run directory; None if the command writes nothing.
        processes: Number of processes of the launch.
        device: The device on which networks run.
    """

    recipe: Recipe
    inputs: Inputs
    opened: dict[str, Opened]
    unproven: dict[str, Classifier]
    trainable: dict[str, nn.Module]
    network_of: Callable[[str], nn.Module]
    trains_teacher: bool
    folder: Path | None
    processes: int
    device: torch.device

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the dataset's images."""
        return self.inputs.size

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.inputs.class_names)
