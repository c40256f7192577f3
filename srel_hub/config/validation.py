"""pydantic's validation errors as messages for users: one line per field, with its value and the allowed values.

The allowed values are taken from the JSON schema of the type, so a union has one message instead of one per branch.
"""

import dataclasses
import difflib
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from srel_hub.config.fields import PATTERNS


MOST_MESSAGES = 100  # of one file; a manifest with a million wrong entries would otherwise print a million lines
LONGEST_VALUE = 200  # characters of a value in a message
UNKNOWN_FIELD = ("unexpected_keyword_argument", "extra_forbidden")

Node = Mapping[str, Any]  # a part of a JSON schema


def describe_errors(error: ValidationError, schema: Any) -> list[str]:
    """Return a line for every field with an error.

    Args:
        error: pydantic's error.
        schema: The type that was validated, such as a dataclass whose fields are dataclasses.

    Returns:
        Lines such as `recover.lr: must be a number above 0, got 'fast'`, at most MOST_MESSAGES.
    """
    root = _json_schema(schema)
    messages: dict[str, list[str]] = {}
    for detail in error.errors()[:MOST_MESSAGES]:
        # pydantic counts only the valid elements of a list: the invalid ones have messages of their own.
        if detail["type"] == "too_short" and detail["input"]:
            continue
        path, parent, node = _locate(root, detail)
        if detail["type"] in UNKNOWN_FIELD:
            text = _unknown_field(root, path[-1], _properties(root, parent))
        else:
            text = _message(root, node, detail)
        texts = messages.setdefault(".".join(path), [])
        if text not in texts:
            texts.append(text)
    lines = {name: "; ".join(texts) for name, texts in messages.items()}
    return [f"{name}: {text}" if name else text for name, text in lines.items()]


@functools.cache
def _json_schema(schema: Any) -> Node:
    return TypeAdapter(schema).json_schema()  # 0.1 s for a recipe, and a sweep may have 1,000 wrong points


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


def shown(value: Any) -> str:
    """Return a value as a recipe has it: null, true, 'text', 0.5; long values are cut."""
    text = json.dumps(value) if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]} ..."


def nearest(word: object, known: Sequence[str]) -> str:
    """Return '; did you mean X?' with the most similar of the known words, or ''."""
    by_lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(str(word).lower(), by_lower, n=1)
    return f"; did you mean {by_lower[close[0]]}?" if close else ""


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


def _locate(root: Node, detail: Mapping[str, Any]) -> tuple[list[str], Node, Node]:
    """Return the path of an error in the file, and the parts of the JSON schema of its parent and itself."""
    path: list[str] = []
    parent = node = root
    *above, last = detail["loc"] or ("",)
    if detail["type"].startswith("missing") and isinstance(last, int):
        above, last = above[:-1], above[-1]  # an item of a list of fixed length: the list is wrong
    for part in (*above, last):
        child = _child(root, node, part)
        if child is not None:
            parent, node = node, child
            path.append(str(part))
        elif part is last and detail["type"] in UNKNOWN_FIELD:
            parent = node
            path.append(str(part))
        # Otherwise the part is the name of a union's branch, which pydantic adds to the path.
    return path, parent, node


def _child(root: Node, node: Node, part: str | int) -> Node | None:
    for option in _options(root, node):
        if isinstance(part, int):
            items: Sequence[Node] = option.get("prefixItems", ())
            if part < len(items):
                return items[part]
            if "items" in option:
                return dict(option["items"])
        elif part in option.get("properties", {}):
            return dict(option["properties"][part])
        elif isinstance(option.get("additionalProperties"), dict):  # a mapping with any keys
            return dict(option["additionalProperties"])
    return None


def _options(root: Node, node: Node) -> Iterator[Node]:
    """Yield the alternatives of a part of the JSON schema, with references resolved."""
    if "$ref" in node:
        yield from _options(root, root["$defs"][node["$ref"].rsplit("/", 1)[-1]])
    elif "anyOf" in node:
        for option in node["anyOf"]:
            yield from _options(root, option)
    else:
        yield node


def _properties(root: Node, node: Node) -> list[str]:
    return [name for option in _options(root, node) for name in option.get("properties", {})]


def _unknown_field(root: Node, name: str, known: Sequence[str]) -> str:
    # A field in the wrong section has its whole name; a misspelled one is similar to a name of this section.
    elsewhere = [dotted for dotted in _dotted_names(root, root) if dotted.split(".")[-1] == name]
    hint = f"; did you mean {' or '.join(elsewhere)}?" if elsewhere else nearest(name, known)
    return f"unknown field{hint} Allowed: {', '.join(known)}" if hint else f"unknown field; allowed: {', '.join(known)}"


def _dotted_names(root: Node, node: Node, prefix: str = "") -> Iterator[str]:
    for option in _options(root, node):
        for name, child in option.get("properties", {}).items():
            yield f"{prefix}{name}"
            yield from _dotted_names(root, child, f"{prefix}{name}.")


def _message(root: Node, node: Node, detail: Mapping[str, Any]) -> str:
    kind, value = detail["type"], detail["input"]
    if kind == "value_error":
        return str(detail["ctx"]["error"])
    if kind.startswith("missing") and isinstance(detail["loc"][-1], str):
        return "is required; add it to the recipe"
    options = list(_options(root, node))
    allowed = " or ".join(_allowed(root, option) for option in options)
    if kind == "finite_number":
        allowed = allowed.replace("a number", "a finite number")
    return f"must be {allowed}, got {shown(value)}{_example(root, options, value) or _fix(options, value)}"


def _example(root: Node, options: Sequence[Node], value: Any) -> str:
    """Return how to write a section, or a list of sections, of which only the main field or one item was given."""
    for option in options:
        is_list = option.get("type") == "array"
        section = option.get("items", {}) if is_list else option
        main = next((name for name in ("model", "path") if name in _properties(root, section)), None)
        if main is not None and (isinstance(value, str) or (is_list and isinstance(value, dict))):
            fields = {main: value} if isinstance(value, str) else value
            text = f"{{{', '.join(f'{name}: {field}' for name, field in fields.items())}}}"
            return f"; write [{text}]" if is_list else f"; write {text}"
    return ""


def _fix(options: Sequence[Node], value: Any) -> str:
    """Return what to write instead of a value, or '' if that is unknown."""
    kinds = {option.get("type") for option in options}
    if isinstance(value, str):
        words = [str(word) for option in options for word in _words(option)]
        return nearest(value, words) or (f"; write [{value}]" if kinds <= {"array", "null"} else "")
    if value is None or isinstance(value, (list, dict)):
        return ""
    if "string" in kinds and not any(_words(option) for option in options):
        return "; put it in quotes"
    return f"; write [{shown(value)}]" if kinds <= {"array", "null"} else ""


def _words(option: Node) -> list[str]:
    """Return the words that a part of the JSON schema allows; empty if it allows any text, or none."""
    if option.get("type") == "boolean":
        return ["true", "false"]
    return [str(word) for word in option.get("enum", [option["const"]] if "const" in option else [])]


def _allowed(root: Node, option: Node) -> str:
    """Describe the values that a part of the JSON schema allows, such as 'a whole number from 1 to 64'."""
    words = _words(option)
    if words:
        return words[0] if len(words) == 1 else " or ".join(words) if len(words) == 2 else f"one of {', '.join(words)}"
    match option.get("type"):
        case "integer":
            return f"a whole number{_bounds(option)}"
        case "number":
            return f"a number{_bounds(option)}"
        case "string":
            return _allowed_text(option)
        case "null":
            return "null"
        case "array":
            return _allowed_list(root, option)
        case "object":
            return "a section (a mapping of fields to values)"
    return "a value"


def _allowed_text(option: Node) -> str:
    pattern = option.get("pattern")
    text = "text" if pattern is None else PATTERNS.get(pattern, f"text of the form {pattern}")
    return f"{text} (at most {option['maxLength']} characters)" if "maxLength" in option else text


def _allowed_list(root: Node, option: Node) -> str:
    items = option.get("prefixItems") or [option.get("items", {})]
    each = " or ".join(dict.fromkeys(_allowed(root, kind) for item in items for kind in _options(root, item)))
    if "prefixItems" in option:
        return f"a list of {len(items)} values, each {each}"
    least = option.get("minItems", 0)
    return f"a list of {f'at least {least} ' if least else ''}value{'s' if least != 1 else ''}, each {each}"


def _bounds(option: Node) -> str:
    low, high = option.get("minimum"), option.get("maximum")
    above, below = option.get("exclusiveMinimum"), option.get("exclusiveMaximum")
    if low is not None and high is not None:
        return f" from {low:.10g} to {high:.10g}"
    limits = {"at least": low, "above": above, "at most": high, "below": below}
    words = " and ".join(f"{name} {limit:.10g}" for name, limit in limits.items() if limit is not None)
    return f" of {words}" if words.startswith("at") else f" {words}".rstrip()
