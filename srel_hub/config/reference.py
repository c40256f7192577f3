"""A typed description of settings as a Markdown page: every field, what it may be, its default and what it means.

Nothing is written twice: a section is a dataclass and is told by its docstring, a field by its type and by the comment
at the end of its line.
"""

import ast
import inspect
import json
import textwrap
import tokenize
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from io import StringIO
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic.fields import FieldInfo


BOUNDS = {"ge": ">= {:g}", "gt": "> {:g}", "le": "<= {:g}", "lt": "< {:g}"}
HEAD = """\
# Recipe reference

Every field of a recipe. This page is printed by `srel-hub recipe reference`; a test keeps it equal.

A recipe is a YAML file of these sections. `section.field=value` after it on a command line changes one value.
`null` means that there is none, `{}` a section with its defaults.
"""


def reference(schema: type) -> str:
    """The page of a dataclass of dataclasses: its own fields first, then every section once."""
    places = _places(schema)
    titles = {section: _title(section, found) for section, found in places.items()}
    parts = [HEAD, *_section(schema, "Top level", (), titles)]
    for section, found in places.items():
        parts += _section(section, titles[section], found, titles)
    return "\n".join(parts)


def _places(schema: type) -> dict[type, list[str]]:
    """Where each section stands, by dotted name; sections of the schema itself come first."""
    found: dict[type, list[str]] = {}
    waiting = [(schema, "")]
    while waiting:
        owner, above = waiting.pop(0)
        for name, annotation in get_type_hints(owner, include_extras=True).items():
            for section in _sections(annotation):
                found.setdefault(section, []).append(f"{above}{name}")
                waiting.append((section, f"{above}{name}."))
    return found


def _sections(annotation: Any) -> Iterator[type]:
    """The dataclasses that an annotation is made of."""
    if isinstance(annotation, type) and is_dataclass(annotation):
        yield annotation
    elif get_origin(annotation) is not Literal:
        for part in get_args(annotation):
            yield from _sections(part)


def _title(section: type, places: list[str]) -> str:
    """The field's name for a section of the top level, else the class's."""
    return places[0] if len(places) == 1 and "." not in places[0] else section.__name__


def _section(section: type, title: str, places: list[str] | tuple[()], titles: dict[type, str]) -> list[str]:
    """Heading, what it is, where it stands and the table of its fields."""
    lines = [f"## {title}", "", inspect.getdoc(section) or "", ""]
    if places and list(places) != [title]:
        lines += [f"It stands at {', '.join(f'`{place}`' for place in places)}.", ""]
    lines += ["| field | may be | default | what it means |", "| --- | --- | --- | --- |"]
    types, told = get_type_hints(section, include_extras=True), meanings(section)
    for field in fields(section):
        cells = (f"`{field.name}`", _kind(types[field.name], titles), _default(field), told[field.name])
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return [*lines, ""]


def meanings(section: type) -> dict[str, str]:
    """What the comment at the end of each field's line says; empty where there is none."""
    source = textwrap.dedent(inspect.getsource(section))
    comments = {
        token.start[0]: token.string.removeprefix("# ")
        for token in tokenize.generate_tokens(StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    body = ast.parse(source).body[0]
    assert isinstance(body, ast.ClassDef)
    return {
        node.target.id: comments.get(node.end_lineno or 0, "")
        for node in body.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }


def _kind(annotation: Any, titles: dict[type, str]) -> str:
    """An annotation in words: 'whole number >= 1 or `auto`'."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _bounded(_kind(parts[0], titles), [part for part in parts[1:] if isinstance(part, FieldInfo)])
    if origin is Literal:
        return _either([f"`{value}`" for value in parts])
    if origin in (Union, UnionType):
        kinds = [_kind(part, titles) for part in sorted(parts, key=lambda part: part is NoneType)]
        return _either(", ".join(kinds).replace(" or ", ", ").split(", "))
    if origin is tuple and parts[-1] is Ellipsis:
        return f"list of: {_kind(parts[0], titles)}"
    if origin is tuple:
        return f"[low, high], each {_kind(parts[0], titles)}"
    if annotation in titles:
        return f"section [{titles[annotation]}](#{titles[annotation].lower()})"
    plain = {bool: "`true` or `false`", int: "whole number", float: "number", str: "text", NoneType: "`null`"}
    return plain[annotation]


def _either(kinds: list[str]) -> str:
    return " or ".join([", ".join(kinds[:-1]), kinds[-1]] if len(kinds) > 1 else kinds)


def _bounded(kind: str, infos: list[FieldInfo]) -> str:
    """A kind with what its field asks for: a title of its own, bounds, or how many at least."""
    bounds = []
    for info in infos:
        kind = info.title or kind
        for constraint in info.metadata:
            given = ((text, getattr(constraint, name, None)) for name, text in BOUNDS.items())
            bounds += [text.format(bound) for text, bound in given if bound is not None]
            if hasattr(constraint, "min_length"):
                kind = kind.replace("list of", f"list of {constraint.min_length} or more", 1)
    return " ".join([kind, " and ".join(bounds)]).strip()


def _default(field: "Field[Any]") -> str:
    if field.default_factory is not MISSING:
        return f"`{_flow(field.default_factory())}`"
    return "must be set" if field.default is MISSING else f"`{_flow(field.default)}`"


def _flow(value: Any) -> str:
    """A value in one line of YAML; of a section only what is not its class's default."""
    if is_dataclass(value):
        changed = [each for each in fields(value) if getattr(value, each.name) != each.default]
        kept = [each for each in changed if each.default_factory is MISSING]
        return "{" + ", ".join(f"{each.name}: {_flow(getattr(value, each.name))}" for each in kept) + "}"
    if isinstance(value, tuple):
        return "[" + ", ".join(_flow(each) for each in value) + "]"
    if isinstance(value, str):
        return value
    return f"{value:g}" if isinstance(value, float) else json.dumps(value)
