"""Class order: permute a classifier's classes into the dataset's order, and recognize WordNet ids."""

import copy
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from srel_hub.data.class_names import short_name
from srel_hub.teachers.classifier import Classifier


WORDNET_ID = re.compile(r"n[0-9]{8}")  # ImageNet's names of classes and folders, such as n01440764 for 'tench'


def are_wordnet_ids(names: Sequence[str]) -> bool:
    """Return whether all class names are WordNet ids, which cannot be compared to words."""
    return all(WORDNET_ID.fullmatch(name) for name in names)


def class_order(own: Sequence[str], wanted: Sequence[str]) -> list[int] | None:
    """Return the index in `own` of each name in `wanted`, if both have the same names in a different order.

    Whole names are compared, and then their parts before the first comma, both in lower case.

    Returns:
        The order; None if the names are not the same, are already in the same order, or do not identify the classes,
        because one occurs twice.
    """
    for key in (lambda name: name.strip().lower(), short_name):
        ours, theirs = [key(name) for name in own], [key(name) for name in wanted]
        if ours == theirs:
            return None
        if len(set(ours)) == len(ours) and sorted(ours) == sorted(theirs):
            position = {name: index for index, name in enumerate(ours)}
            return [position[name] for name in theirs]
    return None


@torch.no_grad()
def in_order(classifier: Classifier, order: Sequence[int]) -> Classifier | None:
    """Return the classifier with its classes in another order, by permuting the rows of its last layer.

    Args:
        classifier: On the CPU. It is not changed.
        order: For each class of the result, its index in the classifier.

    Returns:
        The classifier, whose logits for an image are exactly those of the original in the new order; None if its last
        layer is not found, because permuting any layer with one row per class changes other logits.
    """
    count, index = len(classifier.class_names), torch.tensor(order)
    image = torch.randn(1, 3, *classifier.size, generator=torch.Generator().manual_seed(0))
    expected = classifier.model(image).logits[:, index]
    names = [name for name, layer in classifier.model.named_modules() if _rows(layer) == count]
    for name in reversed(names):  # the last layer is usually the last one
        model = copy.deepcopy(classifier.model)
        layer: Any = model.get_submodule(name)
        layer.weight.copy_(layer.weight[index].clone())
        if layer.bias is not None:
            layer.bias.copy_(layer.bias[index].clone())
        if torch.allclose(model(image).logits, expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max())):
            return replace(classifier, model=model, class_names=tuple(classifier.class_names[i] for i in order))
    return None


def _rows(layer: nn.Module) -> int:
    """Return the number of outputs of a linear layer or convolution; 0 for any other layer."""
    if isinstance(layer, nn.Linear):
        return layer.out_features
    return layer.out_channels if isinstance(layer, nn.Conv2d) and layer.groups == 1 else 0
