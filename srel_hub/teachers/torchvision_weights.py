"""Load ResNet weights with torchvision's tensor names into transformers' own ResNet.

Both are the network of He et al. (2016), with the stride of a bottleneck in its 3x3 convolution, so only the names
differ. Files such as timm's `resnet18.tv_in1k` therefore load without torchvision or timm.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import ResNetConfig, ResNetForImageClassification

from srel_hub.errors import UserError, first_few


STEM = {"convolution": "conv1", "normalization": "bn1"}
OPTIONAL = "num_batches_tracked"  # a counter that eval mode does not read, and some files leave out
Shape = tuple[int, ...]


def is_torchvision_resnet(names: Mapping[str, Any]) -> bool:
    """Return whether tensors with these names belong to a torchvision ResNet."""
    return any(re.match(r"layer1\.0\.(conv|bn)\d\.", name) for name in names)


def torchvision_name(name: str) -> str:
    """Return the name that torchvision gives to a tensor of transformers' ResNetForImageClassification.

    Raises:
        ValueError: if transformers' ResNet has no tensor of this name.
    """
    *path, leaf = name.removeprefix("resnet.").split(".")
    match path:
        case ["embedder", "embedder", kind]:
            return f"{STEM[kind]}.{leaf}"
        case ["encoder", "stages", stage, "layers", block, "shortcut", kind]:
            return f"layer{int(stage) + 1}.{block}.downsample.{0 if kind == 'convolution' else 1}.{leaf}"
        case ["encoder", "stages", stage, "layers", block, "layer", index, kind]:
            part = "conv" if kind == "convolution" else "bn"
            return f"layer{int(stage) + 1}.{block}.{part}{int(index) + 1}.{leaf}"
        case ["classifier", "1"]:
            return f"fc.{leaf}"
    raise ValueError(f"{name}: not a tensor of transformers' ResNet")


def resnet_config(shapes: Mapping[str, Shape], where: str) -> ResNetConfig:
    """Infer depths, widths and number of classes of a ResNet from its tensors.

    Args:
        shapes: the shapes of all tensors, by torchvision's names.
        where: the file, which begins the message.

    Raises:
        UserError: if a required tensor is missing.
    """

    def first(pattern: str, example: str) -> Shape:
        shape = next((shape for name, shape in sorted(shapes.items()) if re.fullmatch(pattern, name)), None)
        if shape is None:
            raise UserError(f"{where}: the key {example} is missing, so this is not a torchvision ResNet")
        return shape

    bottleneck = any(re.fullmatch(r"layer\d\.\d+\.conv3\.weight", name) for name in shapes)
    last = 3 if bottleneck else 2
    blocks = [[int(b) for n in shapes for b in re.findall(rf"^layer{stage}\.(\d+)\.", n)] for stage in (1, 2, 3, 4)]
    widths = [first(rf"layer{s}\.\d+\.conv{last}\.weight", f"layer{s}.0.conv{last}.weight")[0] for s in (1, 2, 3, 4)]
    return ResNetConfig(
        embedding_size=first(r"conv1\.weight", "conv1.weight")[0],
        depths=[max(block) + 1 for block in blocks],
        hidden_sizes=widths,
        layer_type="bottleneck" if bottleneck else "basic",
        num_labels=first(r"fc\.weight", "fc.weight")[0],
    )


def convert(tensors: Mapping[str, Tensor], where: str) -> ResNetForImageClassification:
    """Return transformers' ResNet with the weights `tensors`, in float32.

    Args:
        tensors: the weights, by torchvision's names.
        where: the file, which begins the message.

    Raises:
        UserError: if a key is missing, is unexpected or has a different shape. The message lists these keys.
    """
    model = ResNetForImageClassification(resnet_config({name: tuple(t.shape) for name, t in tensors.items()}, where))
    own_tensors = model.state_dict()
    own_names = {torchvision_name(own): own for own in own_tensors}
    expected = {name: tuple(own_tensors[own].shape) for name, own in own_names.items()}
    _check_keys(tensors, expected, where)
    state = {own: tensors[name].float() for name, own in own_names.items() if name in tensors}
    with torch.no_grad():
        model.load_state_dict(state, strict=False)  # OPTIONAL ones may be missing
    return model


def _check_keys(tensors: Mapping[str, Tensor], expected: Mapping[str, Shape], where: str) -> None:
    """Compare names and shapes of tensors with those expected.

    Raises:
        UserError: if names or shapes differ. The message lists the first ten differences.
    """
    missing = [name for name in expected if name not in tensors and not name.endswith(OPTIONAL)]
    if missing and all(name in missing for name in expected if name.endswith(("running_mean", "running_var"))):
        raise UserError(
            f"{where}: a ResNet without BatchNorm statistics ({missing[0]}, ... are missing). SRe2L recovers images "
            "from them, and a network with LayerNorm or GroupNorm has none; choose another teacher"
        )
    problems = [f"{where}: the key {name} is missing" for name in missing]
    problems += [f"{where}: the key {name} is not part of a ResNet" for name in tensors if name not in expected]
    problems += [
        f"{where}: the key {name} has the shape {list(tensors[name].shape)}, expected {list(shape)}"
        for name, shape in expected.items()
        if name in tensors and tuple(tensors[name].shape) != shape
    ]
    if problems:
        raise UserError("\n".join(first_few(problems)))
