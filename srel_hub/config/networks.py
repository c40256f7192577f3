"""Classifiers in a recipe: existing ones (`Pretrained`) and networks to train from scratch (`Network`)."""

import difflib
import re
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from srel_hub.config.fields import (
    FACTORY,
    LINE,
    SPARSE,
    STRICT,
    Color,
    Line,
    Sha256,
    Side,
    Spread,
    Width,
    is_local,
    public_name,
    require,
    section_of_path,
)


NETWORKS = (  # built by name; any other model is read from its config.json
    *("resnet18", "resnet34", "resnet50", "resnet101", "convnet", "deit_tiny", "deit_small", "vit_base"),
    *("bn_vit_tiny", "bn_vit_small", "swin_tiny", "convnextv2_tiny", "regnet_x_8gf", "regnet_y_400mf"),
    *("mobilenet_v2", "efficientnet_b0"),
)


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """An existing classifier. The path alone may replace the section: `pretrained: org/classifier`."""

    __pydantic_config__ = STRICT

    path: Line
    """Hub id, local folder (such as `teacher` of another run, or one that `save_teacher` wrote), or a file of weights
    (`.safetensors`, `.pth`, `.pt`, `.bin`) with the names of torchvision or timm. For squeeze, the file may also have
    the weights of `squeeze.network`."""

    revision: Line | None = None
    """Branch, tag or commit of the classifier on the Hub. null: the main branch."""

    class_names: tuple[Line, ...] | None = None
    """Names of the classes, in the classifier's order. Required only if its files do not name them."""

    mean: Color | None = field(default=None, metadata=SPARSE)
    """Mean of each RGB channel that the classifier was trained with, from 0 to 1. Only for a file of weights. null:
    ImageNet's, if the file has the names of torchvision or timm."""

    std: Spread | None = field(default=None, metadata=SPARSE)
    """Standard deviation of each RGB channel that the classifier was trained with. Only for a file of weights."""

    size: Side | None = field(default=None, metadata=SPARSE)
    """Height and width in pixels of the images that the classifier was trained on. Only for a file of weights. null:
    224, if the file has the names of torchvision or timm."""

    def __post_init__(self) -> None:
        require(
            (self.mean is None) == (self.std is None),
            "mean and std: one is set and the other is null; set both, or remove both",
        )


Teacher = Annotated[Pretrained, BeforeValidator(section_of_path, json_schema_input_type=Pretrained | Line)]


def _check_model(name: str) -> str:
    """Reject a name that is not in NETWORKS and cannot be a Hub id, a folder or a factory."""
    if name not in NETWORKS and "/" not in name and not is_local(name) and not re.fullmatch(FACTORY, name):
        nearest = difflib.get_close_matches(name, NETWORKS, n=1)
        hint = f"; did you mean {nearest[0]}?" if nearest else ""
        raise ValueError(f"must be one of {', '.join(NETWORKS)}, a Hub id or a folder, got {name!r}{hint}")
    return name


Model = Annotated[
    Line,
    AfterValidator(_check_model),
    # The names are listed so that editors complete them.
    WithJsonSchema({"anyOf": [{"enum": list(NETWORKS), "type": "string"}, {"pattern": LINE, "type": "string"}]}),
]


def _check_factory(name: str) -> str:
    """Reject text that is not `module:function`."""
    if not re.fullmatch(FACTORY, name):
        raise ValueError(
            "must be a module and its name for a callable, such as my_net:build for `build` in the file my_net.py, "
            f"got {name!r}"
        )
    return name


Factory = Annotated[str, AfterValidator(_check_factory), Field(json_schema_extra={"pattern": FACTORY})]


@dataclass(frozen=True, kw_only=True)
class Network:
    """A classifier to train from scratch. Set either `model` or `factory`."""

    __pydantic_config__ = STRICT

    model: Model = "resnet18"
    """Name of a network, or Hub id or local folder of a transformers classifier. Of the latter, only the architecture
    (config.json) is used, not the weights."""

    revision: Line | None = None
    """Branch, tag or commit of a model on the Hub. null: the main branch."""

    width: Width = 1.0
    """Factor on the number of channels of every layer. Only for networks with a name."""

    stem: Literal["small", "imagenet"] = "small"
    """First layers of a ResNet. `small`: a 3 x 3 convolution with stride 1, for images of 32 and 64 pixels.
    `imagenet`: a 7 x 7 convolution with stride 2 and max pooling, for 128 pixels and more, where the small stem costs
    15 times as much."""

    factory: Factory | None = field(default=None, metadata=SPARSE)
    """A network of your own: `my_net:build` is the function `build` in the file my_net.py. It returns a
    `torch.nn.Module` that maps images [B, 3, H, W] to logits [B, K], and may have a parameter `num_classes`. Requires
    `run.imports: [my_net]`."""

    source_sha256: Sha256 | None = field(default=None, metadata=SPARSE)
    """sha256 of the factory's file. A run stores it, because a change of the file changes the results. null: the file
    as it is."""

    def __post_init__(self) -> None:
        if self.factory is not None:
            require(
                self.model in (self.factory, "resnet18"),
                f"factory={self.factory}: model={self.model} is set too, but a network has one of them; replace the "
                f"whole section with {{factory: {self.factory}}}",
            )
            object.__setattr__(self, "model", self.factory)  # what else reads the model's name
        require(
            self.factory is not None or not re.fullmatch(FACTORY, self.model),
            f"model={self.model}: a function of your own is set by factory={self.model}",
        )
        require(
            self.factory is not None or self.source_sha256 is None,
            f"source_sha256: only for a factory; remove it for {self.model}",
        )
        require(
            self.stem == "small" or (self.is_named and self.model.startswith("resnet")),
            f"stem={self.stem}: only ResNets have this option; remove it for {self.model}",
        )
        require(
            self.is_named or self.width == 1,
            f"width={self.width:g}: only networks with a name have a width, and that of {self.model} is set by its "
            f"{'code' if self.factory else 'config.json'}; remove it or set 1",
        )
        require(
            self.revision is None or not (self.is_named or self.factory or is_local(self.model)),
            f"revision={self.revision}: {self.model} is not on the Hub, so it has no revisions; remove it",
        )

    @property
    def is_named(self) -> bool:
        """Whether the model is one of NETWORKS."""
        return self.model in NETWORKS

    @property
    def shown(self) -> str:
        """The model as cards show it: without the parent folders of a local path."""
        return self.model if self.is_named or self.factory else public_name(self.model)

    @property
    def title(self) -> str:
        """Text for tables and cards, such as 'resnet18 x 0.25' or 'org/classifier'."""
        return network_title(self.shown, self.width, self.stem)

    @property
    def name(self) -> str:
        """A file name that is different for different networks, such as 'resnet18-0.25'."""
        stem = "" if self.stem == "small" else f"-{self.stem}"
        stem += "" if self.source_sha256 is None else f"-{self.source_sha256[:8]}"  # a changed file is another network
        model = re.sub(r"[^A-Za-z0-9._-]+", "--", self.shown)
        return f"{model}{stem}-{str(self.width).removesuffix('.0')}"


def network_title(model: str, width: float, stem: str = "small") -> str:
    """Return the text for a network in tables and cards.

    Args:
        model: Name in NETWORKS, or any other name, which is returned unchanged.
        width: Factor on the channels.
        stem: First layers of a ResNet; named only if it is not the small stem.

    Returns:
        For example 'resnet18 x 0.25' or 'resnet18 x 1 imagenet stem'.
    """
    if model not in NETWORKS:
        return model
    return f"{model} x {width:g}{'' if stem == 'small' else f' {stem} stem'}"
