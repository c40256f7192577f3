"""The recipe's section `relabel`: soft labels and how they are stored."""

from dataclasses import dataclass, field
from typing import Literal

from srel_hub.config.fields import STRICT, Count, Group, require
from srel_hub.config.networks import Teacher
from srel_hub.config.training import Augment


@dataclass(frozen=True, kw_only=True)
class Relabel:
    """Store the teacher's logits for `epochs` random views of every condensed image (SRe2L, section 3.3)."""

    __pydantic_config__ = STRICT

    teacher: Teacher | None = None
    """The classifier that computes the soft labels. null: squeeze's."""

    committee: tuple[Teacher, ...] = ()
    """Further classifiers; the stored logits are the mean of theirs and the teacher's."""

    group_size: Group | None = None
    """Number of images over which the teacher's BatchNorm layers compute their statistics (SRe2L++, FADRM). null: eval
    mode, where a label depends on its image alone."""

    epochs: Count = 300
    """Number of views to label for each image. A student that trains for more epochs reuses them."""

    pool: Literal["cycle", "draw"] = "cycle"
    """How a student that trains for more epochs than are stored reuses them. `cycle`: in turn. `draw`: a random stored
    epoch for each of its own."""

    batch_size: Count = 256
    """Images per forward pass of the teacher."""

    augment: Augment = field(default_factory=Augment)
    """Augmentation of the views."""

    encoding: Literal["float16", "uint8", "topk", "none"] = "float16"
    """How to store the logits. `float16`: all of them. `uint8`: in 256 steps between the lowest and highest logit of
    the view. `topk`: only the `top_k` highest. `none`: not at all; the teacher computes them during training."""

    top_k: Count = 100
    """Number of logits to store per view, together with the mean of the others. Only for `encoding: topk`."""

    top_values: Literal["float16", "uint8"] = "float16"
    """Data type of the stored logits. Only for `encoding: topk`."""

    def __post_init__(self) -> None:
        # The label format stores a view as crop, flip and mix, which cannot express shuffled tiles.
        require(
            self.augment.patches == 1 or self.encoding == "none",
            f"augment.patches={self.augment.patches}: labels of shuffled patches cannot be stored; set encoding: none",
        )
