"""The recipe's section `recover`: the condensed images and how they are optimized."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from srel_hub.config.fields import (
    SPARSE,
    STRICT,
    AtLeastTwo,
    Count,
    Interval,
    Line,
    NonNegative,
    Number,
    Positive,
    Roll,
    Side,
    check_interval,
    require,
    section_of_path,
)
from srel_hub.config.networks import Teacher


@dataclass(frozen=True, kw_only=True)
class Patches:
    """Square crops of real images, ranked by the teacher's loss and enlarged to images (RDED, section 3.2)."""

    __pydantic_config__ = STRICT

    images: Count = 300
    """Training images of each class to crop, drawn at random."""

    crops: Annotated[int, Field(ge=1, le=64), Number] = 5
    """Random crops of each of these images."""

    scale: Interval = (0.08, 1.0)
    """Lowest and highest area of a crop, as a share of the image's area, at most 1."""

    keep: Literal["easiest", "median"] = "easiest"
    """Which crops to keep. `easiest`: those with the lowest cross-entropy (RDED). `median`: those whose confidence is
    closest to the median of the class (SRe2L++)."""

    tiles: Annotated[int, Field(ge=1, le=8), Number] = 1
    """Compose each image of `tiles` x `tiles` crops."""

    def __post_init__(self) -> None:
        check_interval("scale", self.scale, highest=1)


@dataclass(frozen=True, kw_only=True)
class GivenImages:
    """Existing images to label, such as a coreset or another author's condensed images.

    The path alone may replace the section: `images: org/their-images`.
    """

    __pydantic_config__ = STRICT

    path: Line
    """Hub id or local folder of the images, in any layout that `source.path` accepts. Their classes must have the names
    of the dataset's classes, in any order, and each class as many images. All images must have the size of the
    condensed images, and are stored without any change of their pixels."""

    config: Line | None = None
    """Configuration of these images. Required only if there are several."""

    revision: Line | None = None
    """Branch, tag or commit of the images on the Hub. null: the main branch."""

    split: Line = "train"
    """Name of their split."""

    image_column: Line | None = None
    """Column with the images. null: the only image column."""

    label_column: Line | None = None
    """Column with the labels. null: the only such column."""

    title: Line | None = None
    """Name of these images on the cards. null: their path."""

    homepage: Line | None = None
    """Link to the page of these images, for the cards."""

    license: Line = "unknown"
    """License of these images, by its identifier on the Hub. A public push requires one other than `unknown`."""

    terms: Line | None = None
    """A sentence about their terms of use, for the cards."""

    citation: str | None = None
    """Their BibTeX entry, for the cards."""

    def __post_init__(self) -> None:
        # The cards print the entry inside a fenced code block.
        require("```" not in (self.citation or ""), "citation: must not contain ```")


Given = Annotated[GivenImages, BeforeValidator(section_of_path, json_schema_input_type=GivenImages | Line)]


@dataclass(frozen=True, kw_only=True)
class Recover:
    """Optimize pixels so that predictions and BatchNorm statistics match those of real data (SRe2L, section 3.2)."""

    __pydantic_config__ = STRICT

    ipc: Annotated[int, Field(ge=0, le=100_000), Number] = 0
    """Number of condensed images per class. Required, except with `images`: there, 0 means as many as there are."""

    patches: Patches | None = None
    """Start from patches of real images. `{}` uses the defaults. null: start from Gaussian noise."""

    teachers: tuple[Teacher, ...] = ()
    """Further classifiers that the images must match, in addition to squeeze's."""

    turns: Literal["cycle", "committee"] = "cycle"
    """How to use several teachers. `cycle`: one per iteration, in turn (FADRM+). `committee`: the mean loss of all at
    every iteration (CV-DD)."""

    iterations: Count = 1000
    """Adam steps of each image, over all stages together."""

    sizes: tuple[Side, ...] = ()
    """Shorter side in pixels in each of several equally long stages; the last must be the full size (FADRM). Empty:
    one stage at full size."""

    residual: Annotated[float, Field(ge=0, lt=1), Number] = 0.0
    """Share of the patches to mix in again after every stage (1 - alpha in FADRM). Requires `patches`."""

    lr: Positive = 0.25
    """Initial learning rate of Adam, which a cosine lowers to 0 over all iterations."""

    bn_weight: NonNegative | Literal["auto"] = 0.01
    """Weight of the BatchNorm term (r_bn in SRe2L's code). auto: for each teacher, the weight at which the term is
    `bn_ratio` times the cross-entropy on noise."""

    bn_ratio: Positive = 1.0
    """Ratio of the weighted BatchNorm term to the cross-entropy on noise. Only for `bn_weight: auto`."""

    bn_term: Literal["sum", "relative"] = "sum"
    """`sum`: sum the distances over the layers (SRe2L). `relative`: divide each layer's distance by the norm of its
    own statistics and average over the layers, so that one weight fits networks of different size."""

    first_bn_factor: NonNegative = 10.0
    """Factor on the distance of the first BatchNorm layer (first_bn_multiplier in SRe2L's code). The others have 1."""

    statistics: Literal["dataset", "class"] = "dataset"
    """BatchNorm statistics to match. `dataset`: the teacher's running statistics. `class`: those of real images of the
    same class (LPLD, section 4.1); the images of a class are then optimized together."""

    statistics_images: Count = 1000
    """Real images of each class on which to measure its statistics, drawn at random. Only for `statistics: class`."""

    class_block: AtLeastTwo = 100
    """Number of classes whose images are optimized together and share BatchNorm statistics. Only for `statistics:
    dataset`."""

    stack: Count | Literal["auto"] = "auto"
    """Groups of images per forward pass; each group has its own BatchNorm statistics. auto: about 100 images of
    64 x 64 pixels in total. Results depend on this number."""

    per_image: bool = False
    """Whether to draw crop, flip and roll for each image. false: all images of a group share them (SRe2L's code)."""

    crop: Literal["none", "resized"] = "resized"
    """Random crop before each forward pass. `resized`: enlarge a random box to the full size. `none`: do not crop."""

    scale: Interval = (0.08, 1.0)
    """Lowest and highest area of the box, as a share of the image's area, at most 1. Only for `crop: resized`."""

    curriculum: Literal["none", "cosine", "linear", "step"] = "none"
    """How the lowest area of the box falls from the upper bound of `scale` to the lower one (CDA, section 3.2).
    `none`: it is the lower bound from the start."""

    milestone: Annotated[float, Field(gt=0, le=1), Number] = 1.0
    """Share of the iterations after which the curriculum reaches the lower bound."""

    ratio: Interval = (3 / 4, 4 / 3)
    """Lowest and highest aspect ratio of the box (width / height). Only for `crop: resized`."""

    flip: bool = True
    """Whether to mirror left to right with probability 1/2 before each forward pass."""

    roll: tuple[Roll, Roll] = (0, 0)
    """Lowest and highest shift in pixels along each axis before each forward pass, both included. Pixels that leave
    the image on one side come back on the other."""

    l2_weight: NonNegative = 0.0
    """Weight of the mean L2 norm of the images."""

    tv_weight: NonNegative = 0.0
    """Weight of the total variation, the norm of the differences between neighboring pixels."""

    images: Given | None = field(default=None, metadata=SPARSE)
    """Images to use instead of recovering any. The other fields of this section, except `ipc`, are then not used. null:
    recover images."""

    def __post_init__(self) -> None:
        require(
            self.images is None or not self.teachers,
            "images: no image is recovered, so further classifiers to match cannot be used; set recover.teachers=[]",
        )
        check_interval("scale", self.scale, highest=1)
        check_interval("ratio", self.ratio)
        check_interval("roll", self.roll)
        require(
            self.residual == 0 or self.patches is not None,
            f"residual={self.residual:g}: requires patches to mix in; set recover.patches={{}}",
        )
        require(
            self.curriculum == "none" or self.crop == "resized",
            f"curriculum={self.curriculum}: requires a crop; set recover.crop=resized",
        )
        require(
            len(self.sizes) <= self.iterations,
            f"sizes: {len(self.sizes)} stages need at least as many iterations, but iterations={self.iterations}",
        )

    @property
    def reads_real(self) -> bool:
        """Whether recover reads real images."""
        return self.images is None and (self.patches is not None or self.statistics == "class")
