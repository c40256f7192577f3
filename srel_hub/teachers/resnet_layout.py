"""ResNet and RegNet weights with the names of torchvision or timm, for transformers' models of the same architecture.

ResNet is the network of He et al. (2016), with the stride of a bottleneck in its 3x3 convolution, so only the names
differ. Files such as timm's `resnet18.tv_in1k` therefore load without torchvision or timm. A first convolution of 3x3
means the small stem that SRe2L uses at 32 and 64 pixels.
"""

import re
from collections.abc import Iterator

from transformers import RegNetConfig, RegNetForImageClassification, ResNetConfig, ResNetForImageClassification

from srel_hub.errors import UserError
from srel_hub.models import SrelResNetConfig, SrelResNetForImageClassification
from srel_hub.teachers.weight_layouts import (
    AFFINE,
    Shape,
    Shapes,
    Target,
    numbers_after,
    renamed,
    shape_at,
)


RESNET_STEM = {"convolution": "conv1", "normalization": "bn1"}


def is_resnet(shapes: Shapes) -> bool:
    """Return whether tensors with these names belong to a ResNet of torchvision or timm."""
    return any(re.match(r"layer1\.0\.(conv|bn)\d\.", name) for name in shapes)


def is_regnet(shapes: Shapes) -> bool:
    """Return whether tensors with these names belong to a RegNet of torchvision or timm."""
    return "trunk_output.block1.block1-0.f.a.0.weight" in shapes or "s1.b1.conv1.conv.weight" in shapes


def resnet_target(shapes: Shapes, where: str) -> Target:
    """Return the model for the weights of a ResNet.

    Args:
        shapes: The shapes of all tensors, by their names in the file.
        where: The file, which begins the message.

    Raises:
        UserError: If a tensor that describes the architecture is missing.
    """
    config = _resnet_config(shapes, where)
    model_class = ResNetForImageClassification if type(config) is ResNetConfig else SrelResNetForImageClassification
    model = model_class(config)
    return Target("a ResNet", model, {own: torchvision_name(own) for own in model.state_dict()})


def torchvision_name(name: str) -> str:
    """Return the name that torchvision gives to a tensor of transformers' ResNetForImageClassification.

    Raises:
        ValueError: If transformers' ResNet has no tensor of this name.
    """
    *path, leaf = name.removeprefix("resnet.").split(".")
    match path:
        case ["embedder", "embedder", kind]:
            return f"{RESNET_STEM[kind]}.{leaf}"
        case ["encoder", "stages", stage, "layers", block, "shortcut", kind]:
            return f"layer{int(stage) + 1}.{block}.downsample.{0 if kind == 'convolution' else 1}.{leaf}"
        case ["encoder", "stages", stage, "layers", block, "layer", index, kind]:
            part = "conv" if kind == "convolution" else "bn"
            return f"layer{int(stage) + 1}.{block}.{part}{int(index) + 1}.{leaf}"
        case ["classifier", "1"]:
            return f"fc.{leaf}"
    raise ValueError(f"{name}: not a tensor of transformers' ResNet")


def _resnet_config(shapes: Shapes, where: str) -> ResNetConfig:
    """Infer depths, widths, stem and number of classes of a ResNet from its tensors."""

    def first(pattern: str, example: str) -> Shape:
        shape = next((shape for name, shape in sorted(shapes.items()) if re.fullmatch(pattern, name)), None)
        if shape is None:
            raise UserError(f"{where}: the key {example} is missing, so this is not a torchvision ResNet")
        return shape

    bottleneck = any(re.fullmatch(r"layer\d\.\d+\.conv3\.weight", name) for name in shapes)
    last = 3 if bottleneck else 2
    blocks = [[int(b) for n in shapes for b in re.findall(rf"^layer{stage}\.(\d+)\.", n)] for stage in (1, 2, 3, 4)]
    widths = [first(rf"layer{s}\.\d+\.conv{last}\.weight", f"layer{s}.0.conv{last}.weight")[0] for s in (1, 2, 3, 4)]
    stem = first(r"conv1\.weight", "conv1.weight")
    config_class = SrelResNetConfig if stem[2:] == (3, 3) else ResNetConfig
    return config_class(
        embedding_size=stem[0],
        depths=[max(block) + 1 for block in blocks],
        hidden_sizes=widths,
        layer_type="bottleneck" if bottleneck else "basic",
        num_labels=first(r"fc\.weight", "fc.weight")[0],
    )


def regnet_target(shapes: Shapes, where: str) -> Target:
    """Return the model for the weights of a RegNet X or Y (Radosavovic et al., 2020).

    Args:
        shapes: The shapes of all tensors, by their names in the file.
        where: The file, which begins the message.

    Raises:
        UserError: If a tensor that describes the architecture is missing.
    """
    is_timm = "s1.b1.conv1.conv.weight" in shapes
    stages = [len(_regnet_blocks(shapes, stage, is_timm)) for stage in (1, 2, 3, 4)]
    middle = [_regnet_block(stage, 0, is_timm) + (".conv2.conv" if is_timm else ".f.b.0") for stage in (1, 2, 3, 4)]
    kernels = [shape_at(shapes, f"{name}.weight", where, "a RegNet") for name in middle]
    is_y = any(".se." in name for name in shapes)
    config = RegNetConfig(
        embedding_size=shape_at(shapes, "stem.conv.weight" if is_timm else "stem.0.weight", where, "a RegNet")[0],
        depths=stages,
        hidden_sizes=[kernel[0] for kernel in kernels],
        groups_width=max(kernel[1] for kernel in kernels),
        layer_type="y" if is_y else "x",
        num_labels=shape_at(shapes, "head.fc.weight" if is_timm else "fc.weight", where, "a RegNet")[0],
    )
    model = RegNetForImageClassification(config)
    names = dict(_regnet_names(stages, is_timm, is_y))
    return Target("a RegNet", model, {own: names[own] for own in model.state_dict()})


def _regnet_block(stage: int, block: int, is_timm: bool) -> str:
    return f"s{stage}.b{block + 1}" if is_timm else f"trunk_output.block{stage}.block{stage}-{block}"


def _regnet_blocks(shapes: Shapes, stage: int, is_timm: bool) -> list[int]:
    return numbers_after(shapes, f"s{stage}.b" if is_timm else f"trunk_output.block{stage}.block{stage}-")


def _regnet_names(depths: list[int], is_timm: bool, is_y: bool) -> Iterator[tuple[str, str]]:
    """Yield transformers' name and the file's name of each tensor, with shortcuts for all blocks."""
    convolution, norm = ("conv", "bn") if is_timm else ("0", "1")

    def layer(own: str, other: str) -> Iterator[tuple[str, str]]:
        yield from renamed(f"{own}.convolution", f"{other}.{convolution}", ("weight",))
        yield from renamed(f"{own}.normalization", f"{other}.{norm}")

    yield from layer("regnet.embedder.embedder", "stem")
    for stage, depth in enumerate(depths):
        for index in range(depth):
            own = f"regnet.encoder.stages.{stage}.layers.{index}"
            other = _regnet_block(stage + 1, index, is_timm)
            parts = ["conv1", "conv2", "conv3"] if is_timm else ["f.a", "f.b", "f.c"]
            yield from layer(f"{own}.shortcut", f"{other}.downsample" if is_timm else f"{other}.proj")
            yield from layer(f"{own}.layer.0", f"{other}.{parts[0]}")
            yield from layer(f"{own}.layer.1", f"{other}.{parts[1]}")
            yield from layer(f"{own}.layer.{3 if is_y else 2}", f"{other}.{parts[2]}")
            if is_y:
                squeeze = f"{other}.se" if is_timm else f"{other}.f.se"
                yield from renamed(f"{own}.layer.2.attention.0", f"{squeeze}.fc1", AFFINE)
                yield from renamed(f"{own}.layer.2.attention.2", f"{squeeze}.fc2", AFFINE)
    yield from renamed("classifier.1", "head.fc" if is_timm else "fc", AFFINE)
