"""YAML files that build on each other, and the shipped ones among them."""

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from srel_hub.config.resources import RECIPES
from srel_hub.errors import UserError


PROTOCOLS, SWEEPS = RECIPES / "protocols", RECIPES / "sweeps"

WHOLE_NUMBER = re.compile(r"^[-+]?[0-9]+$")
DECIMAL = re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$")
NUMBER_TAGS = {"tag:yaml.org,2002:int": WHOLE_NUMBER, "tag:yaml.org,2002:float": DECIMAL}


def find(path: str | Path) -> Path:
    """The file behind a path, a run directory or a shipped recipe's name (`quickstart`, `cda/in1k_ipc50`)."""
    candidates = [Path(path), Path(path) / "recipe.yaml", RECIPES / f"{path}.yaml", SWEEPS / f"{path}.yaml"]
    if Path(path).parts[:1] == ("recipes",):
        candidates.append(RECIPES.joinpath(*Path(path).parts[1:]))
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    there = shipped()
    asked = str(path).removeprefix("recipes/").removesuffix(".yaml")
    hint = difflib.get_close_matches(asked, there, n=1)
    nearest = f"; nearest: {hint[0]}" if hint else ""
    plain = [name for name in there if "/" not in name]
    methods = sorted({name.split("/")[0] for name in there if "/" in name})
    raise UserError(
        f"no recipe {str(path)!r}: give a YAML file, a run directory or one of {', '.join(plain)}; other methods are "
        f"in {', '.join(methods)}, as {methods[0]}/{plain[0]}{nearest}"
    )


def shipped() -> list[str]:
    """The names of the shipped recipes: those of SRe2L, and each other method's in its folder."""
    files = [file.relative_to(RECIPES).with_suffix("") for file in RECIPES.rglob("*.yaml")]
    return sorted(file.as_posix() for file in files if not {"base", "protocols", "sweeps"} & set(file.parts))


class Loader(yaml.SafeLoader):
    """YAML with the numbers of version 1.2: 1e-3 is one, 010 is ten, 1:30 and 1_0 are text.

    PyYAML keeps the last of two equal keys in silence; here that is an error.
    """

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in NUMBER_TAGS]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(node.value))


class Dumper(yaml.SafeDumper):
    """Lists on one line, as the shipped recipes have them; a thousand class names would be a thousand lines."""


for _tag, _pattern in NUMBER_TAGS.items():
    Loader.add_implicit_resolver(_tag, _pattern, list("-+.0123456789"))
    Dumper.add_implicit_resolver(_tag, _pattern, list("-+.0123456789"))  # text that looks like one is quoted
Dumper.add_representer(list, lambda dumper, items: dumper.represent_sequence("tag:yaml.org,2002:seq", items, True))


def read(file: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The file merged over what it extends.

    Raises:
        UserError: where it is no YAML mapping, or extends itself or what is not there.
    """
    if file.resolve() in above:
        raise UserError(f"{file}: extends itself, by way of {' -> '.join(p.name for p in above)}")
    try:
        mapping = yaml.load(file.read_text(encoding="utf-8"), Loader)  # noqa: S506 (a SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{file}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(mapping, dict):
        raise UserError(f"{file}: a recipe is a mapping of sections, got {_kind(mapping)}")
    base = mapping.pop("extends", None)
    return merge(with_protocol({} if base is None else _read_parent(file, str(base), above), mapping), mapping)


def with_protocol(base: Mapping[str, Any], top: Mapping[str, Any]) -> Mapping[str, Any]:
    """The base, with the sections of the protocol that `top` names."""
    return base if top.get("protocol") is None else merge(base, read_protocol(str(top["protocol"])))


def read_protocol(name: str) -> dict[str, Any]:
    """A shipped protocol: what `relabel` and `evaluate` begin with.

    Raises:
        UserError: where there is none of that name.
    """
    if name not in protocols():
        hint = difflib.get_close_matches(name, protocols(), n=1)
        nearest = f"; nearest: {hint[0]}" if hint else ""
        raise UserError(f"protocol={name}: must be one of {', '.join(protocols())}{nearest}")
    found: dict[str, Any] = yaml.load((PROTOCOLS / f"{name}.yaml").read_text(encoding="utf-8"), Loader)  # noqa: S506
    return found


def protocols() -> list[str]:
    """The names of the shipped protocols."""
    return sorted(file.stem for file in PROTOCOLS.glob("*.yaml"))


def first_comment(protocol: str) -> str:
    """The first line of a protocol's file: what it is, and whose."""
    return (PROTOCOLS / f"{protocol}.yaml").read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")


def _read_parent(file: Path, base: str, above: tuple[Path, ...]) -> dict[str, Any]:
    parents = (file.parent / base, RECIPES / base, RECIPES / f"{base}.yaml")
    parent = next((candidate for candidate in parents if candidate.is_file()), None)
    if parent is None:
        raise UserError(f"{file}: extends: {base!r}: there is no file {parents[0]}, and no shipped recipe of that name")
    return read(parent, (*above, file.resolve()))


def _kind(value: Any) -> str:
    return "an empty file" if value is None else type(value).__name__


def merge(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in top.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def to_yaml(plain: Mapping[str, Any]) -> str:
    return yaml.dump(plain, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=110)
