"""Class names: found in a column of labels, and compared between splits and with a teacher."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import torch
from torch import Tensor

from srel_hub.errors import UserError


SHOWN = 10  # faults of one kind that are listed one by one


@dataclass(frozen=True)
class Classes:
    """The classes of a dataset, and how its label column says them.

    `by_value` gives the index of every value that the column may hold.
    """

    names: tuple[str, ...]
    by_value: dict[Any, int]

    def indices(self, values: Sequence[Any], where: str) -> Tensor:
        """int64 [N]: the class of every row.

        Raises:
            UserError: naming the first rows whose value is no class.
        """
        found = [self.by_value.get(value, -1) for value in values]
        bad = [row for row, index in enumerate(found) if index < 0]
        if bad:
            faults = [f"{where}: row {row} has {self._wrong(values[row])}" for row in bad[:SHOWN]]
            raise UserError("\n".join(faults + more(bad)))
        return torch.tensor(found, dtype=torch.int64)

    def _wrong(self, value: Any) -> str:
        if value is None:
            return "no label (NA, null and nan in a metadata.csv mean that); give it one or remove it"
        return f"the label {value!r}; {self._allowed()}"

    def _allowed(self) -> str:
        if isinstance(next(iter(self.by_value)), int):
            return f"allowed are 0 to {len(self.names) - 1}: remove it" if self._dense else "it is no class: remove it"
        return f"allowed are {', '.join(self.names[:SHOWN])}{', ...' if len(self.names) > SHOWN else ''}: remove it"

    @property
    def _dense(self) -> bool:
        return list(self.by_value) == list(range(len(self.names)))


def more(listed: Sequence[Any]) -> list[str]:
    """A last line for a list of which only the first were shown."""
    return [f"... and {len(listed) - SHOWN} more"] if len(listed) > SHOWN else []


def classes_of_column(feature: Any) -> Classes | None:
    """The classes that a ClassLabel column names itself; None for a column of plain values."""
    if not isinstance(feature, datasets.ClassLabel):
        return None
    return Classes(tuple(feature.names), {index: index for index in range(feature.num_classes)})


def classes_of_values(values: Iterable[Any]) -> Classes:
    """The classes of a column of strings (sorted) or whole numbers (by size; a negative one is no class)."""
    known = {value for value in values if value is not None and (isinstance(value, str) or value >= 0)}
    return Classes(
        tuple(str(value) for value in sorted(known)), {value: index for index, value in enumerate(sorted(known))}
    )


def are_numbered(names: Sequence[str]) -> bool:
    """Whether these are no names but numbers: LABEL_0, LABEL_1, ... or 0, 1, ..."""
    return all(re.fullmatch(rf"(LABEL_)?{index}", name) for index, name in enumerate(names))


def differing_indices(own: Sequence[str], other: Sequence[str]) -> list[int]:
    """Indices at which two lists of equal length name different classes.

    Names are compared in lower case and up to the first comma. A name that one list has twice (ImageNet's two cranes)
    agrees with every name of the other list that begins with it.
    """
    ours, theirs = [short_name(name) for name in own], [short_name(name) for name in other]
    our_count, their_count = Counter(ours), Counter(theirs)
    return [
        index
        for index, (a, b) in enumerate(zip(ours, theirs, strict=True))
        if a != b and not (our_count[a] > 1 and b.startswith(a)) and not (their_count[b] > 1 and a.startswith(b))
    ]


def make_unique(names: Sequence[str]) -> tuple[str, ...]:
    """The names with the index behind each that stands there twice: a ClassLabel needs them to differ."""
    count = Counter(names)
    return tuple(f"{name} ({index})" if count[name] > 1 else name for index, name in enumerate(names))


def short_name(name: str) -> str:
    return name.split(",")[0].strip().lower()


def describe_mismatch(own: Sequence[str], other: Sequence[str], who: str, whose: str) -> str | None:
    """What is wrong between two lists of class names, with the first three differences; None where they agree."""
    if len(own) != len(other):
        return f"{who} has {len(own)} classes, {whose} {len(other)}"
    differing = differing_indices(own, other)
    if not differing:
        return None
    same = sorted(map(short_name, own)) == sorted(map(short_name, other))
    kind = "the same class names in another order" if same else f"other class names ({len(differing)} of {len(own)})"
    shown = "; ".join(f"class {i} is {own[i]!r} there, {other[i]!r} in {whose}" for i in differing[:3])
    return f"{who} has {kind} than {whose}: {shown}"
