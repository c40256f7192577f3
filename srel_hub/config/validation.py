"""pydantic's validation errors as messages for users: one line per field, with the allowed values."""

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from pydantic import ValidationError


MOST_MESSAGES = 100  # of one file; a manifest with a million wrong entries would otherwise print a million lines
UNKNOWN_FIELD = ("unexpected_keyword_argument", "extra_forbidden")


def describe_errors(error: ValidationError, schema: type) -> list[str]:
    """Return a line for every field with an error.

    Args:
        error: pydantic's error.
        schema: The dataclass that was validated. Its fields may be dataclasses.

    Returns:
        Lines such as `recover.lr: input should be a valid number, got 'fast'`, at most MOST_MESSAGES.
    """
    messages: dict[str, list[str]] = {}
    for detail in error.errors()[:MOST_MESSAGES]:
        # pydantic counts only the valid elements of a list: the invalid ones have messages of their own.
        if detail["type"] == "too_short" and detail["input"]:
            continue
        section: Any = schema
        known: list[str] = []
        path: list[str] = []
        for part in detail["loc"]:
            fields = _fields(section)
            # In a union, pydantic appends the name of the branch to the path. It is not a field.
            if isinstance(part, str) and part not in fields and detail["type"] not in UNKNOWN_FIELD:
                break
            path.append(str(part))
            known = list(fields)
            section = fields.get(str(part), section)
        messages.setdefault(".".join(path), []).append(_message(detail, path, known) + _example(detail, section))
    # A union has a message for each of its branches.
    lines = {name: " or ".join(dict.fromkeys(texts)) for name, texts in messages.items()}
    return [f"{name}: {text}" if name else text for name, text in lines.items()]


def is_text(schema: Any, path: Sequence[str]) -> bool:
    """Return whether a field is text, or text or null.

    Args:
        schema: A dataclass. Its fields may be dataclasses.
        path: The parts of the field's dotted name. For an unknown name, the result is False.
    """
    for part in path:
        schema = _fields(schema).get(part)
    types = {kind for kind in _types(schema) if kind is not type(None)}
    return types == {str}


def _fields(section: Any) -> dict[str, Any]:
    """Return names and types of a section's fields, looking inside Annotated, unions and tuples of sections."""
    if isinstance(section, type) and dataclasses.is_dataclass(section):
        return get_type_hints(section, include_extras=True)
    return next((fields for part in get_args(section) if (fields := _fields(part))), {})


def _types(annotation: Any) -> set[Any]:
    """Return the alternatives of an annotation, looking inside Annotated and unions."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _types(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return {kind for part in get_args(annotation) for kind in _types(part)}
    return {annotation}


def _example(detail: Mapping[str, Any], section: Any) -> str:
    """Return how to write a section, or a list of sections, for which only its main value was given."""
    value, is_list = detail["input"], detail["type"] == "tuple_type"
    main = next((name for name in ("model", "path") if name in _fields(section)), None)
    if main is None or not isinstance(value, str | dict) or not (is_list or detail["type"] == "dataclass_type"):
        return ""
    text = (
        f"{{{main}: {value}}}" if isinstance(value, str) else f"{{{', '.join(f'{k}: {v}' for k, v in value.items())}}}"
    )
    return f"; write [{text}]" if is_list else f"; write {text}"


def _message(detail: Mapping[str, Any], path: Sequence[str], known: Sequence[str]) -> str:
    if detail["type"] in UNKNOWN_FIELD:
        nearest = difflib.get_close_matches(path[-1], known, n=1)
        hint = f"did you mean {nearest[0]}? Allowed" if nearest else "allowed"
        return f"unknown field; {hint}: {', '.join(known)}"
    if detail["type"].startswith("missing"):
        return "is required"
    if detail["type"] == "value_error":
        return str(detail["ctx"]["error"])
    if detail["type"] == "dataclass_type":
        return f"must be a section (a mapping of fields to values), got {detail['input']!r}"
    # pydantic speaks of tuples, but YAML has lists.
    message = (detail["msg"][0].lower() + detail["msg"][1:]).replace("tuple", "list")
    message = message.split(", unable to parse")[0]  # the value says it
    if detail["type"] == "string_type" and detail["input"] is not None:
        message += " (quote it)"
    if detail["type"] == "literal_error":
        allowed = detail["ctx"]["expected"].replace(" or ", ", ").replace("'", "").split(", ")
        nearest = difflib.get_close_matches(str(detail["input"]), allowed, n=1)
        message += f" (nearest: {nearest[0]})" if nearest else ""
    return f"{message}, got {detail['input']!r}"
