"""Collect the results of a sweep from its runs."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from srel_hub.reports.compare import Result, compare
from srel_hub.storage.files import read_json
from srel_hub.studies.sweep.points import Point, Sweep


@dataclass(frozen=True)
class StudentResults:
    """Results of one student at one point of the sweep.

    Attributes:
        labels: The point's title on each axis.
        student: The student's title.
        teacher: Top-1 of the teacher on the eval split, in [0, 1]; None if it was not measured.
        label_bytes: Bytes of the point's soft labels.
        results: The student's results by training set, such as 'condensed' and 'random-real'.
    """

    labels: tuple[str, ...]
    student: str
    teacher: float | None
    label_bytes: int
    results: Mapping[str, Result]


def collect_results(sweep: Sweep) -> list[StudentResults]:
    """Return the results of all students at all points, in the order of points and students."""
    return [result for point in sweep.points for result in _point_results(point)]


def _point_results(point: Point) -> Iterator[StudentResults]:
    all_results = compare([str(point.folder)]).results
    teacher = read_json(point.folder / "teacher" / "metrics.json")["top1"]
    for student in dict.fromkeys(result.student for result in all_results):
        by_row = {result.row: result for result in all_results if result.student == student}
        yield StudentResults(point.labels, student, teacher, by_row["condensed"].label_bytes, by_row)
