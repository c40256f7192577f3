"""Read a sweep: its axes, and the recipe of every point."""

import copy
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from srel_hub.config import Recipe, RecipeError, fingerprint, read_recipe, validated
from srel_hub.config.arguments import ineffective
from srel_hub.errors import UserError
from srel_hub.studies.sweep.axes import Axis, parse_argument, parse_section, point_name, slugify


MOST_POINTS = 1000  # more is a mistake, such as one axis too many: at a minute per point it takes 17 hours


@dataclass(frozen=True)
class Point:
    """One run of a sweep.

    Attributes:
        labels: The point's label on each axis.
        recipe: The point's recipe.
    """

    labels: tuple[str, ...]
    recipe: Recipe

    @property
    def folder(self) -> Path:
        """The run directory."""
        return Path(self.recipe.run.root).expanduser() / self.recipe.name


@dataclass(frozen=True)
class Sweep:
    """All combinations of the values of several axes.

    Attributes:
        name: Name of the recipe that is varied.
        axes: The axes.
        points: One run for each combination of values.
    """

    name: str
    axes: tuple[Axis, ...]
    points: tuple[Point, ...]

    @property
    def folder(self) -> Path:
        """The folder of the runs, which all sweeps of the recipe share."""
        return self.points[0].folder.parent

    @property
    def title(self) -> str:
        """The name of the result files: the axes joined by hyphens, such as 'iterations-epochs'."""
        return slugify("-".join(axis.key for axis in self.axes))


def read_sweep(path: str, arguments: Sequence[str]) -> Sweep:
    """Return the sweep of a recipe, over the axes of files and of the command line.

    Args:
        path: A recipe or a shipped sweep.
        arguments: Axes `field=a,b,c`, overrides `field=a`, and recipes whose section `sweep` adds axes.

    Raises:
        UserError: If a field is set twice, or a point is not valid. The message lists the errors of all points.
    """
    mapping = read_recipe(path)
    files = {argument: read_recipe(argument) for argument in dict.fromkeys(arguments) if "=" not in argument}
    sections = {path: mapping.pop("sweep", None) or {}} | {file: _section(file, files[file]) for file in files}
    of_files = [(axis, file) for file, section in sections.items() for axis in parse_section(section, file)]
    of_command, overrides = [], []
    for argument in arguments:
        axis = parse_argument(argument)
        if axis is not None:
            of_command.append((axis, argument))
        elif argument not in files:
            overrides.append(argument)
    without_effect = ineffective(overrides)
    if without_effect:
        raise UserError("\n".join(without_effect))
    replaced = {axis.name for axis, _ in of_command}  # as an override replaces a value of a file
    axes = [(axis, file) for axis, file in of_files if axis.name not in replaced] + of_command
    _require_separate(axes, overrides)
    if not axes:
        raise UserError(
            f"{path}: there is nothing to vary; list several values of a field, as in recover.iterations=500,1000,2000"
        )
    base = validated(copy.deepcopy(mapping), overrides, path)
    root = Path(base.run.root) / f"{base.name}-sweep"
    varied = tuple(axis for axis, _ in axes)
    return Sweep(base.name, varied, _points(path, mapping, overrides, root, varied))


def _section(file: str, content: dict[str, Any]) -> Any:
    if "sweep" not in content:
        raise UserError(f"{file}: this recipe has no section sweep, so it adds no axes; remove it from the command")
    return content["sweep"]


def _require_separate(axes: Sequence[tuple[Axis, str]], overrides: Sequence[str]) -> None:
    """Check that no field is set by two axes, or by an axis and an override, of which only the last has an effect.

    Args:
        axes: Each axis with the file or the argument that it comes from.
        overrides: The overrides of the command.
    """
    problems = []
    for index, (axis, source) in enumerate(axes):
        for field in sorted(axis.fields & {"name", "run.root"}):
            problems.append(f"{source}: {field} cannot be varied, because each point has its own; remove this axis")
        for other, other_source in axes[:index]:
            for field in sorted(axis.fields & other.fields):
                problems.append(f"{field} is varied twice, by {other_source} and {source}; remove one of them")
        for override in overrides:
            # A point of an axis with a title sets several fields, and may leave some of them to the overrides.
            if axis.fields == {axis.name} and f"{override.partition('=')[0]}.".startswith(f"{axis.name}."):
                problems.append(f"{override} has no effect, because {source} varies {axis.name}; remove one of them")
    if problems:
        raise UserError("\n".join(dict.fromkeys(problems)))


def _points(
    path: str, mapping: dict[str, Any], overrides: Sequence[str], root: Path, axes: Sequence[Axis]
) -> tuple[Point, ...]:
    combinations = list(itertools.product(*(axis.values for axis in axes)))
    if len(combinations) > MOST_POINTS:
        raise UserError(
            f"{path}: the sweep has {len(combinations):,} points; at most {MOST_POINTS:,} are allowed; vary fewer "
            "fields, or list fewer values"
        )
    points, errors = [], dict[str, None]()  # a dict keeps the order, and an error of all points only once
    for combination in combinations:
        labels = tuple(label for label, _ in combination)
        changes = [change for _, value_changes in combination for change in value_changes]
        name = point_name([axis.name for axis in axes], labels)
        try:
            recipe = validated(copy.deepcopy(mapping), [*overrides, *changes, f"run.root={root}", f"name={name}"], path)
            points.append(Point(labels, recipe))
        except RecipeError as error:
            errors |= dict.fromkeys(error.messages)
    if errors:
        raise RecipeError(path, list(errors))
    _require_different(points)
    return tuple(points)


def _require_different(points: Sequence[Point]) -> None:
    names: dict[str, str] = {}
    for point in points:
        key = fingerprint(replace(point.recipe, name="x"))
        if key in names:
            raise UserError(f"{point.recipe.name} and {names[key]} are the same run; list each value once")
        names[key] = point.recipe.name
