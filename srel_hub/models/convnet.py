"""ConvNet: the plain network of the dataset-condensation literature, with BatchNorm (Gidaris & Komodakis, 2018).

It has `depth` blocks of 3x3 convolution, BatchNorm, ReLU and 2x2 average pooling, and one linear layer.

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
class SrelConvNetConfig(PreTrainedConfig):
    """The shape of a ConvNet.

    Attributes:
        num_channels: of the images.
        hidden_size: channels of every block.
        depth: number of blocks; each halves height and width.
        image_size: (height, width) in pixels. Images must have this size, because the linear layer's input depends on
            it.
    """

    model_type = "srel_convnet"
    num_channels: int = 3
    hidden_size: int = 128
    depth: int = 3
    image_size: list[int] | tuple[int, ...] = (32, 32)


class SrelConvNetForImageClassification(PreTrainedModel):
    """Image classifier from `pixel_values` float [B, 3, H, W] to `logits` [B, num_labels]."""

    config_class = SrelConvNetConfig
    main_input_name = "pixel_values"
    input_modalities = ("image",)

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        channels = [config.num_channels] + [config.hidden_size] * config.depth
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(inner, outer, 3, padding=1, bias=False),  # BatchNorm would remove a bias
                    nn.BatchNorm2d(outer),
                    nn.ReLU(),
                    nn.AvgPool2d(2),
                )
                for inner, outer in zip(channels, channels[1:], strict=False)
            )
        )
        height, width = (side >> config.depth for side in config.image_size)
        self.classifier = nn.Linear(config.hidden_size * height * width, config.num_labels)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(
        self, pixel_values: Tensor, labels: Tensor | None = None, **kwargs: Any
    ) -> ImageClassifierOutputWithNoAttention:
        """Return `logits` [B, num_labels] and, with `labels` int64 [B], the mean cross-entropy as `loss`."""
        logits = self.classifier(self.blocks(pixel_values).flatten(1))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return ImageClassifierOutputWithNoAttention(loss=loss, logits=logits)
