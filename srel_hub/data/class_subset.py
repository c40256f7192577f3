"""Some classes of a dataset (`source.classes`): find them by their names, and keep only their images."""

import difflib
from collections.abc import Sequence

import torch

from srel_hub.data.class_names import short_name
from srel_hub.data.selected_split import SelectedSplit
from srel_hub.data.splits import Split
from srel_hub.errors import UserError, first_few


NEAREST = 3  # names that a message suggests


def find_classes(wanted: Sequence[str], names: Sequence[str], where: str, owner: str) -> list[int]:
    """Return the index of each wanted class among `names`.

    A name matches if it is equal, or else if the part before its first comma is equal in lower case. That part must
    then be unambiguous: ImageNet has two classes "crane".

    Args:
        wanted: the names to find.
        names: the names of all classes, by index.
        where: the field that lists the wanted names, which begins the message.
        owner: whose names they are, such as "the dataset".

    Raises:
        UserError: if a name matches no class, or several. The message lists all such names, with the nearest ones.
    """
    exact = {name: index for index, name in enumerate(names)}
    short: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        short.setdefault(short_name(name), []).append(index)
    found, problems = [], []
    for name in wanted:
        indices = [exact[name]] if name in exact else short.get(short_name(name), [])
        if len(indices) == 1:
            found.append(indices[0])
        else:
            problems.append(_problem(name, [names[index] for index in indices], names))
    twice = {index for index in found if found.count(index) > 1}
    problems += [f"{names[index]!r} is named twice" for index in sorted(twice)]
    if problems:
        raise UserError(f"{where}: {owner} has {len(names)} classes; {'; '.join(first_few(problems))}")
    return found


def _problem(name: str, several: Sequence[str], names: Sequence[str]) -> str:
    if several:
        return f"{name!r} may be {' or '.join(map(repr, several))}; write the whole name"
    by_short = {short_name(other): other for other in names}
    nearest = difflib.get_close_matches(short_name(name), by_short, n=NEAREST)
    if not nearest:
        return f"{name!r} is none of them ({', '.join(map(repr, names[:NEAREST]))}, ...)"
    return f"{name!r} is none of them (did you mean {' or '.join(repr(by_short[match]) for match in nearest)}?)"


def keep_classes(split: Split, classes: Sequence[int]) -> SelectedSplit:
    """Return the images of some classes, which are then numbered in the given order.

    Args:
        split: the split.
        classes: the indices of the classes to keep, each once.
    """
    labels = split.labels
    numbers = torch.full((max(int(labels.max()), *classes) + 1,), -1)
    numbers[torch.tensor(classes)] = torch.arange(len(classes))
    rows = (numbers[labels] >= 0).nonzero()[:, 0]
    return SelectedSplit(split, rows, numbers[labels[rows]])
