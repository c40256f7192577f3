"""Sweep: one recipe at many points, which share the stages that they have in common.

    srel-hub sweep recipes/quickstart.yaml recover.iterations=100,500 squeeze.epochs=10,60
    srel-hub sweep cifar10_ipc10 temperature
    accelerate launch -m srel_hub sweep architectures

A field with several values, separated by commas, is an axis; the points are all combinations. A shipped sweep names
its axes in a section `sweep`; behind another recipe's name it lends that one its axes. The runs lie in `NAME-sweep/`;
a stage that is finished at one point is linked into every other of which it is the same. What is done is kept, and the
same command goes on. Ends in a table, a CSV file and a plot, named by the axes.
"""

import copy
import csv
import itertools
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from accelerate.utils import wait_for_everyone
from tqdm import tqdm

from srel_hub.config import Recipe, RecipeError, fingerprint, read_recipe, validated
from srel_hub.config.yaml_io import Loader
from srel_hub.errors import ErrorCollector, UserError
from srel_hub.reports import plot_style as drawing
from srel_hub.reports.compare import Result, results
from srel_hub.runs.completion import STAGES
from srel_hub.runs.decoded_images import clear
from srel_hub.runs.run import Run
from srel_hub.runs.shared_stages import LENT, borrow
from srel_hub.runs.stage_cli import execute
from srel_hub.stages.evaluate.stage import evaluate
from srel_hub.stages.preflight.prepare import prepare
from srel_hub.stages.recover.stage import recover
from srel_hub.stages.relabel import relabel
from srel_hub.stages.squeeze import squeeze
from srel_hub.storage.files import format_bytes, read_json, write_text


MOST_POINTS = 1000
LONGEST_NAME = 80


@dataclass(frozen=True)
class Axis:
    """What is varied: for each of its values a label, and the overrides that it stands for."""

    name: str
    values: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True)
class Point:
    """One run: its label on every axis, and its recipe."""

    labels: tuple[str, ...]
    recipe: Recipe

    @property
    def folder(self) -> Path:
        return Path(self.recipe.run.root).expanduser() / self.recipe.name


@dataclass(frozen=True)
class Sweep:
    """All that is asked for."""

    name: str
    axes: tuple[Axis, ...]
    points: tuple[Point, ...]

    @property
    def folder(self) -> Path:
        """Of this and other sweeps of the recipe."""
        return self.points[0].folder.parent

    @property
    def title(self) -> str:
        """'iterations-epochs', which names what it leaves there."""
        return _slug("-".join(axis.name.split(".")[-1] for axis in self.axes))


def read_sweep(path: str, arguments: Sequence[str]) -> Sweep:
    """The axes of a file and of the command line, and the points they span.

    Raises:
        UserError: with every fault of every point.
    """
    mapping = read_recipe(path)
    files = {argument: read_recipe(argument) for argument in arguments if "=" not in argument}
    sections = {path: mapping.pop("sweep", None) or {}, **{file: read.get("sweep") for file, read in files.items()}}
    axes = {axis.name: axis for file, section in sections.items() for axis in _axes_of(section, file)}
    plain = []
    for argument in arguments:
        axis = _axis_of(argument)
        if axis is not None:
            axes[axis.name] = axis
        elif argument not in files:
            plain.append(argument)
    if not axes:
        raise UserError(f"{path}: nothing to vary: give a field several values, as recover.iterations=500,1000,2000")
    base = validated(copy.deepcopy(mapping), plain, path)
    root = f"run.root={Path(base.run.root) / f'{base.name}-sweep'}"
    combinations = list(itertools.product(*(axis.values for axis in axes.values())))
    if len(combinations) > MOST_POINTS:
        raise UserError(f"{path}: {len(combinations):,} points; at most {MOST_POINTS:,}")
    points, faults = [], dict[str, None]()
    for combination in combinations:
        labels = tuple(label for label, _ in combination)
        name = point_name(list(axes), labels)
        overrides = [*plain, *(override for _, each in combination for override in each), root, f"name={name}"]
        try:
            points.append(Point(labels, validated(copy.deepcopy(mapping), overrides, path)))
        except RecipeError as error:
            faults |= dict.fromkeys(error.faults)
    if faults:
        raise RecipeError(path, list(faults))
    _require_different(points)
    return Sweep(base.name, tuple(axes.values()), tuple(points))


def _axes_of(section: Any, path: str) -> Iterator[Axis]:
    """A file's section: `field: [values]`, or `title: {label: {field: value, ...}, ...}`."""
    if not isinstance(section, dict):
        raise UserError(f"{path}: sweep: must be a section of axes, got {section!r}")
    for name, values in section.items():
        if isinstance(values, list) and values:
            yield Axis(str(name), tuple((label_of(value), (f"{name}={json.dumps(value)}",)) for value in values))
        elif isinstance(values, dict) and values and all(isinstance(each, dict) for each in values.values()):
            settings = {
                str(label): tuple(f"{field}={json.dumps(value)}" for field, value in fields.items())
                for label, fields in values.items()
            }
            yield Axis(str(name), tuple(settings.items()))
        else:
            raise UserError(
                f"{path}: sweep.{name}: must be a list of values, or sections of fields by label, got {values!r}"
            )


def _axis_of(argument: str) -> Axis | None:
    """`field=a,b,c`; None where there is one value only."""
    name, _, text = argument.partition("=")
    try:
        values = yaml.load(f"[{text}]", Loader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError:
        return None
    if not isinstance(values, list) or len(values) < 2:
        return None
    return Axis(name, tuple((label_of(value), (f"{name}={json.dumps(value)}",)) for value in values))


def label_of(value: Any) -> str:
    """'500', 'resnet18', 'model: resnet18, width: 0.5'."""
    if isinstance(value, dict):
        return ", ".join(f"{key}: {label_of(each)}" for key, each in value.items())
    if isinstance(value, list):
        return f"[{', '.join(label_of(each) for each in value)}]"
    return value if isinstance(value, str) else json.dumps(value)


def point_name(axes: Sequence[str], labels: Sequence[str]) -> str:
    """'iterations-500-epochs-10': may name a folder, and no other point's."""
    whole = "-".join(f"{axis.split('.')[-1]}-{label}" for axis, label in zip(axes, labels, strict=True))
    short = _slug(whole)
    if len(short) > LONGEST_NAME or short != whole:
        short = f"{short[:LONGEST_NAME].rstrip('-._')}-{fingerprint(list(labels))[:6]}"
    return short if short[0].isalnum() else f"x{short}"


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-._")


def _require_different(points: Sequence[Point]) -> None:
    seen: dict[str, str] = {}
    for point in points:
        key = fingerprint(replace(point.recipe, name="x"))
        if key in seen:
            raise UserError(f"{point.recipe.name} and {seen[key]} are the same run; give each value once")
        seen[key] = point.recipe.name


def run_points(asked: Sweep) -> int:
    """Every point's stages, after a look at all of them; gives the exit status."""
    faults = ErrorCollector()
    for point in asked.points:
        with faults.collect():
            run = Run(point.recipe)
            if not run.broadcast(all(run.is_complete(stage) for stage in STAGES)):
                prepare(run)
    faults.raise_all()
    for number, point in enumerate(asked.points, 1):
        run = Run(point.recipe)
        if run.is_main:
            tqdm.write(f"point {number} of {len(asked.points)}: {point.recipe.name}", file=sys.stderr)
            borrow(point.recipe, point.folder, asked.folder.iterdir() if asked.folder.is_dir() else ())
        wait_for_everyone()
        status = execute(_stages, run)
        if status:
            return status
    return 0


def _stages(run: Run) -> None:
    squeeze(run)
    recover(run)
    relabel(run)
    evaluate(run)
    if run.presence is not None:
        with run.locked("cache"):
            clear(run)


def shared(asked: Sweep) -> str:
    """'squeeze 2 of 6, recover 6 of 6, ...': how many points made a stage themselves."""
    lent: Counter[str] = Counter()
    for point in asked.points:
        lent.update(list(read_json(point.folder / LENT)) if (point.folder / LENT).is_file() else [])
    count = len(asked.points)
    return ", ".join(f"{stage} {count - lent[stage]} of {count}" for stage in STAGES)


@dataclass(frozen=True)
class Row:
    """A student at a point: its results by row, and the teacher's top-1 on the eval split."""

    labels: tuple[str, ...]
    student: str
    teacher: float | None
    label_bytes: int
    results: Mapping[str, Result]


def rows_of(asked: Sweep) -> list[Row]:
    """All students at all points, in order."""
    found = []
    for point in asked.points:
        told = results([str(point.folder)])
        teacher = read_json(point.folder / "teacher" / "metrics.json")["top1"]
        for student in dict.fromkeys(result.student for result in told):
            here = {result.row: result for result in told if result.student == student}
            found.append(Row(point.labels, student, teacher, here["condensed"].label_bytes, here))
    return found


def table(asked: Sweep, rows: Sequence[Row]) -> Iterator[str]:
    """Markdown: a line a point and student."""
    kinds = list(dict.fromkeys(kind for row in rows for kind in row.results))
    heads = [*(axis.name for axis in asked.axes), "student"]
    yield f"| {' | '.join(heads)} | teacher | images | soft labels | {' | '.join(kinds)} | n |"
    yield f"| {'--- | ' * len(heads)}---: | ---: | ---: | {'---: | ' * len(kinds)}---: |"
    for row in rows:
        teacher = "" if row.teacher is None else f"{100 * row.teacher:.2f}"
        images, n = (getattr(row.results["condensed"], name) for name in ("images", "n"))
        cells = [row.results[kind].cell if kind in row.results else "" for kind in kinds]
        told = [*row.labels, row.student, teacher, f"{images:,}", format_bytes(row.label_bytes), *cells, str(n)]
        yield f"| {' | '.join(told)} |"


def write_csv(asked: Sweep, rows: Sequence[Row], file: Path) -> None:
    """A line a point, student and row."""
    heads = [*(axis.name for axis in asked.axes), "student", "teacher_top1", "label_bytes"]
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([*heads, "row", "images", "top1", "std", "n"])
        for row in rows:
            for kind, result in row.results.items():
                told = (result.images, result.top1, result.std, result.n)
                writer.writerow([*row.labels, row.student, row.teacher, row.label_bytes, kind, *told])


def plot(asked: Sweep, rows: Sequence[Row], file: Path) -> None:
    """A panel a student: accuracy over the axis of most numbers, a line for each of the other axes' combinations, and
    dashed the random real images under the same labels."""
    students = list(dict.fromkeys(row.student for row in rows))
    across = max(range(len(asked.axes)), key=lambda index: _numbers(asked.axes[index]))
    axis = asked.axes[across]
    ticks = [label for label, _ in axis.values]
    numeric = _numbers(axis) == len(ticks)
    at = {label: float(label) if numeric else index for index, label in enumerate(ticks)}
    with drawing.panels(file, 1, len(students), 4.2, 3.4) as panels:
        for panel, student in zip(panels[0], students, strict=True):
            lines: dict[tuple[str, ...], list[Row]] = {}
            for row in rows:
                if row.student == student:
                    lines.setdefault(row.labels[:across] + row.labels[across + 1 :], []).append(row)
            others = [other.name.split(".")[-1] for other in asked.axes if other is not axis]
            for index, (labels, line) in enumerate(lines.items()):
                told = ", ".join(f"{name} {label}" for name, label in zip(others, labels, strict=True))
                _draw(panel, line, [at[row.labels[across]] for row in line], told, index)
            panel.set(xlabel=axis.name, ylabel="top-1 %")
            panel.set_title(student)
            if numeric and min(at.values()) > 0 and max(at.values()) >= 8 * min(at.values()):
                panel.set_xscale("log")
            panel.set_xticks(list(at.values()), ticks)
            panel.minorticks_off()
        drawing.legend_below(panels[0][0])


def _draw(panel: Any, line: Sequence[Row], x: Sequence[float], told: str, index: int) -> None:
    color = drawing.COLORS[index % len(drawing.COLORS)]
    marker = drawing.MARKERS[index % len(drawing.MARKERS)]
    for kind, style in (("condensed", "-"), ("random-real", ":")):
        here = [(place, row.results[kind]) for place, row in zip(x, line, strict=True) if kind in row.results]
        if here:
            panel.errorbar(
                [place for place, _ in here],
                [100 * result.top1 for _, result in here],
                [100 * (result.std or 0) for _, result in here],
                **{"color": color, "marker": marker, "linestyle": style, "capsize": 2},
                label=", ".join(text for text in (told, kind.replace("-", " ")) if text),
            )


def _numbers(axis: Axis) -> int:
    return sum(bool(re.fullmatch(r"-?[0-9.]+(e-?[0-9]+)?", label)) for label, _ in axis.values)


def summarize(asked: Sweep) -> list[str]:
    """Return the table as Markdown, with what its numbers are."""
    return [*table(asked, rows_of(asked)), "", "top-1 %, mean +- standard deviation over n seeds, last epoch"]


def write_results(asked: Sweep) -> Iterator[Path]:
    """Write the table, the CSV file and the plot, and yield each file once it is written.

    Raises:
        UserError: without matplotlib; it is needed last, so that table and CSV are there.
    """
    rows = rows_of(asked)
    file = asked.folder / f"{asked.title}.md"
    write_text(file, "\n".join(summarize(asked)) + "\n")
    yield file
    file = asked.folder / f"{asked.title}.csv"
    write_csv(asked, rows, file)
    yield file
    file = asked.folder / f"{asked.title}.png"
    plot(asked, rows, file)
    yield file
