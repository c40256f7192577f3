"""config.source."""

from dataclasses import dataclass
from typing import Literal

from srel_hub.config.fields import STRICT, Line, Side, _require


@dataclass(frozen=True, kw_only=True)
class Source:
    """The real dataset: `builtin: digits`, or a Hub id or local folder that `load_dataset` opens."""

    __pydantic_config__ = STRICT
    builtin: Literal["digits"] | None = None  # scikit-learn's, half of them for training; needs no download
    path: Line | None = None  # Hub id or local folder, in any layout that `load_dataset` opens
    config: Line | None = None  # of a Hub dataset that has several
    revision: Line | None = None  # branch, tag or commit of a Hub dataset
    streaming: Literal["auto"] | bool = "auto"  # read without a local copy; auto: splits above 20 GB
    train_split: Line | None = "train"  # null: not opened (a pretrained teacher needs none), no random real rows
    eval_split: Line | None = "test"  # null: the students are not evaluated
    image_column: Line | None = None  # found by its type when null
    label_column: Line | None = None  # found by its type when null; class labels, strings or whole numbers
    image_size: Side | None = None  # pixels a side, by resize and center crop; null: the images' or teacher's own
    title: Line | None = None  # what the cards call the source; null: its path
    homepage: Line | None = None  # link on the cards
    license: Line = "unknown"  # of the source, as the Hub names it; a public push needs it
    terms: Line | None = None  # a sentence on the cards about what the license asks for
    citation: str | None = None  # BibTeX, for the cards

    def __post_init__(self) -> None:
        _require(
            (self.builtin is None) != (self.path is None),
            f"exactly one of source.path (got {self.path!r}) and source.builtin (got {self.builtin!r}) must be set",
        )
        _require("```" not in (self.citation or ""), "citation: must not contain ```")
        _require(
            self.eval_split is None or self.eval_split != self.train_split,
            f"eval_split={self.eval_split}: is the training split, on which nothing can be scored; null does without",
        )
