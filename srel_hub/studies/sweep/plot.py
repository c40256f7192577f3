"""Plot the results of a sweep."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from srel_hub.reports import plot_style
from srel_hub.studies.sweep.axes import Axis
from srel_hub.studies.sweep.results import StudentResults


LOG_FROM = 8  # ratio of the largest to the smallest value from which equal distances would hide the small ones


def plot(axes: Sequence[Axis], students: Sequence[StudentResults], file: Path) -> None:
    """Plot accuracy along the axis with the most numbers, in a panel per student.

    Each combination of the other axes is a line: solid for condensed images, dotted for random real images with the
    same labels.

    Raises:
        UserError: If matplotlib is missing.
    """
    across = max(range(len(axes)), key=lambda index: _count_numbers(axes[index].labels))
    titles = list(dict.fromkeys(student.student for student in students))
    with plot_style.panels(file, 1, len(titles), 4.2, 3.4) as panels:
        for panel, title in zip(panels[0], titles, strict=True):
            _draw_panel(panel, axes, across, [student for student in students if student.student == title])
            panel.set_title(title)
        plot_style.legend_below(panels[0][0])


def _draw_panel(panel: Any, axes: Sequence[Axis], across: int, points: Sequence[StudentResults]) -> None:
    axis, others = axes[across], [*axes[:across], *axes[across + 1 :]]
    x = _positions(axis.labels)
    lines: dict[tuple[str, ...], list[StudentResults]] = {}
    for point in points:
        lines.setdefault(point.labels[:across] + point.labels[across + 1 :], []).append(point)
    for index, (labels, line) in enumerate(lines.items()):
        name = ", ".join(f"{other.key} {label}" for other, label in zip(others, labels, strict=True))
        _draw_line(panel, line, [x[point.labels[across]] for point in line], name, index)
    panel.set(xlabel=axis.name, ylabel="top-1 %")
    is_numeric = _count_numbers(axis.labels) == len(axis.labels)
    if is_numeric and min(x.values()) > 0 and max(x.values()) >= LOG_FROM * min(x.values()):
        panel.set_xscale("log")
    panel.set_xticks(list(x.values()), axis.labels)
    panel.minorticks_off()


def _positions(labels: Sequence[str]) -> Mapping[str, float]:
    """Return the horizontal position of each label: its number, or evenly spaced if a label is not a number."""
    if _count_numbers(labels) == len(labels):
        return {label: float(label) for label in labels}
    return {label: index for index, label in enumerate(labels)}


def _draw_line(panel: Any, line: Sequence[StudentResults], x: Sequence[float], name: str, index: int) -> None:
    color = plot_style.COLORS[index % len(plot_style.COLORS)]
    marker = plot_style.MARKERS[index % len(plot_style.MARKERS)]
    for row, style in (("condensed", "-"), ("random-real", ":")):
        drawn = [(place, point.results[row]) for place, point in zip(x, line, strict=True) if row in point.results]
        if drawn:
            panel.errorbar(
                [place for place, _ in drawn],
                [100 * result.top1 for _, result in drawn],
                [100 * (result.std or 0) for _, result in drawn],
                **{"color": color, "marker": marker, "linestyle": style, "capsize": 2},
                label=", ".join(text for text in (name, row.replace("-", " ")) if text),
            )


def _count_numbers(labels: Sequence[str]) -> int:
    return sum(bool(re.fullmatch(r"-?[0-9.]+(e-?[0-9]+)?", label)) for label in labels)
