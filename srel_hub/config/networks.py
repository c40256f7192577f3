"""config.networks."""

import difflib
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from srel_hub.config.fields import STRICT, Line, Width, _require, is_local, public_name


NETWORKS = (  # that have a name here
    *("resnet18", "resnet34", "resnet50", "resnet101", "convnet", "deit_tiny", "deit_small", "vit_base"),
    *("bn_vit_tiny", "bn_vit_small", "swin_tiny", "convnextv2_tiny", "regnet_x_8gf", "regnet_y_400mf"),
    *("mobilenet_v2", "efficientnet_b0"),
)


def _path_alone(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A classifier that exists: a Hub id, a local folder or a .safetensors file with torchvision's ResNet names.

    A path alone may stand for the section: `pretrained: org/classifier`.
    """

    __pydantic_config__ = STRICT
    path: Line  # Hub id, local folder or file; a run's `teacher` folder too
    revision: Line | None = None  # branch, tag or commit on the Hub
    class_names: tuple[Line, ...] | None = None  # in the teacher's order, where its files do not name them


Teacher = Annotated[Pretrained, BeforeValidator(_path_alone)]


def _known_network(name: str) -> str:
    """Refuse what is neither a name of a network nor may be a place."""
    if name not in NETWORKS and "/" not in name and not is_local(name):
        nearest = difflib.get_close_matches(name, NETWORKS, n=1)
        hint = f" (nearest: {nearest[0]})" if nearest else ""
        raise ValueError(f"input should be one of {', '.join(NETWORKS)}, a Hub id or a folder{hint}, got {name!r}")
    return name


Model = Annotated[
    Line, AfterValidator(_known_network), Field(title=f"{', '.join(NETWORKS)}, a Hub id or a local folder")
]


@dataclass(frozen=True, kw_only=True)
class Network:
    """A classifier to train from scratch: one with a name here, or with the architecture (its config.json, not its
    weights) of a transformers classifier on the Hub or in a folder.

    `width` multiplies every layer's channels. A ResNet's stem is `small` (3x3 convolution, stride 1, no pooling: for
    32 and 64 pixels) or `imagenet` (7x7, stride 2, pooled: for 128 pixels and more, where the small one costs 15 times
    as much).
    """

    __pydantic_config__ = STRICT
    model: Model = "resnet18"  # elsewhere than here, its config.json is read, not its weights
    revision: Line | None = None  # branch, tag or commit of a Hub id
    width: Width = 1.0  # times every layer's channels
    stem: Literal["small", "imagenet"] = "small"  # a ResNet's: for 32 and 64 pixels, or for 128 and more

    def __post_init__(self) -> None:
        _require(
            self.stem == "small" or (self.is_named and self.model.startswith("resnet")),
            f"stem={self.stem}: only a ResNet has one to choose; leave it out of {self.model}",
        )
        _require(
            self.is_named or self.width == 1,
            f"width={self.width:g}: {self.model} is as wide as its config.json says; leave it out, or set 1",
        )
        _require(
            self.revision is None or not (self.is_named or is_local(self.model)),
            f"revision={self.revision}: {self.model} is not on the Hub and has none; leave it out",
        )

    @property
    def is_named(self) -> bool:
        """Whether it is one of ours."""
        return self.model in NETWORKS

    @property
    def shown(self) -> str:
        """The model as others may see it."""
        return self.model if self.is_named else public_name(self.model)

    @property
    def title(self) -> str:
        """'resnet18 x 0.25', 'org/classifier'."""
        return network_title(self.shown, self.width, self.stem)

    @property
    def name(self) -> str:
        """'resnet18-0.25', unlike any other network's; may name a file."""
        stem = "" if self.stem == "small" else f"-{self.stem}"
        model = re.sub(r"[^A-Za-z0-9._-]+", "--", self.shown)
        return f"{model}{stem}-{str(self.width).removesuffix('.0')}"


def network_title(model: str, width: float, stem: str = "small") -> str:
    """'resnet18 x 0.25', with the stem where it is not the small one; a network without a name here has no width."""
    if model not in NETWORKS:
        return model
    return f"{model} x {width:g}{'' if stem == 'small' else f' {stem} stem'}"
