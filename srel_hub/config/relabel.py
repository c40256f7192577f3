"""config.relabel."""

from dataclasses import dataclass, field
from typing import Literal

from srel_hub.config.fields import STRICT, Count, Group, _require
from srel_hub.config.networks import Teacher
from srel_hub.config.training import Augment


@dataclass(frozen=True, kw_only=True)
class Relabel:
    """Store the teacher's logits for `epochs` differently augmented views of every condensed image."""

    __pydantic_config__ = STRICT
    teacher: Teacher | None = None  # who labels; null: the network that the images were recovered from
    committee: tuple[Teacher, ...] = ()  # further networks, whose logits are averaged with the teacher's
    group_size: Group | None = None  # images whose BatchNorm statistics the teacher uses; null: its own, eval mode
    epochs: Count = 300  # stored; a student that trains longer uses them again
    pool: Literal["cycle", "draw"] = "cycle"  # how it does: in turn, or one drawn at random for each of its epochs
    batch_size: Count = 256  # images that the teacher is shown at a time
    augment: Augment = field(default_factory=Augment)  # the views that are labeled
    encoding: Literal["float16", "uint8", "topk", "none"] = "float16"  # none: nothing is stored, the teacher is asked
    top_k: Count = 100  # topk: logits of an image that are kept; of the others their mean
    top_values: Literal["float16", "uint8"] = "float16"  # topk: what they are stored as

    def __post_init__(self) -> None:
        _require(
            self.augment.patches == 1 or self.encoding == "none",
            f"augment.patches={self.augment.patches}: labels of shuffled patches cannot be stored; set encoding: none",
        )
