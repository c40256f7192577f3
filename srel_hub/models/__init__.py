"""Networks that transformers does not have. Importing this package registers them with its Auto classes."""

from transformers import AutoConfig, AutoModelForImageClassification

from srel_hub.models.bn_vit import SrelBnVitConfig, SrelBnVitForImageClassification
from srel_hub.models.convnet import SrelConvNetConfig, SrelConvNetForImageClassification
from srel_hub.models.densenet import SrelDenseNetConfig, SrelDenseNetForImageClassification
from srel_hub.models.mobile import SrelMobileNetConfig, SrelMobileNetForImageClassification
from srel_hub.models.own import SrelOwnConfig, SrelOwnForImageClassification
from srel_hub.models.resnet import SrelResNetConfig, SrelResNetForImageClassification
from srel_hub.models.shufflenet import SrelShuffleNetConfig, SrelShuffleNetForImageClassification


__all__ = [
    "SrelBnVitConfig",
    "SrelBnVitForImageClassification",
    "SrelConvNetConfig",
    "SrelConvNetForImageClassification",
    "SrelDenseNetConfig",
    "SrelDenseNetForImageClassification",
    "SrelMobileNetConfig",
    "SrelMobileNetForImageClassification",
    "SrelOwnConfig",
    "SrelOwnForImageClassification",
    "SrelResNetConfig",
    "SrelResNetForImageClassification",
    "SrelShuffleNetConfig",
    "SrelShuffleNetForImageClassification",
]

for _config, _model in (
    (SrelResNetConfig, SrelResNetForImageClassification),
    (SrelConvNetConfig, SrelConvNetForImageClassification),
    (SrelBnVitConfig, SrelBnVitForImageClassification),
    (SrelDenseNetConfig, SrelDenseNetForImageClassification),
    (SrelMobileNetConfig, SrelMobileNetForImageClassification),
    (SrelShuffleNetConfig, SrelShuffleNetForImageClassification),
    (SrelOwnConfig, SrelOwnForImageClassification),
):
    AutoConfig.register(_config.model_type, _config)
    AutoModelForImageClassification.register(_config, _model)
