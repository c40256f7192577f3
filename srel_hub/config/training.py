"""Settings of a training that several sections share: augmentation and optimizer."""

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
    check_interval,
    require,
)


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Random augmentation of an image, drawn again for each view: patches, crop, flip, mix, in this order."""

    __pydantic_config__ = STRICT

    patches: Annotated[int, Field(ge=1, le=16), Number] = 1
    """Cut the image into `patches` x `patches` tiles and shuffle them before the crop (RDED, section 3.3). 1: do not
    shuffle."""

    crop: Literal["none", "resized", "padded"] = "resized"
    """`resized`: enlarge a random box to the full size, as torchvision's RandomResizedCrop does. `padded`: shift the
    image by up to `padding` pixels, black beyond its border. `none`: keep the image as it is."""

    scale: Interval = (0.08, 1.0)
    """Lowest and highest area of the box, as a share of the image's area, at most 1. Only for `crop: resized`."""

    ratio: Interval = (3 / 4, 4 / 3)
    """Lowest and highest aspect ratio of the box (width / height). Only for `crop: resized`."""

    padding: Side = 4
    """Black pixels added on each side. Only for `crop: padded`."""

    flip: bool = True
    """Whether to mirror left to right with probability 1/2."""

    mix: Literal["none", "cutmix", "mixup"] = "none"
    """How to combine every image with another one. `cutmix`: paste a box of the other image (Yun et al., 2019).
    `mixup`: blend the two (Zhang et al., 2018). `none`: do not mix."""

    mix_alpha: Positive = 1.0
    """Parameter of the distribution Beta(alpha, alpha), from which the image's own share is drawn."""

    def __post_init__(self) -> None:
        check_interval("scale", self.scale, highest=1)
        check_interval("ratio", self.ratio)


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """Optimizer and learning rate schedule: a linear warm-up from lr / 100, then a cosine. Both change per epoch."""

    __pydantic_config__ = STRICT

    kind: Literal["sgd", "adamw"] = "sgd"
    """`sgd`: SGD with momentum. `adamw`: AdamW with PyTorch's default betas."""

    lr: Positive = 0.1
    """Peak learning rate, reached after the warm-up."""

    momentum: NonNegative = 0.9
    """Momentum of SGD. AdamW ignores it."""

    weight_decay: NonNegative = 5e-4
    """Weight decay: L2 regularization for SGD, decoupled for AdamW."""

    decay_all: bool = True
    """Whether to decay biases and BatchNorm parameters too. false: decay only weights of two or more dimensions."""

    warmup_epochs: Whole = 0
    """Epochs of linear warm-up. Must be less than the number of epochs."""

    smoothing: Annotated[float, Field(ge=1, allow_inf_nan=False), Number] = 1.0
    """Stretch the cosine to this many times the epochs (eta in EDC and FADRM). 1: the learning rate falls to 0. 2: it
    falls to half of `lr`."""


def adamw() -> Optimizer:
    """Return the default optimizer of students: AdamW at 0.001 with weight decay 0.01, as in SRe2L's code."""
    return Optimizer(kind="adamw", lr=1e-3, weight_decay=0.01)


def check_warmup(optimizer: Optimizer, epochs: int) -> None:
    """Check that the warm-up ends before the training does.

    Raises:
        ValueError: If the warm-up takes `epochs` or more.
    """
    warmup = optimizer.warmup_epochs
    require(warmup < epochs, f"optimizer.warmup_epochs={warmup}: must be less than epochs={epochs}")
