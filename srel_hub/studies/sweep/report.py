"""Report a sweep as a table, a CSV file and a plot."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from srel_hub.reports.tables import markdown_table, write_csv
from srel_hub.storage.files import atomic_write, format_bytes, write_text
from srel_hub.studies.sweep.plot import plot
from srel_hub.studies.sweep.points import Sweep
from srel_hub.studies.sweep.results import StudentResults, collect_results


def table(sweep: Sweep, students: Sequence[StudentResults]) -> list[str]:
    """Return a Markdown table with a line per point and student, and a column per training set."""
    rows = list(dict.fromkeys(row for student in students for row in student.results))
    names = [*(axis.name for axis in sweep.axes), "student"]
    header = [*names, "teacher", "images", "soft labels", *rows, "n"]
    lines = [_cells(student, rows) for student in students]
    return markdown_table(header, lines, right=range(len(names), len(header)))


def _cells(student: StudentResults, rows: Sequence[str]) -> list[str]:
    teacher = "" if student.teacher is None else f"{100 * student.teacher:.2f}"
    condensed = student.results["condensed"]
    scores = [student.results[row].cell if row in student.results else "" for row in rows]
    sizes = [f"{condensed.images:,}", format_bytes(student.label_bytes)]
    return [*student.labels, student.student, teacher, *sizes, *scores, str(condensed.n)]


def summary_lines(sweep: Sweep) -> list[str]:
    """Return the table, and a line that explains its numbers."""
    lines = table(sweep, collect_results(sweep))
    return [*lines, "", "top-1 %, mean +- standard deviation over n seeds, last epoch"]


def write_results(sweep: Sweep) -> Iterator[Path]:
    """Write the table, the CSV file and the plot, and yield each file once it is written.

    The CSV file has a line per point, student and row; accuracies are in [0, 1].

    Raises:
        UserError: If matplotlib is missing. The plot comes last, so that the other files exist by then.
    """
    students = collect_results(sweep)
    files = [sweep.folder / f"{sweep.title}{suffix}" for suffix in (".md", ".csv", ".png")]
    write_text(files[0], "\n".join(summary_lines(sweep)) + "\n")
    yield files[0]
    header = [*(axis.name for axis in sweep.axes), "student", "teacher_top1", "label_bytes"]
    with atomic_write(files[1]) as temporary:
        write_csv(temporary, [*header, "row", "images", "top1", "std", "n"], _csv_rows(students))
    yield files[1]
    plot(sweep.axes, students, files[2])
    yield files[2]


def _csv_rows(students: Sequence[StudentResults]) -> Iterator[list[object]]:
    for student in students:
        for row, result in student.results.items():
            about = [*student.labels, student.student, student.teacher, student.label_bytes, row]
            yield [*about, result.images, result.top1, result.std, result.n]
