"""ShuffleNetV2: half of the channels skip each unit, and channels are shuffled after it (Ma et al., 2018).

The names of the layers are those of torchvision, so that its weights load unchanged.

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
class SrelShuffleNetConfig(PreTrainedConfig):
    """The shape of a ShuffleNetV2.

    Attributes:
        num_channels: of the images.
        stem: channels of the first convolution.
        hidden_sizes: channels of the three stages.
        depths: units of the three stages.
        head: channels of the last convolution.
    """

    model_type = "srel_shufflenet"
    num_channels: int = 3
    stem: int = 24
    hidden_sizes: list[int] | tuple[int, ...] = (116, 232, 464)
    depths: list[int] | tuple[int, ...] = (4, 8, 4)
    head: int = 1024


def pointwise(inputs: int, outputs: int) -> list[nn.Module]:
    """Return a 1x1 convolution, BatchNorm and ReLU."""
    return [nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]


def depthwise(channels: int, stride: int) -> list[nn.Module]:
    """Return a 3x3 convolution of each channel on its own, and BatchNorm."""
    return [nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False), nn.BatchNorm2d(channels)]


class Unit(nn.Module):
    """A unit: with stride 1, half of the channels are not changed; with stride 2, two branches read all channels."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        half, self.stride = outputs // 2, stride
        first = [*depthwise(inputs, stride), *pointwise(inputs, half)] if stride > 1 else []
        self.branch1 = nn.Sequential(*first)
        read = inputs if stride > 1 else half
        self.branch2 = nn.Sequential(*pointwise(read, half), *depthwise(half, stride), *pointwise(half, half))

    def forward(self, x: Tensor) -> Tensor:
        """Map x [B, inputs, H, W] to [B, outputs, H / stride, W / stride]."""
        kept, read = (self.branch1(x), x) if self.stride > 1 else x.chunk(2, 1)
        joined = torch.cat([kept, self.branch2(read)], 1)
        shuffled: Tensor = joined.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)
        return shuffled


class SrelShuffleNetForImageClassification(PreTrainedModel):
    """Image classifier from `pixel_values` float [B, 3, H, W] to `logits` [B, num_labels]."""

    config_class = SrelShuffleNetConfig
    main_input_name = "pixel_values"
    input_modalities = ("image",)

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        stem = nn.Conv2d(config.num_channels, config.stem, 3, 2, 1, bias=False)
        self.conv1 = nn.Sequential(stem, nn.BatchNorm2d(config.stem), nn.ReLU())
        self.pool = nn.MaxPool2d(3, 2, 1)
        channels = config.stem
        for index, (width, depth) in enumerate(zip(config.hidden_sizes, config.depths, strict=True), 2):
            units = [Unit(channels, width, 2), *(Unit(width, width, 1) for _ in range(depth - 1))]
            self.add_module(f"stage{index}", nn.Sequential(*units))
            channels = width
        self.conv5 = nn.Sequential(*pointwise(channels, config.head))
        self.fc = nn.Linear(config.head, config.num_labels)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(
        self, pixel_values: Tensor, labels: Tensor | None = None, **kwargs: Any
    ) -> ImageClassifierOutputWithNoAttention:
        """Return `logits` [B, num_labels] and, with `labels` int64 [B], the mean cross-entropy as `loss`."""
        x = self.pool(self.conv1(pixel_values))
        for stage in (self.stage2, self.stage3, self.stage4):
            x = stage(x)
        logits = self.fc(self.conv5(x).mean((2, 3)))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return ImageClassifierOutputWithNoAttention(loss=loss, logits=logits)
