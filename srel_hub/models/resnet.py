"""ResNet for small images: transformers' ResNet with a 3x3 stem of stride 1 and no pooling.

SRe2L uses this stem at 32 and 64 pixels (He et al., 2016, section 4.2).

This file is self-contained, because a copy of it is saved with every teacher.
"""

from typing import Any

from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import ResNetConfig, ResNetForImageClassification
from transformers.models.resnet.modeling_resnet import ResNetConvLayer


@strict
class SrelResNetConfig(ResNetConfig):
    """`ResNetConfig` under another model type, so that the Auto classes build the small stem."""

    model_type = "srel_resnet"


class SrelResNetForImageClassification(ResNetForImageClassification):
    """Image classifier from `pixel_values` float [B, 3, H, W] to `logits` [B, num_labels]."""

    config_class = SrelResNetConfig

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        embedder = self.resnet.embedder
        embedder.embedder = ResNetConvLayer(config.num_channels, config.embedding_size, kernel_size=3)
        embedder.pooler = nn.Identity()
        self.post_init()
