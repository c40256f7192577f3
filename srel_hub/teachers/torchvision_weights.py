"""ResNet weights under torchvision's names, as transformers' own ResNet: the same numbers under other names.

torchvision's layout is the one of He et al. (2016), with the stride of a bottleneck in its 3x3 convolution; files that
keep it, such as timm's `resnet18.tv_in1k`, thereby load without torchvision or timm.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import ResNetConfig, ResNetForImageClassification

from srel_hub.errors import UserError, first_few


STEM = {"convolution": "conv1", "normalization": "bn1"}
OPTIONAL = "num_batches_tracked"  # a counter that eval mode does not read
Shape = tuple[int, ...]


def is_torchvision_resnet(names: Mapping[str, Any]) -> bool:
    return any(re.match(r"layer1\.0\.(conv|bn)\d\.", name) for name in names)


def torchvision_name(name: str) -> str:
    """torchvision's name of a tensor of transformers' ResNetForImageClassification."""
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
    """The ResNet that tensors of these names and shapes belong to: depths, widths and classes.

    Raises:
        UserError: naming the key without which it cannot be told.
    """

    def first(pattern: str, say: str) -> Shape:
        found = next((shape for name, shape in sorted(shapes.items()) if re.fullmatch(pattern, name)), None)
        if found is None:
            raise UserError(f"{where}: the key {say} is missing; no ResNet under torchvision's names")
        return found

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
    """transformers' ResNet with these weights, in float32.

    Raises:
        UserError: naming every key that is missing, extra or of another shape.
    """
    model = ResNetForImageClassification(resnet_config({name: tuple(t.shape) for name, t in tensors.items()}, where))
    wanted = {torchvision_name(name): (name, tuple(tensor.shape)) for name, tensor in model.state_dict().items()}
    _check_keys(tensors, {name: shape for name, (_, shape) in wanted.items()}, where)
    state = {name: tensors[theirs].float() for theirs, (name, _) in wanted.items() if theirs in tensors}
    with torch.no_grad():
        model.load_state_dict(state, strict=False)  # the counters may be missing
    return model


def _check_keys(tensors: Mapping[str, Tensor], wanted: Mapping[str, Shape], where: str) -> None:
    missing = [name for name in wanted if name not in tensors and not name.endswith(OPTIONAL)]
    if missing and all(name in missing for name in wanted if name.endswith(("running_mean", "running_var"))):
        raise UserError(
            f"{where}: a ResNet without BatchNorm statistics ({missing[0]}, ... are missing): a LayerNorm or "
            "GroupNorm network has none, and SRe2L recovers images from them; choose another teacher"
        )
    faults = [f"{where}: the key {name} is missing" for name in missing]
    faults += [f"{where}: the key {name} is none of a ResNet's" for name in tensors if name not in wanted]
    faults += [
        f"{where}: the key {name} has the shape {list(tensors[name].shape)}, expected {list(shape)}"
        for name, shape in wanted.items()
        if name in tensors and tuple(tensors[name].shape) != shape
    ]
    if faults:
        raise UserError("\n".join(first_few(faults)))
