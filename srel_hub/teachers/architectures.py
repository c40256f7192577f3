"""Networks to train from scratch: those with a name here, or with the architecture of any image classifier on the Hub.

Their sizes are the published ones at width 1. For images below 224 pixels, transformers get smaller patches.
"""

import copy
import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    ConvNextV2Config,
    EfficientNetConfig,
    MobileNetV2Config,
    PreTrainedConfig,
    RegNetConfig,
    ResNetConfig,
    SwinConfig,
    ViTConfig,
)

from srel_hub.config import Network, Pretrained
from srel_hub.errors import UserError, first_line
from srel_hub.models import SrelBnVitConfig, SrelConvNetConfig, SrelResNetConfig
from srel_hub.teachers.classifier import label_maps
from srel_hub.teachers.pretrained import fetch


BASIC, BOTTLENECK = [64, 128, 256, 512], [256, 512, 1024, 2048]
RESNETS = {
    "resnet18": ([2, 2, 2, 2], BASIC, "basic"),
    "resnet34": ([3, 4, 6, 3], BASIC, "basic"),
    "resnet50": ([3, 4, 6, 3], BOTTLENECK, "bottleneck"),
    "resnet101": ([3, 4, 23, 3], BOTTLENECK, "bottleneck"),
}
REGNETS = {  # depths, channels, channels of a group, layer (Radosavovic et al., 2020, appendix B)
    "regnet_x_8gf": ([2, 5, 15, 1], [80, 240, 720, 1920], 120, "x"),
    "regnet_y_400mf": ([1, 3, 6, 6], [48, 104, 208, 440], 8, "y"),
}
VIT_HEADS = {"deit_tiny": 3, "deit_small": 6, "vit_base": 12, "bn_vit_tiny": 3, "bn_vit_small": 6}  # of 64 channels
CONVNET_WIDTH = 128


def build(network: Network, class_names: Sequence[str], size: tuple[int, int], seed: int) -> Any:
    """A network with random weights drawn from `seed`, for images of `size` (height, width).

    Raises:
        UserError: where there is no such classifier on the Hub or on disk, or its images cannot have this size.
    """
    config = make_config(network, size)
    for name, value in label_maps(class_names).items():
        setattr(config, name, value)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            return AutoModelForImageClassification.from_config(config, trust_remote_code=False)
        except (ValueError, RuntimeError, TypeError, ZeroDivisionError) as error:
            raise UserError(
                f"{network.model}: no image classifier can be made of its config: {first_line(error)}"
            ) from None


def make_config(network: Network, size: tuple[int, int]) -> PreTrainedConfig:
    """The architecture as transformers describes it, without classes."""
    name, width = network.model, network.width
    if name == "convnet":
        channels = scale_channels(CONVNET_WIDTH, width)
        return SrelConvNetConfig(hidden_size=channels, depth=convnet_depth(size), image_size=list(size))
    if name in RESNETS:
        return _resnet(network)
    if name in REGNETS:
        depths, channels_of, group, layer = REGNETS[name]
        channels_of = [scale_channels(channels, width, min(group, channels)) for channels in channels_of]
        return RegNetConfig(depths=depths, hidden_sizes=channels_of, groups_width=group, layer_type=layer)
    if name in VIT_HEADS:
        return _vit(name, width, size)
    if name == "swin_tiny":
        patch = 4 if min(size) >= 64 else 2 if min(size) >= 32 else 1
        window = max(1, min(7, min(size) // (8 * patch)))  # no wider than the last stage
        return SwinConfig(
            embed_dim=scale_channels(96, width, 3), image_size=list(size), patch_size=patch, window_size=window
        )
    if name == "convnextv2_tiny":
        return ConvNextV2Config(hidden_sizes=[scale_channels(channels, width) for channels in (96, 192, 384, 768)])
    if name == "mobilenet_v2":
        return MobileNetV2Config(depth_multiplier=width)
    if name == "efficientnet_b0":
        last = scale_channels(1280, width, 8)
        return EfficientNetConfig(width_coefficient=width, depth_coefficient=1.0, hidden_dim=last, dropout_rate=0.2)
    return _foreign(network, size)


def _resnet(network: Network) -> PreTrainedConfig:
    depths, channels_of, layer = RESNETS[network.model]
    kind = ResNetConfig if network.stem == "imagenet" else SrelResNetConfig
    return kind(
        depths=depths,
        hidden_sizes=[scale_channels(channels, network.width) for channels in channels_of],
        embedding_size=scale_channels(64, network.width),
        layer_type=layer,
    )


def _vit(name: str, width: float, size: tuple[int, int]) -> PreTrainedConfig:
    """DeiT (Touvron et al., 2021) is a ViT of other sizes; patches are 16 pixels at 224, 8 at 64, 4 at 32."""
    heads = VIT_HEADS[name]
    hidden = scale_channels(64 * heads, width, heads)
    patch = min(16, 1 << max(0, (min(size) // 8).bit_length() - 1))
    kind = SrelBnVitConfig if name.startswith("bn_") else ViTConfig
    return kind(
        hidden_size=hidden,
        num_attention_heads=heads,
        intermediate_size=4 * hidden,
        image_size=list(size),
        patch_size=patch,
    )


def _foreign(network: Network, size: tuple[int, int]) -> PreTrainedConfig:
    """The architecture of a classifier elsewhere, without its weights."""
    config = copy.deepcopy(_read(network.model, network.revision)[0])
    if "image_size" in config.to_dict():
        config.image_size = size[0] if size[0] == size[1] else list(size)
    return config


def hub_commit(network: Network) -> str | None:
    """The Hub's commit that an architecture was read at; None for what has a name here or lies on disk."""
    return None if network.is_named else _read(network.model, network.revision)[1]


@functools.cache
def _read(path: str, revision: str | None) -> tuple[PreTrainedConfig, str | None]:
    """Read once a process, so that it stays what it was."""
    place = fetch(Pretrained(path=path, revision=revision), path, ("config.json",))
    try:
        config = AutoConfig.from_pretrained(place, trust_remote_code=False)
    except Exception as error:  # whatever a stranger's file makes transformers stumble over
        raise UserError(f"{path}: its config.json is none that transformers can read: {first_line(error)}") from None
    config.name_or_path = ""
    return config, place.name if place.parent.name == "snapshots" else None


def convnet_depth(size: tuple[int, int]) -> int:
    """Halvings from the image to about 4 pixels: 3 at 32 pixels, 4 at 64, as the literature has it."""
    return max(1, min(size).bit_length() - 3)


def scale_channels(channels: int, width: float, multiple: int = 4) -> int:
    """A whole multiple: bottlenecks divide channels by 4, others by groups or heads."""
    return max(multiple, round(channels * width / multiple) * multiple)


def require_usable(network: nn.Module, num_classes: int, size: tuple[int, int], who: str) -> None:
    """Try one image of zeros on the meta device.

    Raises:
        UserError: where the network cannot take it, or gives another number of logits.
    """
    try:
        logits = network.eval()(torch.empty(1, 3, *size, device="meta")).logits
    except (RuntimeError, ValueError) as error:
        reason = first_line(error)
        raise UserError(f"{who}: it cannot take images of {size[1]} x {size[0]} pixels: {reason}") from None
    if logits.shape != (1, num_classes):
        raise UserError(f"{who}: it gives logits of shape {list(logits.shape)} for {num_classes} classes")
