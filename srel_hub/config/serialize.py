"""Recipes as plain JSON values, in one canonical spelling, and as fingerprints."""

import dataclasses
import hashlib
import json
from typing import Any


def as_dict(recipe: Any) -> dict[str, Any]:
    """Return a recipe, or a section of one, as plain JSON values (tuples become lists).

    A field with the metadata `fields.SPARSE` is left out if it has its default value.

    Raises:
        ValueError: If a number is infinite or NaN, which JSON cannot store.
    """
    plain: dict[str, Any] = json.loads(json.dumps(_plain(recipe), allow_nan=False))
    return plain


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        pairs = [(field, getattr(value, field.name)) for field in dataclasses.fields(value)]
        return {
            field.name: _plain(item)
            for field, item in pairs
            if not (field.metadata.get("sparse") and item == field.default)
        }
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def canonical(value: Any) -> str:
    """Return the canonical JSON of a section or of plain values: sorted keys, no spaces, UTF-8 unescaped."""
    plain = as_dict(value) if dataclasses.is_dataclass(value) else value
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def fingerprint(value: Any) -> str:
    """Return the SHA-256 of the canonical JSON, as 64 hexadecimal digits.

    Equal values have equal fingerprints, whatever the order and spelling in their YAML files.
    """
    return hashlib.sha256(canonical(value).encode()).hexdigest()
