"""Recognize weights with the names of torchvision or timm, and load them into a model of transformers or of ours."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from srel_hub.errors import UserError
from srel_hub.models import (
    SrelDenseNetConfig,
    SrelDenseNetForImageClassification,
    SrelShuffleNetConfig,
    SrelShuffleNetForImageClassification,
)
from srel_hub.storage.decode import Frame
from srel_hub.teachers import mobile_layout, resnet_layout
from srel_hub.teachers.weight_layouts import Shapes, Target, load_weights, numbers_after, shape_at, shapes_of


FAMILIES = "ResNet, RegNet, MobileNetV2, MobileNetV3, EfficientNet, EfficientNet-Lite, DenseNet, ShuffleNetV2"
# By family, the architectures that compute what their names of tensors say. Others have the same names and compute
# something else: resnetblur50 and resnetaa50 blur before they subsample.
COMPUTED_AS_NAMED = {
    "a ResNet": r"(tv_|ssl_|swsl_|gluon_)?resnet\d+(_v1b)?",
    "a RegNet": r"regnet[xy]_\d+",
    "a DenseNet": r"(tv_)?densenet\d+",
    "a ShuffleNetV2": r"shufflenet_?v2.*",
    "a MobileNetV2": r"mobilenet_?v2.*",
    "a MobileNetV3": r"(tf_)?mobilenet_?v3.*",
    "an EfficientNet": r"(tf_)?efficientnet_.*",
}
DENSENET_KEY, SHUFFLENET_KEY = "features.denseblock1.denselayer1.norm1.weight", "stage2.0.branch2.0.weight"


def convert(tensors: Mapping[str, Tensor], where: str, architecture: str | None = None) -> tuple[Any, Frame | None]:
    """Return a model with the weights `tensors`, in float32, and how its family's images are resized.

    Args:
        tensors: The weights, by the names of torchvision or timm.
        where: The file, which begins the message.
        architecture: The name of the architecture in timm's config.json, if there is one.

    Raises:
        UserError: If the family is not known, or a key is missing, is unexpected or has a different shape. The message
            lists these keys.
    """
    plain = {_current_name(name): tensor for name, tensor in tensors.items()}
    target = find_target(shapes_of(plain), architecture, where)
    _require_known_architecture(architecture, target, where)
    if target is None:
        raise UserError(
            f"{where}: neither a transformers model (config.json with a known model_type) nor weights with the names "
            f"that torchvision or timm give to a network of these families: {FAMILIES}; its weights are "
            f"{', '.join(sorted(tensors)[:3])}, ..."
        )
    hidden = plain.get("conv_head.weight")
    if hidden is not None and target.names.get("hidden.weight") == "conv_head.weight":
        plain["conv_head.weight"] = hidden.flatten(1)  # timm writes this linear layer as a 1x1 convolution
    return load_weights(target, plain, where), target.frame


def _require_known_architecture(architecture: str | None, target: Target | None, where: str) -> None:
    """Check that an architecture computes what the names of its tensors say.

    Args:
        architecture: The name in timm's config.json; None if there is none.
        target: The model that has these names of tensors; None if there is none, which is another error.
        where: The file, which begins the message.

    Raises:
        UserError: If it is not known to do so.
    """
    if target is None or architecture is None:
        return
    name = architecture.split(".")[0]
    if not re.fullmatch(COMPUTED_AS_NAMED[target.family], name):
        raise UserError(
            f"{where}: its config.json names the architecture {architecture!r}, whose weights look like those of "
            f"{target.family} but may belong to another network; supported: {FAMILIES}, without variants"
        )


def find_target(shapes: Shapes, architecture: str | None, where: str) -> Target | None:
    """Return the model for weights of these names and shapes; None if their family is not known.

    Raises:
        UserError: If the family is known, but the weights do not describe one of its networks.
    """
    if resnet_layout.is_resnet(shapes):
        return resnet_layout.resnet_target(shapes, where)
    if resnet_layout.is_regnet(shapes):
        return resnet_layout.regnet_target(shapes, where)
    if mobile_layout.is_torchvision_mobile(shapes):
        return mobile_layout.torchvision_mobile_target(shapes, where)
    if mobile_layout.is_timm_mobile(shapes):
        return mobile_layout.timm_mobile_target(shapes, architecture, where)
    if DENSENET_KEY in shapes:
        return _densenet_target(shapes, where)
    if SHUFFLENET_KEY in shapes:
        return _shufflenet_target(shapes, where)
    return None


def is_known(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether the names are those that torchvision or timm give to a network of one of the families."""
    names = dict.fromkeys(map(_current_name, tensors), ())
    mobile = mobile_layout.is_torchvision_mobile(names) or mobile_layout.is_timm_mobile(names)
    others = (DENSENET_KEY, SHUFFLENET_KEY)
    return (
        resnet_layout.is_resnet(names)
        or resnet_layout.is_regnet(names)
        or mobile
        or any(key in names for key in others)
    )


def _current_name(name: str) -> str:
    """Return the current name of a tensor of a DenseNet from before 2018, such as `denselayer1.norm.1.weight`."""
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", name)


def _densenet_target(shapes: Shapes, where: str) -> Target:
    family, layer = "a DenseNet", "features.denseblock1.denselayer1"
    growth = shape_at(shapes, f"{layer}.conv2.weight", where, family)[0]
    blocks = numbers_after({name.replace("denseblock", "denseblock."): () for name in shapes}, "features.denseblock.")
    layers = [
        len({name.split(".")[2] for name in shapes if name.startswith(f"features.denseblock{block}.")})
        for block in blocks
    ]
    config = SrelDenseNetConfig(
        stem=shape_at(shapes, "features.conv0.weight", where, family)[0],
        growth=growth,
        bottleneck=shape_at(shapes, f"{layer}.conv1.weight", where, family)[0] // growth,
        layers=layers,
        num_labels=shape_at(shapes, "classifier.weight", where, family)[0],
    )
    model = SrelDenseNetForImageClassification(config)
    return Target(family, model, {name: name for name in model.state_dict()})


def _shufflenet_target(shapes: Shapes, where: str) -> Target:
    family = "a ShuffleNetV2"
    widths = [2 * shape_at(shapes, f"stage{stage}.0.branch2.5.weight", where, family)[0] for stage in (2, 3, 4)]
    config = SrelShuffleNetConfig(
        stem=shape_at(shapes, "conv1.0.weight", where, family)[0],
        hidden_sizes=widths,
        depths=[len(numbers_after(shapes, f"stage{stage}.")) for stage in (2, 3, 4)],
        head=shape_at(shapes, "conv5.0.weight", where, family)[0],
        num_labels=shape_at(shapes, "fc.weight", where, family)[0],
    )
    model = SrelShuffleNetForImageClassification(config)
    return Target(family, model, {name: name for name in model.state_dict()})
