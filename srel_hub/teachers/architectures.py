"""Networks to train from scratch: the named networks, and the architecture of any image classifier on the Hub.

At width 1 the networks have their published sizes. For images below 224 pixels, vision transformers get smaller
patches.
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
from srel_hub.models import SrelBnVitConfig, SrelConvNetConfig, SrelOwnConfig, SrelResNetConfig
from srel_hub.models.own import OwnNetworkError
from srel_hub.teachers.classifier import check_forward, label_maps
from srel_hub.teachers.fetch import fetch


BASIC, BOTTLENECK = [64, 128, 256, 512], [256, 512, 1024, 2048]
RESNETS = {
    "resnet18": ([2, 2, 2, 2], BASIC, "basic"),
    "resnet34": ([3, 4, 6, 3], BASIC, "basic"),
    "resnet50": ([3, 4, 6, 3], BOTTLENECK, "bottleneck"),
    "resnet101": ([3, 4, 23, 3], BOTTLENECK, "bottleneck"),
}
REGNETS = {  # depths, channels, channels per group, type of layer (Radosavovic et al., 2020, appendix B)
    "regnet_x_8gf": ([2, 5, 15, 1], [80, 240, 720, 1920], 120, "x"),
    "regnet_y_400mf": ([1, 3, 6, 6], [48, 104, 208, 440], 8, "y"),
}
VIT_HEADS = {"deit_tiny": 3, "deit_small": 6, "vit_base": 12, "bn_vit_tiny": 3, "bn_vit_small": 6}  # 64 channels each
CONVNET_WIDTH = 128  # channels, as in the dataset-condensation literature


def build(network: Network, class_names: Sequence[str], size: tuple[int, int], seed: int) -> Any:
    """Return a network with random weights.

    Args:
        network: the recipe's section, which names an architecture.
        class_names: the class names, by index.
        size: (height, width) of the images, in pixels.
        seed: the seed of the weights.

    Raises:
        UserError: if no such classifier exists on the Hub or on disk, its config.json cannot be built, or the user's
            own code fails.
    """
    config = make_config(network, size)
    for name, value in label_maps(class_names).items():
        setattr(config, name, value)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            return AutoModelForImageClassification.from_config(config, trust_remote_code=False)
        except OwnNetworkError as error:
            raise UserError(f"{network.model}: {error}") from None
        except (ValueError, RuntimeError, TypeError, ZeroDivisionError) as error:
            raise UserError(
                f"{network.model}: transformers cannot build an image classifier from its config: {first_line(error)}"
            ) from None


def make_config(network: Network, size: tuple[int, int]) -> PreTrainedConfig:
    """Return the transformers config of a network, without classes.

    Args:
        network: the recipe's section.
        size: (height, width) of the images, in pixels.
    """
    name, width = network.model, network.width
    if network.factory is not None:
        return SrelOwnConfig(factory=network.factory, source_sha256=network.source_sha256 or "")
    if name == "convnet":
        channels = scale_channels(CONVNET_WIDTH, width)
        return SrelConvNetConfig(hidden_size=channels, depth=convnet_depth(size), image_size=list(size))
    if name in RESNETS:
        return _resnet(network)
    if name in REGNETS:
        depths, channels_by_stage, group, layer = REGNETS[name]
        widths = [scale_channels(channels, width, min(group, channels)) for channels in channels_by_stage]
        return RegNetConfig(depths=depths, hidden_sizes=widths, groups_width=group, layer_type=layer)
    if name in VIT_HEADS:
        return _vit(name, width, size)
    if name == "swin_tiny":
        patch = 4 if min(size) >= 64 else 2 if min(size) >= 32 else 1
        window = max(1, min(7, min(size) // (8 * patch)))  # 7 as published, but no wider than the last stage
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
    return _config_from_elsewhere(network, size)


def _resnet(network: Network) -> PreTrainedConfig:
    depths, channels_by_stage, layer = RESNETS[network.model]
    config_class = ResNetConfig if network.stem == "imagenet" else SrelResNetConfig
    return config_class(
        depths=depths,
        hidden_sizes=[scale_channels(channels, network.width) for channels in channels_by_stage],
        embedding_size=scale_channels(64, network.width),
        layer_type=layer,
    )


def _vit(name: str, width: float, size: tuple[int, int]) -> PreTrainedConfig:
    """Return the config of a ViT, a DeiT (Touvron et al., 2021), which is a smaller ViT, or a BN-ViT.

    Patches are 16 pixels wide for images of 224 pixels, 8 for 64, 4 for 32.
    """
    heads = VIT_HEADS[name]
    hidden = scale_channels(64 * heads, width, heads)
    patch = min(16, 1 << max(0, (min(size) // 8).bit_length() - 1))
    config_class = SrelBnVitConfig if name.startswith("bn_") else ViTConfig
    return config_class(
        hidden_size=hidden,
        num_attention_heads=heads,
        intermediate_size=4 * hidden,
        image_size=list(size),
        patch_size=patch,
    )


def _config_from_elsewhere(network: Network, size: tuple[int, int]) -> PreTrainedConfig:
    """Return the config of a classifier on the Hub or on disk, for images of `size` (height, width)."""
    config = copy.deepcopy(_read_config(network.model, network.revision)[0])
    if "image_size" in config.to_dict():
        config.image_size = size[0] if size[0] == size[1] else list(size)
    return config


def hub_commit(network: Network) -> str | None:
    """Return the commit at which an architecture was read from the Hub.

    None for named and own networks, and for networks that are read from disk.
    """
    return None if network.is_named or network.factory else _read_config(network.model, network.revision)[1]


@functools.cache  # once per process, so that all students are the same if the file on the Hub changes meanwhile
def _read_config(path: str, revision: str | None) -> tuple[PreTrainedConfig, str | None]:
    """Return a config from the Hub or from disk, and its commit."""
    folder = fetch(Pretrained(path=path, revision=revision), path, ("config.json",))
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # files from elsewhere make transformers raise almost any exception
        raise UserError(f"{path}: transformers cannot read its config.json: {first_line(error)}") from None
    config.name_or_path = ""  # else a local path would be saved, and published, with the network
    # A snapshot in huggingface_hub's cache is a folder named by its commit.
    return config, folder.name if folder.parent.name == "snapshots" else None


def convnet_depth(size: tuple[int, int]) -> int:
    """Return the number of ConvNet blocks that reduce an image to about 4 x 4 pixels: 3 for 32 pixels, 4 for 64.

    These are the depths of the dataset-condensation literature.
    """
    return max(1, min(size).bit_length() - 3)


def scale_channels(channels: int, width: float, multiple: int = 4) -> int:
    """Return channels * width, rounded to a multiple of `multiple`, as bottlenecks, groups and heads require."""
    return max(multiple, round(channels * width / multiple) * multiple)


def require_usable(network: nn.Module, num_classes: int, size: tuple[int, int], where: str) -> None:
    """Check that a network on the meta device can process images, by running it on one image.

    Args:
        network: the network on the meta device, where running it is almost free.
        num_classes: K.
        size: (height, width) of the images, in pixels.
        where: the recipe's field, which begins the message.

    Raises:
        UserError: if the network cannot process images of this size, or returns another number of logits.
    """
    check_forward(network.eval(), torch.empty(1, 3, *size, device="meta"), num_classes, where)
