"""BN-ViT: BatchNorm instead of LayerNorm, over batch and tokens, and saved with its source file."""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModelForImageClassification

from srel_hub.config import Network
from srel_hub.core.bn_matching import matched
from srel_hub.models.bn_vit import SrelBnVitForImageClassification, TokenBatchNorm
from srel_hub.teachers import architectures, classifier


def bn_vit(width: float = 0.25) -> SrelBnVitForImageClassification:
    built = architectures.build(Network(model="bn_vit_tiny", width=width), list("abc"), (32, 32), seed=1)
    assert isinstance(built, SrelBnVitForImageClassification)
    return built


def test_bn_vit_has_batchnorm_where_a_vit_has_layernorm_and_in_every_feed_forward_block() -> None:
    model = bn_vit()
    assert not [module for module in model.modules() if isinstance(module, nn.LayerNorm)]
    blocks = model.config.num_hidden_layers
    assert sum(isinstance(module, nn.BatchNorm2d) for module in model.modules()) == 3 * blocks + 1
    for block in model.vit.layers:
        assert block.mlp.norm.layer.num_features == block.mlp.fc1.out_features == block.mlp.fc2.in_features


def test_token_batchnorm_is_batchnorm_over_batch_and_tokens() -> None:
    layer, tokens = TokenBatchNorm(7).train(), torch.randn(5, 11, 7) * 3 + 1
    expected = F.batch_norm(tokens.flatten(0, 1), None, None, training=True).view_as(tokens)
    assert torch.allclose(layer(tokens), expected, atol=1e-5)
    plain = nn.BatchNorm1d(7).train()
    plain(tokens.flatten(0, 1))
    for name, value in plain.named_buffers():
        assert torch.allclose(layer.layer.get_buffer(name), value), name


def test_bn_vit_returns_the_distance_of_its_tokens_statistics() -> None:
    model, x = bn_vit().eval(), torch.randn(6, 3, 32, 32)
    inputs: dict[nn.Module, torch.Tensor] = {}
    norms = [module for module in model.modules() if isinstance(module, TokenBatchNorm)]
    for norm in norms:
        norm.register_forward_hook(lambda module, tokens, _: inputs.__setitem__(module, tokens[0]))
    with matched(model) as network:
        _, distances = network(x, groups=1)
    assert len(distances) == len(norms)
    for norm, distance in zip(norms, distances, strict=True):
        tokens = inputs[norm].flatten(0, 1)
        assert norm.layer.running_mean is not None and norm.layer.running_var is not None
        mean_off, var_off = (
            tokens.mean(0) - norm.layer.running_mean,
            tokens.var(0, correction=0) - norm.layer.running_var,
        )
        assert torch.allclose(distance, (mean_off.norm() + var_off.norm())[None], rtol=1e-4)


def test_bn_vit_comes_back_through_the_auto_classes(tmp_path: Path) -> None:
    model = bn_vit().train()
    model(torch.randn(8, 3, 32, 32))  # moves the running statistics
    saved = classifier.Classifier(model.eval(), (0.4, 0.5, 0.6), (0.2, 0.3, 0.25), tuple("abc"), (32, 32))
    classifier.save(saved, tmp_path)
    assert (tmp_path / "bn_vit.py").is_file()  # for those who have no srel_hub, and trust remote code
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "srel_bn_vit"
    again, x = AutoModelForImageClassification.from_pretrained(tmp_path).eval(), torch.randn(4, 3, 32, 32)
    assert type(again) is SrelBnVitForImageClassification
    assert torch.equal(again(x).logits, model(x).logits)
