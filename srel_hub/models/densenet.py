"""DenseNet: every layer of a block reads the outputs of all layers before it (Huang et al., 2017).

The names of the layers are those of torchvision and timm, so that their weights load unchanged.

This file is self-contained, because a copy of it is saved with every teacher.
"""

from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention


@strict
class SrelDenseNetConfig(PreTrainedConfig):
    """The shape of a DenseNet.

    Attributes:
        num_channels: of the images.
        stem: channels of the first convolution.
        growth: channels that each layer adds.
        bottleneck: factor on `growth` for the channels inside a layer.
        layers: number of layers of each block.
    """

    model_type = "srel_densenet"
    num_channels: int = 3
    stem: int = 64
    growth: int = 32
    bottleneck: int = 4
    layers: list[int] | tuple[int, ...] = (6, 12, 24, 16)


class DenseLayer(nn.Module):
    """BatchNorm, ReLU and a 1x1 convolution, then BatchNorm, ReLU and a 3x3 convolution."""

    def __init__(self, inputs: int, growth: int, inner: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, inner, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return x [B, C, H, W] with `growth` more channels."""
        y = self.conv1(self.norm1(x).relu())
        return torch.cat([x, self.conv2(self.norm2(y).relu())], 1)


class Transition(nn.Module):
    """BatchNorm, ReLU, a 1x1 convolution to half of the channels, and 2x2 average pooling."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(inputs)
        self.conv = nn.Conv2d(inputs, inputs // 2, 1, bias=False)
        self.pool = nn.AvgPool2d(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [B, C, H, W] to [B, C / 2, H / 2, W / 2]."""
        result: Tensor = self.pool(self.conv(self.norm(x).relu()))
        return result


class SrelDenseNetForImageClassification(PreTrainedModel):
    """Image classifier from `pixel_values` float [B, 3, H, W] to `logits` [B, num_labels]."""

    config_class = SrelDenseNetConfig
    main_input_name = "pixel_values"
    input_modalities = ("image",)

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        channels, parts = config.stem, nn.Sequential()
        parts.add_module("conv0", nn.Conv2d(config.num_channels, channels, 7, 2, 3, bias=False))
        parts.add_module("norm0", nn.BatchNorm2d(channels))
        parts.add_module("relu0", nn.ReLU())
        parts.add_module("pool0", nn.MaxPool2d(3, 2, 1))
        for index, count in enumerate(config.layers, 1):
            block = nn.Sequential()
            for layer in range(1, count + 1):
                inner = config.bottleneck * config.growth
                block.add_module(f"denselayer{layer}", DenseLayer(channels, config.growth, inner))
                channels += config.growth
            parts.add_module(f"denseblock{index}", block)
            if index < len(config.layers):
                parts.add_module(f"transition{index}", Transition(channels))
                channels //= 2
        parts.add_module("norm5", nn.BatchNorm2d(channels))
        self.features = parts
        self.classifier = nn.Linear(channels, config.num_labels)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight)

    def forward(
        self, pixel_values: Tensor, labels: Tensor | None = None, **kwargs: Any
    ) -> ImageClassifierOutputWithNoAttention:
        """Return `logits` [B, num_labels] and, with `labels` int64 [B], the mean cross-entropy as `loss`."""
        logits = self.classifier(self.features(pixel_values).relu().mean((2, 3)))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return ImageClassifierOutputWithNoAttention(loss=loss, logits=logits)
