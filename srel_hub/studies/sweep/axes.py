"""Parse the axes of a sweep, and name their values and points."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from srel_hub.config import fingerprint
from srel_hub.config.yaml_io import Loader
from srel_hub.errors import UserError


LONGEST_NAME = 80  # characters; with a fingerprint and `.png` still below the 255 bytes that file systems allow


@dataclass(frozen=True)
class Axis:
    """An axis of a sweep: a field or a group of fields that it varies.

    Attributes:
        name: A field of the recipe, or a title of the axis.
        values: The label of each value, and the overrides `section.key=value` that the label stands for.
    """

    name: str
    values: tuple[tuple[str, tuple[str, ...]], ...]

    @property
    def key(self) -> str:
        """The last part of the name: 'iterations' for 'recover.iterations'."""
        return self.name.split(".")[-1]

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of the values, in order."""
        return tuple(label for label, _ in self.values)


def parse_section(section: Any, path: str) -> Iterator[Axis]:
    """Yield the axes of the section `sweep` of a recipe file.

    Args:
        section: `{field: [value, ...]}`, or `{title: {label: {field: value, ...}, ...}}`.
        path: The file, for messages.

    Raises:
        UserError: If the section has a different form.
    """
    if not isinstance(section, dict):
        raise UserError(
            f"{path}: sweep must be {{field: [value, ...]}} or {{title: {{label: {{field: value}}}}}}, got {section!r}"
        )
    for name, values in section.items():
        if isinstance(values, list) and values:
            yield _field_axis(str(name), values)
        elif isinstance(values, dict) and values and all(isinstance(fields, dict) for fields in values.values()):
            settings = {
                str(label): tuple(_override(field, value) for field, value in fields.items())
                for label, fields in values.items()
            }
            yield Axis(str(name), tuple(settings.items()))
        else:
            raise UserError(
                f"{path}: sweep.{name}: must be a list of values, or a mapping of labels to sections of fields, got "
                f"{values!r}"
            )


def parse_argument(argument: str) -> Axis | None:
    """Return the axis of a command-line argument `field=a,b,c`; None for an override with a single value.

    The values are the items of a YAML list, so that `recover.roll=[0,1],[0,2]` has two.
    """
    name, _, text = argument.partition("=")
    try:
        values = yaml.load(f"[{text}]", Loader)  # noqa: S506 (a SafeLoader)
    except Exception:  # see `srel_hub.config.loading`: not only YAMLError
        return None
    return _field_axis(name, values) if isinstance(values, list) and len(values) >= 2 else None


def _field_axis(field: str, values: Sequence[Any]) -> Axis:
    return Axis(field, tuple((format_value(value), (_override(field, value),)) for value in values))


def _override(field: Any, value: Any) -> str:
    return f"{field}={json.dumps(value)}"  # JSON is YAML, so that every type survives


def format_value(value: Any) -> str:
    """Return a value as text for tables and plots: '500', 'resnet18', 'model: resnet18, width: 0.5'."""
    if isinstance(value, dict):
        return ", ".join(f"{key}: {format_value(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return f"[{', '.join(format_value(inner) for inner in value)}]"
    return value if isinstance(value, str) else json.dumps(value)


def point_name(axes: Sequence[str], labels: Sequence[str]) -> str:
    """Return a folder name for a point, such as 'iterations-500-epochs-10', that no other point of the sweep has.

    Args:
        axes: The names of the axes.
        labels: The point's label on each of them.
    """
    whole = "-".join(f"{axis.split('.')[-1]}-{label}" for axis, label in zip(axes, labels, strict=True))
    short = slugify(whole)
    # Two labels can have the same slug ('a b' and 'a,b'), so a fingerprint is added whenever characters were lost.
    if len(short) > LONGEST_NAME or short != whole:
        short = f"{short[:LONGEST_NAME].rstrip('-._')}-{fingerprint(list(labels))[:6]}"
    return short if short[0].isalnum() else f"x{short}"


def slugify(text: str) -> str:
    """Return the text with each run of characters other than letters, digits, '.' and '_' replaced by '-'."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-._")
