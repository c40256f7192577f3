"""Classifiers of which a dataset uses only some classes (`source.classes`).

The network itself stays complete. Wherever labels are computed or predictions are scored, `ClassSubset` selects the
logits of the dataset's classes. Recover uses the complete network, with the classes' own indices as targets. On disk,
the field CLASS_COLUMNS of the network's config.json lists these indices.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import ImageClassifierOutput


if TYPE_CHECKING:
    from srel_hub.teachers.classifier import Classifier

CLASS_COLUMNS = "class_columns"  # in config.json: for each class of the dataset, its index among the logits


class ClassSubset(nn.Module):
    """A network with the logits of some of its classes only.

    Args:
        network: The complete network.
        columns: For each class, its index among the network's logits.
        class_names: The names of all of the network's classes.
    """

    columns: Tensor

    def __init__(self, network: nn.Module, columns: Sequence[int], class_names: tuple[str, ...]) -> None:
        super().__init__()
        self.network, self.class_names = network, class_names
        self.register_buffer("columns", torch.tensor(columns), persistent=False)

    def forward(self, pixel_values: Tensor) -> ImageClassifierOutput:
        """Return the selected logits [B, K] of pixel values [B, 3, H, W]."""
        return ImageClassifierOutput(logits=self.network(pixel_values).logits[:, self.columns])

    @property
    def config(self) -> Any:
        """A copy of the network's config for a network with the selected classes only."""
        config: Any = copy.deepcopy(self.network.config)
        vars(config).pop(CLASS_COLUMNS, None)
        names = [self.class_names[column] for column in self.columns.tolist()]
        config.id2label, config.label2id = dict(enumerate(names)), {name: index for index, name in enumerate(names)}
        return config


def with_columns(classifier: "Classifier", columns: Sequence[int]) -> "Classifier":
    """Return a classifier of some of a complete classifier's classes.

    Args:
        classifier: The complete classifier.
        columns: For each class, its index among the classifier's classes.
    """
    names = tuple(classifier.class_names[column] for column in columns)
    return replace(classifier, model=ClassSubset(classifier.model, columns, classifier.class_names), class_names=names)


def complete(classifier: "Classifier") -> "Classifier":
    """Return the classifier with all classes of its network."""
    model = classifier.model
    if not isinstance(model, ClassSubset):
        return classifier
    return replace(classifier, model=model.network, class_names=model.class_names)


def complete_network(model: nn.Module) -> nn.Module:
    """Return the network of a classifier with all of its logits."""
    return model.network if isinstance(model, ClassSubset) else model


def class_columns(classifier: "Classifier") -> tuple[int, ...] | None:
    """Return the index of each class among the complete network's logits; None if the network has no other classes."""
    model = classifier.model
    return tuple(model.columns.tolist()) if isinstance(model, ClassSubset) else None


def own_indices(model: nn.Module, labels: Tensor) -> Tensor:
    """Return the index of each label, int64 [N], among the complete network's logits."""
    return model.columns.to(labels.device)[labels] if isinstance(model, ClassSubset) else labels


def read_columns(config: Any) -> list[int] | None:
    """Return the field CLASS_COLUMNS of a transformers config; None if it has none.

    Raises:
        ValueError: If it is not a list of different classes of the network.
    """
    columns: list[int] | None = getattr(config, CLASS_COLUMNS, None)
    if columns is None:
        return None
    is_valid = (
        isinstance(columns, list)
        and len(columns) > 0
        and all(type(column) is int and 0 <= column < config.num_labels for column in columns)
        and len(set(columns)) == len(columns)
    )
    if not is_valid:
        raise ValueError(
            f"its {CLASS_COLUMNS} is {str(columns)[:100]}; it must list different numbers from 0 to "
            f"{config.num_labels - 1}"
        )
    return columns
