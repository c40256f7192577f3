"""Find the image column and the label column of a dataset."""

from collections.abc import Mapping, Sequence
from typing import Any

import datasets

from srel_hub import config
from srel_hub.data.folders import LAYOUTS
from srel_hub.errors import ErrorCollector, UserError


INCOMPLETE = (
    "Whole numbers are read as fractions (float64) if a row has none; to find that row, set source.label_column"
)
LABEL_NAMES = ("label", "labels")
CONTENT = {"image_column": "images", "label_column": "class labels, strings or whole numbers"}

Features = Mapping[str, Any]  # the type of every column


def find_columns(spec: config.Source, features: Features, split: str) -> tuple[str, str]:
    """Return the names of the image column and of the label column of a split.

    A column that the recipe names must have the right type. If the recipe names no column, the only column of the most
    specific type is selected: `Image` before bytes, `ClassLabel` before strings and whole numbers.

    Args:
        spec: the recipe's section.
        features: the columns of the split.
        split: its name, for messages.

    Raises:
        UserError: if a column cannot be determined. The message describes the problems of both columns and lists all
            columns.
    """
    where = f"{spec.path}, split {split}"
    errors = ErrorCollector()
    image = label = ""
    with errors.collect():
        certain = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
        likely = [name for name, feature in features.items() if _holds_bytes(feature)]
        usable = [name for name, feature in features.items() if _is_castable_to_image(feature)]
        image = _find_column(spec.image_column, "image_column", certain or likely, usable, where, features)
    with errors.collect():
        certain = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
        plain = [name for name, feature in features.items() if _is_label(feature)]
        # `datasets` reads whole numbers as fractions if one is missing. The row without a label is reported later.
        incomplete = [name for name, feature in features.items() if _holds_fractions(feature)]
        plain += [name for name in incomplete if name in (*LABEL_NAMES, spec.label_column)]
        likely = plain if len(plain) == 1 else [name for name in LABEL_NAMES if name in plain]
        label = _find_column(spec.label_column, "label_column", certain or likely, certain + plain, where, features)
    errors.raise_all()
    return image, label


def _find_column(
    named: str | None, field: str, candidates: Sequence[str], usable: Sequence[str], where: str, features: Features
) -> str:
    """Return the named column if it is usable, or the only candidate."""
    if named is not None and named in usable:
        return named
    columns = ", ".join(f"{name} ({_kind(feature)})" for name, feature in features.items())
    if named is not None:
        raise UserError(
            f"source.{field}={named}: {where} has no column of that name with {CONTENT[field]} (columns: {columns})"
        )
    if len(candidates) == 1:
        return candidates[0]
    if usable:
        raise UserError(
            f"{where}: the column with {CONTENT[field]} is ambiguous; set source.{field} to one of "
            f"{', '.join(usable)} (columns: {columns})"
        )
    fractions = field == "label_column" and any(map(_holds_fractions, features.values()))
    hint = f". {INCOMPLETE}" if fractions else ""
    raise UserError(f"{where}: there is no column with {CONTENT[field]} (columns: {columns}){hint}. {LAYOUTS}")


def _kind(feature: Any) -> str:
    return str(feature.dtype) if isinstance(feature, datasets.Value) else type(feature).__name__


def _holds_bytes(feature: Any) -> bool:
    return isinstance(feature, dict) and "bytes" in feature


def _is_castable_to_image(feature: Any) -> bool:
    """Return whether a column has images, or has bytes or paths that can be cast to images."""
    return (
        isinstance(feature, datasets.Image)
        or _holds_bytes(feature)
        or (isinstance(feature, datasets.Value) and feature.dtype in ("binary", "large_binary", "string"))
    )


def _holds_fractions(feature: Any) -> bool:
    return isinstance(feature, datasets.Value) and str(feature.dtype).startswith("float")


def _is_label(feature: Any) -> bool:
    """Return whether a column has strings, whole numbers or booleans, whose values can be classes."""
    return isinstance(feature, datasets.Value) and feature.dtype.removeprefix("large_").startswith(
        ("string", "int", "uint", "bool")
    )
