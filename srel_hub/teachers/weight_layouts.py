"""Load weights with another library's tensor names into a model of ours: compare names and shapes, then copy.

A `Target` is an untrained model and the name of each of its tensors in the file. The modules `*_layout.py` make targets
for the families of torchvision and timm.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from srel_hub.errors import UserError, first_few
from srel_hub.storage.decode import Frame


OPTIONAL = "num_batches_tracked"  # a counter that eval mode does not read, and some files leave out
NORM = ("weight", "bias", "running_mean", "running_var", OPTIONAL)
AFFINE = ("weight", "bias")
Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]


@dataclass(frozen=True)
class Target:
    """A model for a file of weights.

    Attributes:
        family: The family's name, with its article, for messages: 'a ResNet'.
        model: The model, in the architecture that the file's shapes describe.
        names: The name in the file of each tensor of the model.
        frame: How the family's images are resized; None: as for ImageNet at 224 pixels.
    """

    family: str
    model: Any
    names: Mapping[str, str]
    frame: Frame | None = None


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, Shape]:
    """Return the shapes of tensors, by name."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def shape_at(shapes: Shapes, name: str, where: str, family: str) -> Shape:
    """Return the shape of a tensor that describes the architecture.

    Raises:
        UserError: If it is missing.
    """
    if name not in shapes:
        raise UserError(f"{where}: the key {name} is missing, so this is not {family}")
    return shapes[name]


def numbers_after(shapes: Shapes, prefix: str) -> list[int]:
    """Return the sorted whole numbers that follow a prefix in the names, such as the blocks of a stage."""
    parts = (name.removeprefix(prefix).split(".")[0] for name in shapes if name.startswith(prefix))
    return sorted({int(part) for part in parts if part.isdigit()})


def renamed(own: str, other: str, leaves: tuple[str, ...] = NORM) -> Iterator[tuple[str, str]]:
    """Yield our name and the file's name of each tensor of a layer."""
    for leaf in leaves:
        yield f"{own}.{leaf}", f"{other}.{leaf}"


def load_weights(target: Target, tensors: Mapping[str, Tensor], where: str) -> Any:
    """Copy weights into the target's model and return it, in float32.

    Args:
        target: The model and the names.
        tensors: The weights, by their names in the file.
        where: The file, which begins the message.

    Raises:
        UserError: If a key is missing, is unexpected or has a different shape. The message lists these keys.
    """
    own_tensors = target.model.state_dict()
    expected = {target.names[own]: tuple(tensor.shape) for own, tensor in own_tensors.items()}
    _check_keys(tensors, expected, target.family, where)
    state = {own: tensors[name].float() for own, name in target.names.items() if name in tensors}
    with torch.no_grad():
        target.model.load_state_dict(state, strict=False)  # OPTIONAL ones may be missing
    return target.model


def _check_keys(tensors: Mapping[str, Tensor], expected: Shapes, family: str, where: str) -> None:
    """Compare names, types and shapes of tensors with those expected.

    Raises:
        UserError: If anything differs. The message lists the first ten differences.
    """
    missing = [name for name in expected if name not in tensors and not name.endswith(OPTIONAL)]
    if missing and all(name in missing for name in expected if name.endswith(("running_mean", "running_var"))):
        raise UserError(
            f"{where}: {family} without BatchNorm statistics ({missing[0]}, ... are missing). SRe2L recovers images "
            "from them, and a network with LayerNorm or GroupNorm has none; choose another teacher"
        )
    problems = [f"{where}: the key {name} is missing" for name in missing]
    problems += [f"{where}: the key {name} is not part of {family}" for name in tensors if name not in expected]
    problems += [
        f"{where}: the key {name} has the shape {list(tensors[name].shape)}, expected {list(shape)}"
        for name, shape in expected.items()
        if name in tensors and tuple(tensors[name].shape) != shape
    ]
    problems += [
        f"{where}: the key {name} has the type {tensor.dtype}, expected floating-point numbers"
        for name, tensor in tensors.items()
        if not tensor.is_floating_point() and not name.endswith(OPTIONAL)
    ]
    if problems:
        raise UserError("\n".join(first_few(problems)))
