"""Class names: read them from a label column, and compare those of splits and teachers."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import torch
from torch import Tensor

from srel_hub.errors import UserError, first_few


ALLOWED_LISTED = 10  # class names that a message lists
LONGEST_NAME = 500  # characters; the longest name of ImageNet has 121
# Characters that neither the YAML nor the table of a card can represent: control characters, halves of surrogate pairs,
# and what ends a line. U+0085 comes back from YAML as a space, so a class gets another name.
UNUSABLE_CATEGORIES = ("Cc", "Cs", "Zl", "Zp")
UNUSABLE = "\ufeff\ufffe\uffff"  # a byte order mark, which cannot be seen, and two codes that are no characters


@dataclass(frozen=True)
class Classes:
    """The classes of a dataset, and how its label column encodes them.

    Attributes:
        names: class names, by index.
        by_value: the index of every value that the label column may contain.
    """

    names: tuple[str, ...]
    by_value: dict[Any, int]

    def indices(self, values: Sequence[Any], where: str) -> Tensor:
        """Return the class index of every row, int64 [N].

        Args:
            values: the values of the label column, row by row.
            where: the dataset and split, which begin the message.

        Raises:
            UserError: if a value is missing or is not a class. The message lists the first ten such rows.
        """
        indices = [self.by_value.get(value, -1) for value in values]
        unlabeled = [row for row, index in enumerate(indices) if index < 0]
        if unlabeled:
            problems = first_few(unlabeled, lambda row: f"{where}: row {row} has {self._problem(values[row])}")
            raise UserError("\n".join(problems))
        return torch.tensor(indices, dtype=torch.int64)

    def _problem(self, value: Any) -> str:
        if _is_missing(value):
            return "no label (NA, null and nan in a metadata.csv count as none); add the label or remove the image"
        if isinstance(value, float):
            return f"the label {value!r}, which is not a whole number from 0 on; correct or remove the row"
        return f"the label {value!r}, which is not a class (allowed: {self._allowed()}); correct or remove the row"

    def _allowed(self) -> str:
        values = list(self.by_value)
        if not values:
            return "text, or whole numbers from 0 on"
        if isinstance(values[0], int) and values == list(range(len(values))):
            return f"0 to {len(values) - 1}"
        return ", ".join(self.names[:ALLOWED_LISTED]) + (", ..." if len(self.names) > ALLOWED_LISTED else "")


def classes_of_column(feature: Any) -> Classes | None:
    """Return the classes of a ClassLabel column; None for a column of plain values, which has no class names."""
    if not isinstance(feature, datasets.ClassLabel):
        return None
    return Classes(tuple(feature.names), {index: index for index in range(feature.num_classes)})


def classes_of_values(values: Iterable[Any]) -> Classes:
    """Return the classes of a column of strings, in alphabetical order, or of whole numbers, in increasing order.

    A negative number is not a class: on the Hub, -1 marks rows without a label. A fraction is not a class either. (A
    column of whole numbers with a missing one is read as 0.0, 1.0, ...)
    """
    known = {_without_point(value) for value in values if not _is_missing(value) and _can_be_class(value)}
    return Classes(
        tuple(str(value) for value in sorted(known)), {value: index for index, value in enumerate(sorted(known))}
    )


def _is_missing(value: Any) -> bool:
    return value is None or value != value or (isinstance(value, str) and not value.strip())  # NaN differs from itself


def _can_be_class(value: Any) -> bool:
    return isinstance(value, str) or (value >= 0 and value == value // 1)


def _without_point(value: Any) -> Any:
    return int(value) if isinstance(value, float) else value


def require_usable_names(names: Sequence[Any], where: str) -> None:
    """Check that class names are text, that they differ, and that a card can represent them.

    Args:
        names: by index, as read from other people's files.
        where: the dataset or teacher, which begins the message.

    Raises:
        UserError: if names cannot be used. The message lists them.
    """
    problems = [f"{where}: class {i} {problem}" for i, name in enumerate(names) for problem in _problems_of(name)]
    if not problems:
        problems = [f"{where}: {problem}" for problem in _same_names(names)]
    if problems:
        raise UserError("\n".join(first_few(problems)))


def _problems_of(name: Any) -> Iterator[str]:
    if not isinstance(name, str):
        yield f"is named {name!r}, which is not text; put the name in quotes where it is defined"
    elif not name.strip():
        yield f"has the name {name!r}, which is empty; name it"
    elif len(name) > LONGEST_NAME:
        yield f"has a name of {len(name)} characters ({name[:40]!r} ...); at most {LONGEST_NAME} are allowed"
    else:
        unusable = sorted({letter for letter in name if _is_unusable(letter)})
        if unusable:
            codes = ", ".join(f"U+{ord(letter):04X}" for letter in unusable)
            yield f"is named {name!r}; {codes} cannot be written on a dataset card; rename the class"


def _is_unusable(letter: str) -> bool:
    return unicodedata.category(letter) in UNUSABLE_CATEGORIES or letter in UNUSABLE


def _same_names(names: Sequence[str]) -> Iterator[str]:
    """Yield the names that look the same: they differ only in blanks or in how accents are encoded."""
    by_look: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        by_look.setdefault(" ".join(unicodedata.normalize("NFC", name).split()), []).append(index)
    for indices in by_look.values():
        if len(indices) > 1:
            listed = " and ".join(f"{index} ({names[index]!r})" for index in indices)
            yield f"classes {listed} have names that look the same; rename one of them, or merge the classes"


def are_numbered(names: Sequence[str]) -> bool:
    """Return whether class names only repeat the index: LABEL_0, LABEL_1, ... or 0, 1, ..."""
    return all(re.fullmatch(rf"(LABEL_)?{index}", name) for index, name in enumerate(names))


def differing_indices(own: Sequence[str], other: Sequence[str]) -> list[int]:
    """Return the indices at which two lists of equal length name different classes.

    Only the part before the first comma is compared, in lower case. A name that occurs twice in one list (ImageNet has
    two classes "crane") matches every name of the other list that begins with it.
    """
    ours, theirs = [short_name(name) for name in own], [short_name(name) for name in other]
    our_count, their_count = Counter(ours), Counter(theirs)
    return [
        index
        for index, (a, b) in enumerate(zip(ours, theirs, strict=True))
        if a != b and not (our_count[a] > 1 and b.startswith(a)) and not (their_count[b] > 1 and a.startswith(b))
    ]


def make_unique(names: Sequence[str]) -> tuple[str, ...]:
    """Append the index to each name that occurs more than once, because a ClassLabel requires unique names."""
    count = Counter(names)
    return tuple(f"{name} ({index})" if count[name] > 1 else name for index, name in enumerate(names))


def short_name(name: str) -> str:
    """Return a class name up to the first comma, in lower case: 'tench' for 'Tench, Tinca tinca'."""
    return name.split(",")[0].strip().lower()


def describe_mismatch(own: Sequence[str], other: Sequence[str], who: str, whose: str) -> str | None:
    """Describe how two lists of class names differ, with the first three differences; None if they match.

    Args:
        own: class names by index.
        other: class names to compare with, by index.
        who: the owner of `own`, such as "split test", which begins the message.
        whose: the owner of `other`, such as "the dataset".
    """
    if len(own) != len(other):
        return f"{who} has {len(own)} classes, but {whose} has {len(other)}"
    differing = differing_indices(own, other)
    if not differing:
        return None
    if sorted(map(short_name, own)) == sorted(map(short_name, other)):
        difference = f"the same class names as {whose}, but in a different order"
    else:
        difference = f"class names that differ from those of {whose} ({len(differing)} of {len(own)})"
    examples = "; ".join(f"class {i} is {own[i]!r}, but {other[i]!r} in {whose}" for i in differing[:3])
    return f"{who} has {difference}: {examples}"
