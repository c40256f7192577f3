"""Networks of inverted residual blocks: MobileNetV3, EfficientNet and EfficientNet-Lite, with their published options.

A block expands the channels with a 1x1 convolution, convolves each channel on its own (depthwise), may rescale the
channels (squeeze and excitation), and projects to its output channels (Sandler et al., 2018; Howard et al., 2019; Tan &
Le, 2019). The EfficientNet of transformers pads images in TensorFlow's way only, and always rescales channels.

This file is self-contained, because a copy of it is saved with every teacher.
"""

from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention


ACTIVATIONS = {"relu": nn.ReLU, "relu6": nn.ReLU6, "silu": nn.SiLU, "hardswish": nn.Hardswish}
GATES = {"sigmoid": nn.Sigmoid, "hardsigmoid": nn.Hardsigmoid}


@strict
class SrelMobileNetConfig(PreTrainedConfig):
    """The shape of a network.

    Attributes:
        num_channels: of the images.
        stem: channels of the first convolution, which has stride 2.
        blocks: for each block, its `kernel`, `stride`, `inputs`, `expanded` and `outputs` channels, `squeeze` channels
            (0: channels are not rescaled) and `activation`.
        head: channels of the last convolution.
        hidden: width of the linear layer after pooling, as in MobileNetV3; 0 if there is none.
        activation: of stem, head and hidden layer.
        squeeze_activation: between the two layers of squeeze and excitation.
        gate: of squeeze and excitation.
        norm_eps: of BatchNorm.
        same_padding: whether convolutions with stride 2 pad like TensorFlow, more at the bottom and at the right.
        dropout: before the last layer.
    """

    model_type = "srel_mobilenet"
    num_channels: int = 3
    stem: int = 32
    blocks: list[dict[str, Any]] | tuple[dict[str, Any], ...] = ()
    head: int = 1280
    hidden: int = 0
    activation: str = "silu"
    squeeze_activation: str = "silu"
    gate: str = "sigmoid"
    norm_eps: float = 1e-5
    same_padding: bool = False
    dropout: float = 0.2


class SamePadConv2d(nn.Conv2d):
    """A convolution whose output has ceil(size / stride) pixels, padded as TensorFlow's `SAME`."""

    def forward(self, x: Tensor) -> Tensor:
        """Convolve x [B, C, H, W]."""
        pads: list[int] = []
        for size, kernel, stride in zip(x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pads += [total // 2, total - total // 2]
        return super().forward(nn.functional.pad(x, pads))


class ConvNorm(nn.Module):
    """A convolution, BatchNorm and an activation."""

    def __init__(
        self, config: Any, inputs: int, outputs: int, kernel: int, stride: int, groups: int, activation: str | None
    ) -> None:
        super().__init__()
        layer = SamePadConv2d if config.same_padding and stride > 1 else nn.Conv2d
        padding = 0 if layer is SamePadConv2d else kernel // 2
        self.conv = layer(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs, eps=config.norm_eps)
        self.activation = nn.Identity() if activation is None else ACTIVATIONS[activation]()

    def forward(self, x: Tensor) -> Tensor:
        """Map x [B, inputs, H, W] to [B, outputs, H', W']."""
        result: Tensor = self.activation(self.norm(self.conv(x)))
        return result


class SqueezeExcite(nn.Module):
    """Rescales channels by factors that depend on the mean of every channel (Hu et al., 2018)."""

    def __init__(self, config: Any, channels: int, squeezed: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.activation = ACTIVATIONS[config.squeeze_activation]()
        self.expand = nn.Conv2d(squeezed, channels, 1)
        self.gate = GATES[config.gate]()

    def forward(self, x: Tensor) -> Tensor:
        """Rescale x [B, C, H, W]."""
        factors: Tensor = self.gate(self.expand(self.activation(self.reduce(x.mean((2, 3), keepdim=True)))))
        return x * factors


class InvertedResidual(nn.Module):
    """A block. It adds its input to its output if both have the same shape."""

    def __init__(self, config: Any, block: dict[str, Any]) -> None:
        super().__init__()
        inputs, expanded, outputs = block["inputs"], block["expanded"], block["outputs"]
        kernel, stride, activation = block["kernel"], block["stride"], block["activation"]
        self.expand = ConvNorm(config, inputs, expanded, 1, 1, 1, activation) if expanded != inputs else nn.Identity()
        self.depthwise = ConvNorm(config, expanded, expanded, kernel, stride, expanded, activation)
        self.squeeze = SqueezeExcite(config, expanded, block["squeeze"]) if block["squeeze"] else nn.Identity()
        self.project = ConvNorm(config, expanded, outputs, 1, 1, 1, None)
        self.is_residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Map x [B, inputs, H, W] to [B, outputs, H', W']."""
        y: Tensor = self.project(self.squeeze(self.depthwise(self.expand(x))))
        return x + y if self.is_residual else y


class SrelMobileNetForImageClassification(PreTrainedModel):
    """Image classifier from `pixel_values` float [B, 3, H, W] to `logits` [B, num_labels]."""

    config_class = SrelMobileNetConfig
    main_input_name = "pixel_values"
    input_modalities = ("image",)

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.stem = ConvNorm(config, config.num_channels, config.stem, 3, 2, 1, config.activation)
        self.blocks = nn.ModuleList(InvertedResidual(config, block) for block in config.blocks)
        last = config.blocks[-1]["outputs"] if config.blocks else config.stem
        self.head = ConvNorm(config, last, config.head, 1, 1, 1, config.activation)
        self.hidden = nn.Linear(config.head, config.hidden) if config.hidden else nn.Identity()
        self.hidden_activation = ACTIVATIONS[config.activation]() if config.hidden else nn.Identity()
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.hidden or config.head, config.num_labels)
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
        x = self.stem(pixel_values)
        for block in self.blocks:
            x = block(x)
        pooled = self.hidden_activation(self.hidden(self.head(x).mean((2, 3))))
        logits = self.classifier(self.dropout(pooled))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return ImageClassifierOutputWithNoAttention(loss=loss, logits=logits)
