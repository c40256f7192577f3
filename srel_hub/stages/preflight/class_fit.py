"""Find a pretrained teacher's classes among those of the dataset, if the recipe selects some classes."""

from collections.abc import Sequence
from dataclasses import dataclass

from srel_hub.data import class_names as classes
from srel_hub.data.class_subset import find_classes
from srel_hub.data.sources import Source
from srel_hub.stages.preflight.data_checks import agree


@dataclass(frozen=True)
class ClassFit:
    """How the classes of a teacher correspond to those of the dataset.

    Attributes:
        class_names: Names of all of the teacher's classes.
        columns: For each class of the dataset, its index among them; None if they are the same.
        is_assumed: Whether the order is only assumed, because the teacher or the dataset has numbers instead of names.
    """

    class_names: tuple[str, ...]
    columns: tuple[int, ...] | None
    is_assumed: bool


def fit_classes(
    own: tuple[str, ...],
    names: tuple[str, ...] | None,
    wanted: Sequence[str] | None,
    source: Source,
    who: str,
    trust: bool,
) -> ClassFit:
    """Find the classes of the dataset among those of a teacher.

    Without a selection, both must have the same classes in the same order. With a selection, the teacher may also have
    all classes of the dataset before the selection, or any other classes besides the selected ones. In the last case
    they are found by their names.

    Args:
        own: The teacher's class names; numbers if it has no names.
        names: The dataset's class names, after a selection; None if no opened split has class names.
        wanted: `source.classes`.
        source: The dataset.
        who: The name of the teacher in messages.
        trust: Whether to accept the order even if the names contradict each other.

    Raises:
        UserError: If the classes do not correspond. The message lists the differences.
    """
    if wanted is None or (names is not None and len(own) == len(names)):
        agreed, is_assumed = agree(own, names, who, trust)
        return ClassFit(agreed, None, is_assumed)
    if names is None:
        agreed, is_assumed = agree(own, None, who, trust)  # refuses a teacher that does not name its classes
        return ClassFit(agreed, tuple(sorted(find_classes(wanted, agreed, "source.classes", who))), is_assumed)
    if source.kept is not None and source.whole_names is not None and len(own) == len(source.whole_names):
        agreed, is_assumed = agree(own, source.whole_names, who, trust)
        return ClassFit(agreed, source.kept, is_assumed)
    columns = find_classes(names, own, "source.classes", who)
    renamed = list(classes.make_unique(own))
    for name, column in zip(names, columns, strict=True):
        renamed[column] = name  # the dataset's spelling
    return ClassFit(tuple(renamed), tuple(columns), False)
