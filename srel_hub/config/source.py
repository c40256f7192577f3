"""The recipe's section `source`: the real dataset, and what the cards say about it."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from srel_hub.config.fields import SPARSE, STRICT, LicenseName, Line, Number, Side, Whole, require


def _read_class_names(value: Any) -> Any:
    """Read the names from a file if the value is a path, and accept whole numbers as names."""
    if isinstance(value, str):
        file = Path(value).expanduser()
        try:
            lines = file.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, ValueError, RuntimeError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise ValueError(
                f"must be a list of class names, or a text file with one name per line; {value!r} cannot be read "
                f"({reason})"
            ) from None
        value = [line.strip() for line in lines if line.strip()]
    if isinstance(value, list | tuple):
        return tuple(str(name) if type(name) is int else name for name in value)
    return value


def _check_class_names(names: tuple[str, ...]) -> tuple[str, ...]:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{', '.join(twice)}: listed twice; list each class once")
    if len(names) < 2:
        raise ValueError(f"{len(names)} class listed; at least 2 are required")
    return names


ClassNames = Annotated[
    tuple[Line, ...],
    BeforeValidator(_read_class_names, json_schema_input_type=tuple[Line | int, ...] | Line),
    AfterValidator(_check_class_names),
]
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

    on_bad_image: Literal["error", "skip"] = field(default="error", metadata=SPARSE)
    """What to do if images cannot be read. error: list them and stop. skip: leave them out and list them on the card;
    all images are checked before the run begins, so the dataset must be a local copy (`streaming: false`)."""

    title: Line | None = None
    """Name of the dataset on the cards. null: its path."""

    homepage: Line | None = None
    """Link to the dataset's page, for the cards."""

    license: Line = "unknown"
    """License of the dataset, by its identifier on the Hub (such as `cc-by-4.0`). A public push requires one other
    than `unknown`. `other`: a license that the Hub does not list."""

    license_name: LicenseName | None = field(default=None, metadata=SPARSE)
    """Name of the license in lower case, such as `my-license-1.0`. Used only if `license` is `other`. null: none."""

    license_link: Line | None = field(default=None, metadata=SPARSE)
    """Where to read the license: a URL, or `LICENSE` or `LICENSE.md` for a file that you add to the repositories on the
    Hub. Used only if `license` is `other`. null: none."""

    terms: Line | None = None
    """A sentence about the terms of use, for the cards."""

    citation: str | None = None
    """BibTeX entry of the dataset, for the cards."""

    eval_fraction: Annotated[float, Field(gt=0, lt=1), Number] | None = field(default=None, metadata=SPARSE)
    """Share of each class's training images to set aside as eval images, for a dataset without an eval split. Which
    images these are depends on their content and on `eval_seed`, not on the order or names of files. null: use
    `eval_split`."""

    eval_seed: Whole = field(default=0, metadata=SPARSE)
    """Seed of the choice that `eval_fraction` makes. It differs from the recipe's `seed`, so that runs with other
    seeds are scored on the same images."""

    classes: ClassNames | None = field(default=None, metadata=SPARSE)
    """Names of the classes to keep, or a text file with one name per line. The classes keep the dataset's order. A
    pretrained teacher may have more classes. null: all classes."""

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
            f"eval_split={self.eval_split}: must differ from train_split; set eval_split=null to skip the evaluation, "
            "or also eval_fraction=0.2 to set training images aside",
        )
        require(
            self.eval_fraction is None or (self.builtin is None and self.train_split is not None),
            f"eval_fraction={self.eval_fraction}: divides the training split, but "
            + ("train_split is null" if self.train_split is None else "the built-in digits have an eval split")
            + "; remove eval_fraction",
        )

    @property
    def has_eval(self) -> bool:
        """Whether students and teachers are scored on real images."""
        return self.eval_split is not None or self.eval_fraction is not None
