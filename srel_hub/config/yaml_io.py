"""YAML as recipes use it: numbers of YAML 1.2, no duplicate keys, and mappings that are merged."""

import re
from collections.abc import Mapping
from typing import Any

import yaml


WHOLE_NUMBER = re.compile(r"^[-+]?[0-9]+$")
DECIMAL = re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$")
NUMBER_TAGS = {"tag:yaml.org,2002:int": WHOLE_NUMBER, "tag:yaml.org,2002:float": DECIMAL}


class Loader(yaml.SafeLoader):
    """A safe YAML loader with the numbers of version 1.2.

    PyYAML implements version 1.1, where 1e-3 is text, 010 is eight, 1:30 is ninety and 1_0 is ten. Here 1e-3 is a
    number, 010 is ten, and the other two are text. PyYAML also keeps the last of two equal keys silently; here that is
    an error.
    """

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in NUMBER_TAGS]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Construct a mapping, and refuse duplicate keys.

        Raises:
            yaml.constructor.ConstructorError: If a key occurs twice.
        """
        lines: dict[str, int] = {}
        for key, _ in node.value:
            text, line = repr(self.construct_object(key, deep=True)), key.start_mark.line + 1
            if text in lines:
                where = f"in line {line}" if lines[text] == line else f"in lines {lines[text]} and {line}"
                raise yaml.constructor.ConstructorError(None, None, f"duplicate key {text} {where}; remove one of them")
            lines[text] = line
        return super().construct_mapping(node, deep)


# SafeLoader's own constructor reads a leading zero as octal.
Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(node.value))


def parse_yaml(text: str) -> Any:
    """Return the value of a YAML text.

    Raises:
        yaml.YAMLError: If the text is not valid YAML, or a value in it is impossible, such as the date 2024-13-01. The
            message is one line.
    """
    try:
        return yaml.load(text, Loader)  # noqa: S506 (a SafeLoader)
    except RecursionError:
        raise yaml.YAMLError("brackets are nested too deeply") from None
    except Exception as error:  # a tag such as !!int makes its parser raise ValueError, TypeError, and others
        reason = str(error).replace('in "<unicode string>", ', "in ")
        raise yaml.YAMLError(" ".join(reason.split())) from None


class Dumper(yaml.SafeDumper):
    """Writes each list on one line, as in the shipped recipes; 1,000 class names would otherwise be 1,000 lines."""


for _tag, _pattern in NUMBER_TAGS.items():
    Loader.add_implicit_resolver(_tag, _pattern, list("-+.0123456789"))
    Dumper.add_implicit_resolver(_tag, _pattern, list("-+.0123456789"))  # so that text such as "1e3" is quoted
Dumper.add_representer(list, lambda dumper, items: dumper.represent_sequence("tag:yaml.org,2002:seq", items, True))


def merge(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with the values of `top`; mappings are merged key by key, all other values replaced."""
    merged = dict(base)
    for key, value in top.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def to_yaml(plain: Mapping[str, Any]) -> str:
    """Return plain values as YAML text, with keys in their order, which `Loader` and YAML 1.1 read alike."""
    return yaml.dump(plain, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=110)
