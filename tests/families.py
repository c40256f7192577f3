"""Small classifiers of transformers' families with random weights, saved as their authors save them."""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForImageClassification,
    BitConfig,
    ConvNextConfig,
    EfficientNetConfig,
    HGNetV2Config,
    MobileNetV1Config,
    MobileNetV2Config,
    MobileViTConfig,
    RegNetConfig,
    ResNetConfig,
    ViTConfig,
)
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil
from transformers.models.efficientnet.image_processing_pil_efficientnet import EfficientNetImageProcessorPil
from transformers.models.mobilenet_v1.image_processing_pil_mobilenet_v1 import MobileNetV1ImageProcessorPil
from transformers.models.mobilenet_v2.image_processing_pil_mobilenet_v2 import MobileNetV2ImageProcessorPil
from transformers.models.mobilevit.image_processing_pil_mobilevit import MobileViTImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil


STAGES: dict[str, Any] = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
HGNET: dict[str, Any] = {
    "stem_channels": [3, 8, 12],
    "embedding_size": 12,
    "hidden_sizes": [16, 16, 24, 24],
    "depths": [1, 1, 1, 1],
    "stage_in_channels": [12, 16, 16, 24],
    "stage_mid_channels": [8, 8, 8, 8],
    "stage_out_channels": [16, 16, 24, 24],
    "stage_num_blocks": [1, 1, 1, 1],
}
VIT: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
SHORT, SQUARE = {"shortest_edge": 36}, {"height": 32, "width": 32}

WITH_BATCHNORM: dict[str, tuple[Any, Any]] = {
    "resnet": (
        ResNetConfig(embedding_size=8, layer_type="basic", **STAGES),
        ConvNextImageProcessorPil(size={"shortest_edge": 32}, crop_pct=0.875, **IMAGENET),
    ),
    "regnet": (
        RegNetConfig(embedding_size=8, groups_width=8, **STAGES),
        ConvNextImageProcessorPil(size={"shortest_edge": 32}, crop_pct=0.875, **IMAGENET),
    ),
    "mobilenet_v1": (
        MobileNetV1Config(depth_multiplier=0.25),
        MobileNetV1ImageProcessorPil(size=SHORT, crop_size=SQUARE),
    ),
    "mobilenet_v2": (
        MobileNetV2Config(depth_multiplier=0.25),
        MobileNetV2ImageProcessorPil(size=SHORT, crop_size=SQUARE),
    ),
    "efficientnet": (
        EfficientNetConfig(width_coefficient=0.25, depth_coefficient=0.1, hidden_dim=320),
        EfficientNetImageProcessorPil(size=SQUARE, **IMAGENET),  # divides by the deviation twice
    ),
    "hgnet_v2": (HGNetV2Config(**HGNET), ViTImageProcessorPil(size=SQUARE, **IMAGENET)),
    "mobilevit": (
        MobileViTConfig(hidden_sizes=[16, 16, 16], neck_hidden_sizes=[8, 8, 16, 16, 16, 16, 32], image_size=32),
        MobileViTImageProcessorPil(size=SHORT, crop_size=SQUARE),  # blue first
    ),
}
WITHOUT_BATCHNORM: dict[str, tuple[Any, Any]] = {
    "convnext": (ConvNextConfig(**STAGES), ConvNextImageProcessorPil(size={"shortest_edge": 32})),
    "vit": (ViTConfig(image_size=32, patch_size=8, **VIT), ViTImageProcessorPil(size=SQUARE)),
    "bit": (
        BitConfig(num_groups=4, embedding_size=32, hidden_sizes=[32] * 4, depths=[1] * 4),
        BitImageProcessorPil(size=SHORT, crop_size=SQUARE),
    ),
}


def save_family(name: str, folder: Path, class_names: list[str] | None = None, classes: int = 5) -> Path:
    """A classifier of the family; without `class_names`, transformers calls them LABEL_0, ..."""
    config, processor = (WITH_BATCHNORM | WITHOUT_BATCHNORM)[name]
    names = class_names or [f"LABEL_{index}" for index in range(classes)]
    config.id2label = dict(enumerate(names))
    config.label2id = {label: index for index, label in enumerate(names)}
    torch.manual_seed(1)
    model = AutoModelForImageClassification.from_config(config).train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3 if parameter.ndim > 1 else 1)  # the usual start leaves all logits equal
        model(torch.randn(16, 3, 32, 32))  # moves the running statistics
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
