"""The recipe's section `source`: the real dataset, and what the cards say about it."""

import re
from dataclasses import dataclass
from typing import Literal

from srel_hub.config.fields import STRICT, LicenseName, Line, Side, require


LICENSE_LINK = r"https?://[^\s]+|LICENSE(\.md)?"


@dataclass(frozen=True, kw_only=True)
class Source:
    """The real dataset. Set either `builtin: digits` or `path`."""

    __pydantic_config__ = STRICT

    builtin: Literal["digits"] | None = None
    """`digits`: the 1,797 handwritten digits of scikit-learn (8 x 8 pixels), half of them for training. No download
    is needed. null: the dataset is at `path`."""

    path: Line | None = None
    """Hub id or local folder, in any layout that `datasets.load_dataset` opens. null: the dataset is `builtin`."""

    config: Line | None = None
    """Configuration of the dataset. Required only if the dataset has several."""

    revision: Line | None = None
    """Branch, tag or commit of the dataset on the Hub. null: the main branch."""

    streaming: Literal["auto"] | bool = "auto"
    """Whether to read the dataset from the Hub without a local copy. auto: only for splits above 20 GB."""

    train_split: Line | None = "train"
    """Name of the training split. null: the training split is never opened. This needs a pretrained teacher, and
    students are not trained on random real images for comparison."""

    eval_split: Line | None = "test"
    """Name of the split on which students and the teacher are scored. null: students are not evaluated."""

    image_column: Line | None = None
    """Column with the images. null: the only image column."""

    label_column: Line | None = None
    """Column with the labels, which are class labels, strings or whole numbers. null: the only such column."""

    image_size: Side | None = None
    """Height and width of the condensed images in pixels, by resizing and a center crop. null: the size that a
    pretrained teacher expects, otherwise the size of the images."""

    title: Line | None = None
    """Name of the dataset on the cards. null: its path."""

    homepage: Line | None = None
    """Link to the dataset's page, for the cards."""

    license: Line = "unknown"
    """License of the dataset, by its identifier on the Hub (such as `cc-by-4.0`). A public push requires one other
    than `unknown`. `other`: a license that the Hub does not list."""

    license_name: LicenseName | None = None
    """Name of the license in lower case, such as `my-license-1.0`. Used only if `license` is `other`. null: none."""

    license_link: Line | None = None
    """Where to read the license: a URL, or `LICENSE` or `LICENSE.md` for a file that you add to the repositories on the
    Hub. Used only if `license` is `other`. null: none."""

    terms: Line | None = None
    """A sentence about the terms of use, for the cards."""

    citation: str | None = None
    """BibTeX entry of the dataset, for the cards."""

    def __post_init__(self) -> None:
        require(
            (self.builtin is None) != (self.path is None),
            f"exactly one of source.path (got {self.path!r}) and source.builtin (got {self.builtin!r}) must be set",
        )
        require(
            self.license_link is None or re.fullmatch(LICENSE_LINK, self.license_link) is not None,
            f"license_link={self.license_link}: must be a URL that begins with https:// or http://, or LICENSE or "
            "LICENSE.md",
        )
        # The cards print the entry inside a fenced code block.
        require("```" not in (self.citation or ""), "citation: must not contain ```")
        require(
            self.eval_split is None or self.eval_split != self.train_split,
            f"eval_split={self.eval_split}: must differ from train_split; set eval_split=null to skip the evaluation",
        )
