"""BN-ViT: a vision transformer that images can be recovered from, for it has BatchNorm where others have LayerNorm.

Every LayerNorm of a ViT gives way to a BatchNorm over batch and tokens, and a further one stands between the two
linear layers of each feed-forward block (SRe2L, Yin, Xing & Shen, 2023; after Yao et al., 2021). The file stands on
its own: it is copied into every teacher's Hub repository.
"""

from typing import Any

from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import ViTConfig, ViTForImageClassification
from transformers.models.vit.modeling_vit import ViTMLP


@strict
class SrelBnVitConfig(ViTConfig):
    """`ViTConfig` under another model type, so that the Auto classes build BatchNorm; `layer_norm_eps` is unused."""

    model_type = "srel_bn_vit"


class TokenBatchNorm(nn.Module):
    """BatchNorm of tokens [B, T, C] by the statistics of all tokens of a batch.

    Its `layer` is a BatchNorm2d that sees [B, C, T, 1], so that whatever matches, groups or counts those finds it.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layer = nn.BatchNorm2d(channels)

    def forward(self, tokens: Tensor) -> Tensor:
        normalized: Tensor = self.layer(tokens.transpose(1, 2).unsqueeze(-1))
        return normalized.squeeze(-1).transpose(1, 2)


class BnMLP(ViTMLP):
    """A feed-forward block with BatchNorm between its linear layers, before the activation."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.norm = TokenBatchNorm(config.intermediate_size)

    def forward(self, tokens: Tensor) -> Tensor:
        result: Tensor = self.fc2(self.activation_fn(self.norm(self.fc1(tokens))))
        return result


class SrelBnVitForImageClassification(ViTForImageClassification):
    """Image classifier; `pixel_values` float [B, 3, H, W] to `logits` [B, num_labels]."""

    config_class = SrelBnVitConfig

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.vit.layernorm = TokenBatchNorm(config.hidden_size)
        for block in self.vit.layers:
            block.layernorm_before = TokenBatchNorm(config.hidden_size)
            block.layernorm_after = TokenBatchNorm(config.hidden_size)
            block.mlp = BnMLP(config)
        self.post_init()
