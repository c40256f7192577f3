"""config.recover."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from srel_hub.config.fields import (
    STRICT,
    AtLeastTwo,
    Count,
    Interval,
    NonNegative,
    Number,
    Positive,
    Roll,
    Side,
    _check_interval,
    _require,
)
from srel_hub.config.networks import Teacher


@dataclass(frozen=True, kw_only=True)
class Patches:
    """Square crops of real training images that the teacher knows best (RDED, section 3.2), enlarged to images."""

    __pydantic_config__ = STRICT
    images: Count = 300  # of each class, drawn at random, that are looked at
    crops: Annotated[int, Number, Field(ge=1, le=64)] = 5  # tried of each
    scale: Interval = (0.08, 1.0)  # share of an image's area that a crop is, at most 1
    keep: Literal["easiest", "median"] = "easiest"  # least cross-entropy, or nearest to the class's median confidence
    tiles: Annotated[int, Number, Field(ge=1, le=8)] = 1  # a side: an image is made of tiles x tiles crops

    def __post_init__(self) -> None:
        _check_interval("scale", self.scale, highest=1)


@dataclass(frozen=True, kw_only=True)
class Recover:
    """Optimize pixels until logits and BatchNorm statistics match (SRe2L, section 3.2)."""

    __pydantic_config__ = STRICT
    ipc: Annotated[int, Number, Field(ge=1, le=100_000)]  # images per class
    patches: Patches | None = None  # of real images, to begin with; null: noise. {} takes the defaults
    teachers: tuple[Teacher, ...] = ()  # further networks that the images are to match, beside squeeze's
    turns: Literal["cycle", "committee"] = "cycle"  # of several: one an iteration, or the mean of all each time
    iterations: Count = 1000  # steps of Adam, over all stages
    sizes: tuple[Side, ...] = ()  # shorter side in each of so many equal stages, the last full; empty: one, full size
    residual: Annotated[float, Number, Field(ge=0, lt=1)] = 0.0  # share of the patches mixed in after every stage
    lr: Positive = 0.25  # Adam's at the start; a cosine takes it to 0
    bn_weight: NonNegative | Literal["auto"] = 0.01  # of the BatchNorm term; auto: found, on noise, for each teacher
    bn_ratio: Positive = 1.0  # auto: of the BatchNorm term to the cross-entropy, on noise
    bn_term: Literal["sum", "relative"] = "sum"  # relative: each layer by its own statistics, mean over layers
    first_bn_factor: NonNegative = 10.0  # of the first BatchNorm layer's distance; the others' is 1
    statistics: Literal["dataset", "class"] = "dataset"  # class: a class's images by that class's real statistics
    statistics_images: Count = 1000  # class: of each class, drawn at random, whose statistics are measured
    class_block: AtLeastTwo = 100  # dataset: classes optimized, and matched to the statistics, together
    stack: Count | Literal["auto"] = "auto"  # groups per forward pass: ipc indices, or classes where statistics=class
    per_image: bool = False  # true: each image has its own crop, flip and roll; false: an ipc index shares them
    crop: Literal["none", "resized"] = "resized"  # before each look; `resized`: a random box, enlarged
    scale: Interval = (0.08, 1.0)  # of the box's area to the image's, at most 1
    curriculum: Literal["none", "cosine", "linear", "step"] = "none"  # of the lower scale, from the upper one down
    milestone: Annotated[float, Number, Field(gt=0, le=1)] = 1.0  # share of the iterations after which it is down
    ratio: Interval = (3 / 4, 4 / 3)  # of the box's width to its height
    flip: bool = True  # left to right, half of the time, before each look
    roll: tuple[Roll, Roll] = (0, 0)  # shift in pixels along each axis, both ends included
    l2_weight: NonNegative = 0.0  # of the images' norms
    tv_weight: NonNegative = 0.0  # of the differences between neighboring pixels

    def __post_init__(self) -> None:
        _check_interval("scale", self.scale, highest=1)
        _check_interval("ratio", self.ratio)
        _check_interval("roll", self.roll)
        _require(
            self.residual == 0 or self.patches is not None,
            f"residual={self.residual:g}: there is nothing to mix in without patches; set recover.patches={{}}",
        )
        _require(
            self.curriculum == "none" or self.crop == "resized",
            f"curriculum={self.curriculum}: is of the crop, and crop is none; set recover.crop=resized",
        )
        _require(
            len(self.sizes) <= self.iterations,
            f"sizes: {len(self.sizes)} stages in {self.iterations} iterations; each needs one",
        )

    @property
    def reads_real(self) -> bool:
        """Whether it looks at real images."""
        return self.patches is not None or self.statistics == "class"
