"""A user's mistakes: the exception that tells them, several told at once, and pydantic's errors told to a person."""

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from pydantic import ValidationError


MOST_TOLD = 100  # faults of one file
UNKNOWN = ("unexpected_keyword_argument", "extra_forbidden")


def describe_errors(error: ValidationError, schema: type) -> list[str]:
    """One line a field, all of them. `schema` is the dataclass, of dataclasses, that was validated."""
    messages: dict[str, list[str]] = {}
    for detail in error.errors()[:MOST_TOLD]:
        if detail["type"] == "too_short" and detail["input"]:
            continue  # the elements that were left out have faults of their own
        section: Any = schema
        known: list[str] = []
        path: list[str] = []
        for part in detail["loc"]:
            fields = _fields(section)
            if isinstance(part, str) and part not in fields and detail["type"] not in UNKNOWN:
                break  # pydantic names the branch of a union here
            path.append(str(part))
            known = list(fields)
            section = fields.get(str(part), section)
        messages.setdefault(".".join(path), []).append(_message(detail, path, known))
    lines = {name: " or ".join(dict.fromkeys(texts)) for name, texts in messages.items()}
    return [f"{name}: {text}" if name else text for name, text in lines.items()]


def _fields(section: Any) -> dict[str, Any]:
    """Field names and types of a section, looking through Annotated, unions and tuples of sections."""
    if isinstance(section, type) and dataclasses.is_dataclass(section):
        return get_type_hints(section, include_extras=True)
    return next((fields for part in get_args(section) if (fields := _fields(part))), {})


def is_text(schema: Any, path: Sequence[str]) -> bool:
    """Whether the field at the end of a dotted path takes text, or text or nothing."""
    for part in path:
        schema = _fields(schema).get(part)
    plain = {kind for kind in _kinds(schema) if kind is not type(None)}
    return plain == {str}


def _kinds(annotation: Any) -> set[Any]:
    """The types that an annotation is made of, looking through Annotated and unions."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _kinds(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return {kind for part in get_args(annotation) for kind in _kinds(part)}
    return {annotation}


def _message(detail: Mapping[str, Any], path: Sequence[str], known: Sequence[str]) -> str:
    if detail["type"] in UNKNOWN:
        nearest = difflib.get_close_matches(path[-1], known, n=1)
        hint = f"did you mean {nearest[0]}? " if nearest else ""
        return f"unknown field; {hint}allowed here: {', '.join(known)}"
    if detail["type"].startswith("missing"):
        return "must be set, and is not"
    if detail["type"] == "value_error":
        return str(detail["ctx"]["error"])
    if detail["type"] == "dataclass_type":
        return f"must be a section, a mapping of fields to values, got {detail['input']!r}"
    message = (detail["msg"][0].lower() + detail["msg"][1:]).replace("tuple", "list")
    if detail["type"] == "string_type" and detail["input"] is not None:
        message += " (quote it)"
    if detail["type"] == "literal_error":
        allowed = detail["ctx"]["expected"].replace(" or ", ", ").replace("'", "").split(", ")
        nearest = difflib.get_close_matches(str(detail["input"]), allowed, n=1)
        message += f" (nearest: {nearest[0]})" if nearest else ""
    return f"{message}, got {detail['input']!r}"
