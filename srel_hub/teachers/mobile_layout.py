"""MobileNetV2, MobileNetV3 and EfficientNet(-Lite) weights with the names of torchvision or timm.

Shapes give kernels and channels. Strides, activations and padding are those of the family: torchvision's names identify
it, and timm's config.json names it (`architecture`), because timm uses the same names for all of these families.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image
from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

from srel_hub.errors import UserError
from srel_hub.models import SrelMobileNetConfig, SrelMobileNetForImageClassification
from srel_hub.storage.decode import Frame
from srel_hub.teachers.weight_layouts import (
    AFFINE,
    Shapes,
    Target,
    numbers_after,
    renamed,
    shape_at,
)


V2_DEPTHS = (2, 3, 4, 3, 3, 1)  # blocks of each stage after the first one, which has one block
STRIDES = (1, 2, 2, 2, 1, 2, 1)  # of the stages of EfficientNet
V3_LARGE_STRIDES = (1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1)  # of the blocks (Howard et al., 2019, table 1)
V3_SMALL_STRIDES = (2, 2, 1, 2, 1, 1, 1, 1, 2, 1, 1)  # table 2
V3_RELU_BLOCKS = {len(V3_LARGE_STRIDES): 6, len(V3_SMALL_STRIDES): 3}  # the first ones; the others use hard-swish
TF_NORM_EPS = 1e-3  # of networks that were first trained in TensorFlow
# Side of the images and of the shorter side before the crop, for torchvision's EfficientNets, by blocks and head
EFFICIENTNET_SIZES = {
    (16, 1280): (224, 256),
    (23, 1280): (240, 256),
    (23, 1408): (288, 288),
    (26, 1536): (300, 320),
    (32, 1792): (380, 384),
    (39, 2048): (456, 456),
    (45, 2304): (528, 528),
    (55, 2560): (600, 600),
}
TIMM_NAMES = (
    "mobilenetv2_*, mobilenetv3_large_*, mobilenetv3_small_*, efficientnet_b0 to b7, efficientnet_lite0 to lite4"
)


@dataclass(frozen=True)
class Block:
    """The layers of a block in the file: pairs of a convolution and its BatchNorm, and the prefix of the squeeze."""

    expand: tuple[str, str] | None
    depthwise: tuple[str, str]
    squeeze: tuple[str, str] | None
    project: tuple[str, str]


def is_torchvision_mobile(shapes: Shapes) -> bool:
    """Return whether tensors with these names belong to torchvision's MobileNetV2, V3 or EfficientNet."""
    firsts = ("features.1.conv.0.0.weight", "features.1.block.0.0.weight", "features.1.0.block.0.0.weight")
    return any(name in shapes for name in firsts)


def is_timm_mobile(shapes: Shapes) -> bool:
    """Return whether tensors with these names belong to one of timm's networks of inverted residual blocks."""
    return "conv_stem.weight" in shapes and "blocks.0.0.conv_dw.weight" in shapes


def torchvision_mobile_target(shapes: Shapes, where: str) -> Target:
    """Return the model for weights with torchvision's names.

    Args:
        shapes: The shapes of all tensors, by their names in the file.
        where: The file, which begins the message.

    Raises:
        UserError: If a tensor that describes the architecture is missing or belongs to another architecture.
    """
    stem = ("features.0.0", "features.0.1")
    if "features.1.conv.0.0.weight" in shapes:
        last = max(numbers_after(shapes, "features."))
        blocks = [_torchvision_block(shapes, f"features.{i}.conv", where) for i in range(1, last)]
        return _mobilenet_v2(shapes, blocks, stem, (f"features.{last}.0", f"features.{last}.1"), "classifier.1", where)
    if "features.1.block.0.0.weight" in shapes:
        last = max(numbers_after(shapes, "features."))
        blocks = [_torchvision_block(shapes, f"features.{i}.block", where) for i in range(1, last)]
        head = (f"features.{last}.0", f"features.{last}.1")
        options = {**_v3_options(len(blocks), where), "norm_eps": TF_NORM_EPS}
        return _mobile("a MobileNetV3", shapes, blocks, (stem, head), ("classifier.0", "classifier.3"), options, where)
    last = max(numbers_after(shapes, "features."))
    stages = [numbers_after(shapes, f"features.{stage}.") for stage in range(1, last)]
    blocks = [
        _torchvision_block(shapes, f"features.{stage}.{index}.block", where)
        for stage, indices in enumerate(stages, 1)
        for index in indices
    ]
    head = (f"features.{last}.0", f"features.{last}.1")
    options = _by_stage("silu", [len(indices) for indices in stages], where)
    options["norm_eps"] = TF_NORM_EPS if len(blocks) >= 39 else 1e-5  # from B5 on
    sides = EFFICIENTNET_SIZES.get((len(blocks), shapes.get(f"{head[0]}.weight", (0,))[0]))
    frame = sides and Frame((sides[0], sides[0]), sides[1], int(Image.Resampling.BICUBIC))
    return _mobile("an EfficientNet", shapes, blocks, (stem, head), (None, "classifier.1"), options, where, frame)


def timm_mobile_target(shapes: Shapes, architecture: str | None, where: str) -> Target:
    """Return the model for weights with timm's names.

    Args:
        shapes: The shapes of all tensors, by their names in the file.
        architecture: The name in timm's config.json.
        where: The file, which begins the message.

    Raises:
        UserError: If the architecture is not named or not supported, or a tensor that describes it is missing.
    """
    if architecture is None:
        raise UserError(
            f"{where}: these weights have timm's names, which several architectures share; put timm's config.json, "
            "which names the architecture, beside the file"
        )
    name = architecture.split(".")[0]
    is_tf, short = name.startswith("tf_"), name.removeprefix("tf_")
    stages = [numbers_after(shapes, f"blocks.{stage}.") for stage in numbers_after(shapes, "blocks.")]
    is_plain = [f"blocks.{stage}.0.conv.weight" not in shapes for stage in range(len(stages))]
    blocks = [
        _timm_block(shapes, f"blocks.{stage}.{index}")
        for stage, indices in enumerate(stages)
        for index in indices
        if is_plain[stage]
    ]
    shared = {"norm_eps": TF_NORM_EPS if is_tf else 1e-5, "same_padding": is_tf}
    stem, head = ("conv_stem", "bn1"), ("conv_head", "bn2")
    if re.fullmatch(r"mobilenetv2_\d+", name):
        return _mobilenet_v2(shapes, blocks, stem, head, "classifier", where)
    if re.fullmatch(r"mobilenetv3_(large|small)_\d+", short):
        last = f"blocks.{len(stages) - 1}.0"
        options = {**_v3_options(len(blocks), where), **shared}
        ends = stem, (f"{last}.conv", f"{last}.bn1")
        return _mobile("a MobileNetV3", shapes, blocks, ends, ("conv_head", "classifier"), options, where)
    if found := re.fullmatch(r"efficientnet_(b[0-7]|lite[0-4])(_[a-z]+)?", short):
        is_lite = found[1].startswith("lite")
        if is_lite == any(block.squeeze is not None for block in blocks):
            raise UserError(
                f"{where}: its config.json names the architecture {architecture!r}, which has "
                f"{'no' if is_lite else 'a'} squeeze-and-excitation, but its weights differ; use their own config.json"
            )
        activation = "relu6" if is_lite else "silu"
        options = {**_by_stage(activation, [len(indices) for indices in stages], where), **shared}
        return _mobile("an EfficientNet", shapes, blocks, (stem, head), (None, "classifier"), options, where)
    raise UserError(
        f"{where}: timm's architecture {architecture!r} is not supported; supported with these names: {TIMM_NAMES}"
    )


def _torchvision_block(shapes: Shapes, prefix: str, where: str) -> Block:
    """Find the layers of a block in a `Sequential`: the depthwise convolution has one input channel per group."""
    pairs: list[tuple[str, str]] = []
    squeeze = None
    indices = numbers_after(shapes, f"{prefix}.")
    for index in indices:
        if f"{prefix}.{index}.0.weight" in shapes:
            pairs.append((f"{prefix}.{index}.0", f"{prefix}.{index}.1"))
        elif f"{prefix}.{index}.fc1.weight" in shapes:
            squeeze = (f"{prefix}.{index}.fc1", f"{prefix}.{index}.fc2")
        elif len(shapes.get(f"{prefix}.{index}.weight", ())) == 4:  # MobileNetV2's projection is not nested
            pairs.append((f"{prefix}.{index}", f"{prefix}.{index + 1}"))
    if len(pairs) not in (2, 3) or shapes[f"{pairs[-2][0]}.weight"][1:2] != (1,):
        raise UserError(f"{where}: {prefix} is not a block of MobileNetV2, MobileNetV3 or EfficientNet (B0 to B7)")
    return Block(pairs[0] if len(pairs) == 3 else None, pairs[-2], squeeze, pairs[-1])


def _timm_block(shapes: Shapes, prefix: str) -> Block:
    squeeze = None
    if f"{prefix}.se.conv_reduce.weight" in shapes:
        squeeze = (f"{prefix}.se.conv_reduce", f"{prefix}.se.conv_expand")
    if f"{prefix}.conv_pwl.weight" in shapes:
        expand = (f"{prefix}.conv_pw", f"{prefix}.bn1")
        return Block(expand, (f"{prefix}.conv_dw", f"{prefix}.bn2"), squeeze, (f"{prefix}.conv_pwl", f"{prefix}.bn3"))
    return Block(None, (f"{prefix}.conv_dw", f"{prefix}.bn1"), squeeze, (f"{prefix}.conv_pw", f"{prefix}.bn2"))


def _v3_options(count: int, where: str) -> dict[str, Any]:
    """Return strides, activations and other options of a MobileNetV3 with `count` blocks."""
    strides = {len(strides): strides for strides in (V3_LARGE_STRIDES, V3_SMALL_STRIDES)}.get(count)
    if strides is None:
        raise UserError(f"{where}: a MobileNetV3 has 15 blocks (large) or 11 (small), but this one has {count}")
    relu = V3_RELU_BLOCKS[count]
    activations = ["relu" if index < relu else "hardswish" for index in range(count)]
    shared = {"activation": "hardswish", "squeeze_activation": "relu", "gate": "hardsigmoid"}
    return {"strides": strides, "activations": activations, **shared}


def _by_stage(activation: str, depths: Sequence[int], where: str) -> dict[str, Any]:
    """Return strides, activations and other options of an EfficientNet with `depths` blocks in its stages."""
    if len(depths) != len(STRIDES):
        raise UserError(f"{where}: an EfficientNet has {len(STRIDES)} stages, but this one has {len(depths)}")
    strides = [
        stride if index == 0 else 1 for stride, depth in zip(STRIDES, depths, strict=True) for index in range(depth)
    ]
    activations = [activation] * sum(depths)
    return {"strides": strides, "activations": activations, "activation": activation, "squeeze_activation": activation}


def _mobile(
    family: str,
    shapes: Shapes,
    blocks: Sequence[Block],
    ends: tuple[tuple[str, str], tuple[str, str]],
    last: tuple[str | None, str],
    options: dict[str, Any],
    where: str,
    frame: Frame | None = None,
) -> Target:
    """Return the target for SrelMobileNet.

    Args:
        family: The family's name, for messages.
        shapes: The shapes of all tensors.
        blocks: The layers of the blocks.
        ends: Convolution and BatchNorm of the stem and of the head.
        last: The layers after pooling: the hidden layer, or None, and the classifier.
        options: Strides and activations of the blocks, and fields of SrelMobileNetConfig.
        where: The file, which begins the message.
        frame: How images are resized.
    """

    def width(name: str, axis: int = 0) -> int:
        return shape_at(shapes, f"{name}.weight", where, family)[axis]

    (stem, head), (hidden, classifier) = ends, last
    strides, activations = options.pop("strides"), options.pop("activations")
    described, inputs = [], width(stem[0])
    for block, stride, activation in zip(blocks, strides, activations, strict=True):
        described.append(
            {
                "kernel": shape_at(shapes, f"{block.depthwise[0]}.weight", where, family)[-1],
                "stride": stride,
                "inputs": inputs,
                "expanded": width(block.depthwise[0]),
                "outputs": width(block.project[0]),
                "squeeze": width(block.squeeze[0]) if block.squeeze else 0,
                "activation": activation,
            }
        )
        inputs = width(block.project[0])
    config = SrelMobileNetConfig(
        stem=width(stem[0]),
        blocks=described,
        head=width(head[0]),
        hidden=width(hidden) if hidden else 0,
        num_labels=width(classifier),
        **options,
    )
    names = dict(_mobile_names(blocks, ends, last))
    model = SrelMobileNetForImageClassification(config)
    return Target(family, model, {own: names.get(own, own) for own in model.state_dict()}, frame)


def _mobile_names(
    blocks: Sequence[Block], ends: tuple[tuple[str, str], tuple[str, str]], last: tuple[str | None, str]
) -> Iterator[tuple[str, str]]:
    """Yield SrelMobileNet's name and the file's name of each tensor."""

    def layer(own: str, pair: tuple[str, str]) -> Iterator[tuple[str, str]]:
        yield from renamed(f"{own}.conv", pair[0], ("weight",))
        yield from renamed(f"{own}.norm", pair[1])

    yield from layer("stem", ends[0])
    for index, block in enumerate(blocks):
        own = f"blocks.{index}"
        if block.expand:
            yield from layer(f"{own}.expand", block.expand)
        yield from layer(f"{own}.depthwise", block.depthwise)
        if block.squeeze:
            yield from renamed(f"{own}.squeeze.reduce", block.squeeze[0], AFFINE)
            yield from renamed(f"{own}.squeeze.expand", block.squeeze[1], AFFINE)
        yield from layer(f"{own}.project", block.project)
    yield from layer("head", ends[1])
    if last[0]:
        yield from renamed("hidden", last[0], AFFINE)
    yield from renamed("classifier", last[1], AFFINE)


def _mobilenet_v2(
    shapes: Shapes,
    blocks: Sequence[Block],
    stem: tuple[str, str],
    head: tuple[str, str],
    classifier: str,
    where: str,
) -> Target:
    """Return the target for transformers' MobileNetV2, with PyTorch's padding and epsilon."""
    family = "a MobileNetV2"
    if len(blocks) != 1 + sum(V2_DEPTHS):
        raise UserError(f"{where}: {family} has {1 + sum(V2_DEPTHS)} blocks, but this one has {len(blocks)}")
    ends = [shape_at(shapes, f"{name}.weight", where, family)[0] for name in (stem[0], blocks[-1].project[0])]
    multiplier = next((step / 20 for step in range(2, 61) if _v2_widths(step / 20) == ends), None)
    if multiplier is None:
        raise UserError(
            f"{where}: {family} with a stem of {ends[0]} and a last block of {ends[1]} channels is not known"
        )
    config = MobileNetV2Config(
        depth_multiplier=multiplier,
        tf_padding=False,
        layer_norm_eps=1e-5,
        num_labels=shape_at(shapes, f"{classifier}.weight", where, family)[0],
    )
    model = MobileNetV2ForImageClassification(config)
    names = dict(_v2_names(blocks, stem, head, classifier))
    return Target(family, model, {own: names[own] for own in model.state_dict()})


def _v2_widths(multiplier: float) -> list[int]:
    """Return the channels of stem and last block of a MobileNetV2, multiples of 8 (Sandler et al., 2018)."""
    rounded = [(channels * multiplier, max(8, int(channels * multiplier + 4) // 8 * 8)) for channels in (32, 320)]
    return [near + 8 if near < 0.9 * exact else near for exact, near in rounded]


def _v2_names(
    blocks: Sequence[Block], stem: tuple[str, str], head: tuple[str, str], classifier: str
) -> Iterator[tuple[str, str]]:
    def layer(own: str, pair: tuple[str, str]) -> Iterator[tuple[str, str]]:
        yield from renamed(f"mobilenet_v2.{own}.convolution", pair[0], ("weight",))
        yield from renamed(f"mobilenet_v2.{own}.normalization", pair[1])

    yield from layer("conv_stem.first_conv", stem)
    for index, block in enumerate(blocks):
        own = "conv_stem" if index == 0 else f"layer.{index - 1}"
        if block.expand:
            yield from layer(f"{own}.expand_1x1", block.expand)
        yield from layer(f"{own}.conv_3x3", block.depthwise)
        yield from layer(f"{own}.reduce_1x1", block.project)
    yield from layer("conv_1x1", head)
    yield from renamed("classifier", classifier, AFFINE)
