"""BN-ViT: a vision transformer with BatchNorm instead of LayerNorm, so that images can be recovered from it.

Every LayerNorm of a ViT is replaced by a BatchNorm over batch and tokens, and each feed-forward block gets one more
between its two linear layers (SRe2L, Yin, Xing & Shen, 2023; after Yao et al., 2021).

This file is self-contained, because a copy of it is saved with every teacher.
"""

from typing import Any

from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import ViTConfig, ViTForImageClassification
from transformers.models.vit.modeling_vit import ViTMLP


@strict
class SrelBnVitConfig(ViTConfig):
    """`ViTConfig` under another model type, so that the Auto classes build the network below.

    `layer_norm_eps` is not used.
    """

    model_type = "srel_bn_vit"


class TokenBatchNorm(nn.Module):
    """BatchNorm of each channel over all tokens of a batch.

    Attributes:
        layer: a BatchNorm2d over [B, C, T, 1]. It is not a BatchNorm1d, because recover and relabel look for layers of
            type BatchNorm2d.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layer = nn.BatchNorm2d(channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """Normalize tokens [B, T, C]."""
        normalized: Tensor = self.layer(tokens.transpose(1, 2).unsqueeze(-1))
        return normalized.squeeze(-1).transpose(1, 2)


class BnMLP(ViTMLP):
    """A feed-forward block with BatchNorm between its linear layers, before the activation."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.norm = TokenBatchNorm(config.intermediate_size)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens [B, T, C] to tokens of the same shape."""
        result: Tensor = self.fc2(self.activation_fn(self.norm(self.fc1(tokens))))
        return result


class SrelBnVitForImageClassification(ViTForImageClassification):
    """Image classifier from `pixel_values` float [B, 3, H, W] to `logits` [B, num_labels]."""

    config_class = SrelBnVitConfig

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.vit.layernorm = TokenBatchNorm(config.hidden_size)
        for block in self.vit.layers:
            block.layernorm_before = TokenBatchNorm(config.hidden_size)
            block.layernorm_after = TokenBatchNorm(config.hidden_size)
            block.mlp = BnMLP(config)
        self.post_init()
