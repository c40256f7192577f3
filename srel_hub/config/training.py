"""config.training."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from srel_hub.config.fields import (
    STRICT,
    Interval,
    NonNegative,
    Number,
    Positive,
    Side,
    Whole,
    _check_interval,
    _require,
)


@dataclass(frozen=True, kw_only=True)
class Augment:
    """What is done to an image before a network sees it, each time anew.

    `resized` is torchvision's RandomResizedCrop, `padded` a crop of the image's own size out of the image with
    `padding` black pixels around it. A mix is applied to every image.
    """

    __pydantic_config__ = STRICT
    patches: Annotated[int, Number, Field(ge=1, le=16)] = 1  # a side; the image's patches are shuffled before the crop
    crop: Literal["none", "resized", "padded"] = "resized"  # a random box, enlarged, or a random shift
    scale: Interval = (0.08, 1.0)  # resized: the box's share of the image's area, at most 1
    ratio: Interval = (3 / 4, 4 / 3)  # resized: the box's width by its height
    padding: Side = 4  # padded: black pixels on each side
    flip: bool = True  # left to right, half of the time
    mix: Literal["none", "cutmix", "mixup"] = "none"  # of two images: a box of the other, or a blend
    mix_alpha: Positive = 1.0  # the share is drawn from Beta(alpha, alpha)

    def __post_init__(self) -> None:
        _check_interval("scale", self.scale, highest=1)
        _check_interval("ratio", self.ratio)


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """SGD with momentum or AdamW, linear warm-up from a hundredth, then a cosine, stepped per epoch.

    The cosine is one to 0 over `smoothing` times the epochs, so that 2 ends at half of the learning rate.
    """

    __pydantic_config__ = STRICT
    kind: Literal["sgd", "adamw"] = "sgd"  # SGD with momentum, or AdamW
    lr: Positive = 0.1  # learning rate at the top of the schedule
    momentum: NonNegative = 0.9  # sgd only
    weight_decay: NonNegative = 5e-4  # AdamW's is decoupled
    decay_all: bool = True  # false: biases and BatchNorm parameters are not decayed
    warmup_epochs: Whole = 0  # from a hundredth of lr up to it
    smoothing: Annotated[float, Number, Field(ge=1, allow_inf_nan=False)] = 1.0  # 2: the cosine ends at half of lr


def _adamw() -> Optimizer:
    return Optimizer(kind="adamw", lr=1e-3, weight_decay=0.01)


def _check_warmup(optimizer: Optimizer, epochs: int) -> None:
    warmup = optimizer.warmup_epochs
    _require(warmup < epochs, f"optimizer.warmup_epochs={warmup}: must be less than epochs={epochs}")
