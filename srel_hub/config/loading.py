"""The recipe: one frozen, typed description of a run, read from YAML.

    srel-hub recipe show recipes/quickstart.yaml recover.iterations=100
    srel-hub recipe schema
    srel-hub recipe protocols
    srel-hub recipe reference

A recipe may name another to build on (`extends: base.yaml`, relative to itself or shipped), and the command line may
change single values (`key=value`; the value is text where the field is, else YAML). A leaf of the program receives
only its own section.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from srel_hub.config.fields import public_name
from srel_hub.config.plain import as_dict
from srel_hub.config.schema import Recipe
from srel_hub.config.validation import describe_errors, is_text
from srel_hub.config.yaml_io import Loader, find, read, with_protocol
from srel_hub.errors import UserError


class RecipeError(UserError):
    """All the faults of one recipe, a line each."""

    def __init__(self, name: str, faults: Sequence[str]) -> None:
        self.faults = list(faults)
        head = f"{name}: {len(faults)} fault{'s' if len(faults) > 1 else ''}"
        super().__init__("\n".join([head, *(f"  {fault}" for fault in faults)]))


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read, merge and validate a recipe.

    Args:
        path: a YAML file, the name of a shipped recipe, or a run directory (its `recipe.yaml` is read).
        overrides: `dotted.key=value` pairs; the value is text where the field is, else YAML.

    Raises:
        RecipeError: with every fault at once, each by dotted name, value, what is allowed and the nearest name.
    """
    return validated(read_recipe(path), overrides, str(path))


def read_recipe(path: str | Path) -> dict[str, Any]:
    """A recipe's mapping, named and merged over what it extends, not validated yet."""
    file = find(path)
    return {
        "name": re.sub(r"^[^A-Za-z0-9]+|[^A-Za-z0-9._-]+", "-", file.stem).strip("-") or "run",
        **read(file),
    }


def validated(mapping: dict[str, Any], overrides: Sequence[str], name: str) -> Recipe:
    """The recipe of a mapping, which is changed. `name` is what a mistake is told of."""
    asked = [override for override in overrides if override.startswith("protocol=")]
    faults = [fault for override in asked if (fault := _apply(mapping, override))]
    if asked and not faults:
        mapping = dict(with_protocol(mapping, mapping))
    rest = [override for override in overrides if override not in asked]
    faults += [fault for override in rest if (fault := _apply(mapping, override))]
    if mapping.pop("sweep", None) is not None:
        faults.append(f"sweep: is for a table of runs: srel-hub sweep {name}")
    try:
        recipe = TypeAdapter(Recipe).validate_python(mapping)
    except ValidationError as error:
        raise RecipeError(name, faults + describe_errors(error, Recipe)) from None
    if faults:
        raise RecipeError(name, faults)
    return recipe


def _apply(mapping: dict[str, Any], override: str) -> str | None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        return f"{override!r}: an override is key=value, for example recover.iterations=500"
    if not text.strip():
        return f"{key}: no value is given; null empties a field"
    *sections, leaf = key.split(".")
    as_text = is_text(Recipe, key.split(".")) and text != "null" and text[0] not in "'\""
    for section in sections:
        if not isinstance(mapping.setdefault(section, {}), dict):
            return f"{key}: {section!r} is no section"
        mapping = mapping[section]
    try:
        mapping[leaf] = text if as_text else yaml.load(text, Loader)  # noqa: S506
    except yaml.YAMLError:
        return f"{key}={text}: the value is not valid YAML; quote it"
    return None


def published(recipe: Recipe) -> dict[str, Any]:
    """The recipe as others may see it: how it was made, not where; local paths are named by their last part only."""
    plain = as_dict(recipe)
    del plain["run"], plain["publish"]
    further = (plain["relabel"]["teacher"], *plain["relabel"]["committee"], *plain["recover"]["teachers"])
    for section in (plain["source"], plain["squeeze"]["pretrained"], *further):
        if section is not None and section["path"] is not None:
            section["path"] = public_name(section["path"])
    for network, shown in (
        (recipe.squeeze.network, plain["squeeze"]["network"]),
        *zip(recipe.evaluate.students, plain["evaluate"]["students"], strict=True),
    ):
        shown["model"] = network.shown
    return plain
