"""Networks that transformers does not have. Importing this package registers them with its Auto classes."""

from transformers import AutoConfig, AutoModelForImageClassification

from srel_hub.models.bn_vit import SrelBnVitConfig, SrelBnVitForImageClassification
from srel_hub.models.convnet import SrelConvNetConfig, SrelConvNetForImageClassification
from srel_hub.models.own import SrelOwnConfig, SrelOwnForImageClassification
from srel_hub.models.resnet import SrelResNetConfig, SrelResNetForImageClassification


__all__ = [
    "SrelBnVitConfig",
    "SrelBnVitForImageClassification",
    "SrelConvNetConfig",
    "SrelConvNetForImageClassification",
    "SrelOwnConfig",
    "SrelOwnForImageClassification",
    "SrelResNetConfig",
    "SrelResNetForImageClassification",
]

for _config, _model in (
    (SrelResNetConfig, SrelResNetForImageClassification),
    (SrelConvNetConfig, SrelConvNetForImageClassification),
    (SrelBnVitConfig, SrelBnVitForImageClassification),
    (SrelOwnConfig, SrelOwnForImageClassification),
):
    AutoConfig.register(_config.model_type, _config)
    AutoModelForImageClassification.register(_config, _model)
