"""Recipes from YAML files and command lines.

A recipe may extend another (`extends: base.yaml`, relative to the file or the name of a shipped one), name an
evaluation protocol, and be changed by overrides (`recover.iterations=100`). They apply in this order: defaults, the
extended recipe, the protocol, the file, the overrides.
"""

import copy
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from srel_hub.config.fields import public_name
from srel_hub.config.recipe import Recipe, recipe_adapter
from srel_hub.config.recipe_files import find_recipe, read_merged, with_protocol
from srel_hub.config.serialize import as_dict
from srel_hub.config.validation import describe_errors, is_text
from srel_hub.config.yaml_io import Loader
from srel_hub.errors import UserError


class RecipeError(UserError):
    """All validation errors of one recipe.

    Attributes:
        messages: One line per error, with the field, its value, what is allowed and the nearest name.
    """

    def __init__(self, name: str, messages: Sequence[str]) -> None:
        self.messages = list(messages)
        count = "1 error" if len(messages) == 1 else f"{len(messages)} errors"
        super().__init__("\n".join([f"{name}: the recipe has {count}", *(f"  {line}" for line in messages)]))


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read, merge and validate a recipe.

    Args:
        path: A YAML file, the name of a shipped recipe, or a run directory (its `recipe.yaml` is read).
        overrides: `dotted.key=value` pairs. The value is taken literally if the field is text, otherwise it is read as
            YAML; `null` is always null.

    Raises:
        UserError: If the file does not exist or is not a YAML mapping.
        RecipeError: If values are not valid. It reports all errors together.

    Examples:
        >>> from srel_hub import load_recipe
        >>> recipe = load_recipe("quickstart", ["recover.ipc=5"])
        >>> recipe.name, recipe.recover.ipc
        ('quickstart', 5)
    """
    return validated(read_recipe(path), overrides, str(path))


def read_recipe(path: str | Path) -> dict[str, Any]:
    """Return a recipe's mapping, merged with what it extends and with a name, but not validated.

    Raises:
        UserError: If the file does not exist or is not a YAML mapping.
    """
    file = find_recipe(path)
    # The file's name may contain characters that `name` does not allow, such as spaces.
    name = re.sub(r"^[^A-Za-z0-9]+|[^A-Za-z0-9._-]+", "-", file.stem).strip("-") or "run"
    return {"name": name, **read_merged(file)}


def validated(mapping: dict[str, Any], overrides: Sequence[str], name: str) -> Recipe:
    """Return the recipe of a mapping, changed by overrides.

    Args:
        mapping: The result of `read_recipe`. It is not modified.
        overrides: `dotted.key=value` pairs. A `protocol` is applied first, so that the other overrides win.
        name: Path or name of the recipe, for messages.

    Raises:
        RecipeError: If values are not valid. It reports all errors of the mapping and the overrides.
    """
    mapping = copy.deepcopy(mapping)
    protocol = [override for override in overrides if override.startswith("protocol=")]
    messages = [message for override in protocol if (message := _apply(mapping, override))]
    if protocol and not messages:
        mapping = dict(with_protocol(mapping, mapping))
    others = [override for override in overrides if override not in protocol]
    messages += [message for override in others if (message := _apply(mapping, override))]
    if mapping.pop("sweep", None) is not None:
        messages.append(f"sweep: this recipe describes several runs; start them with: srel-hub sweep {name}")
    try:
        recipe = recipe_adapter().validate_python(mapping)
    except ValidationError as error:
        raise RecipeError(name, messages + describe_errors(error, Recipe)) from None
    if messages:
        raise RecipeError(name, messages)
    return recipe


def _apply(mapping: dict[str, Any], override: str) -> str | None:
    """Set one value in the mapping, or return what is wrong with the override."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        return f"{override!r}: an override is key=value, for example recover.iterations=500"
    if not text.strip():
        return f"{key}: the value is missing; use {key}=null to clear the field"
    *sections, leaf = key.split(".")
    # Titles and names may look like YAML ("1.10", "a # b"). A quoted value is YAML, so that 'null' can be a text.
    is_literal = is_text(Recipe, key.split(".")) and text != "null" and text[0] not in "'\""
    for section in sections:
        if not isinstance(mapping.setdefault(section, {}), dict):
            return f"{key}: {section!r} is not a section"
        mapping = mapping[section]
    try:
        mapping[leaf] = text if is_literal else yaml.load(text, Loader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError:
        return f"{key}={text}: the value is not valid YAML; quote it"
    return None


def published(recipe: Recipe) -> dict[str, Any]:
    """Return the recipe as it is published: how the dataset was made, but not where.

    Returns:
        Plain values without the sections `run` and `publish`. Local paths are reduced to their last part.
    """
    plain = as_dict(recipe)
    del plain["run"], plain["publish"]
    teachers = (plain["relabel"]["teacher"], *plain["relabel"]["committee"], *plain["recover"]["teachers"])
    for section in (plain["source"], plain["squeeze"]["pretrained"], plain["recover"]["images"], *teachers):
        if section is not None and section["path"] is not None:
            section["path"] = public_name(section["path"])
    plain["squeeze"]["network"]["model"] = recipe.squeeze.network.shown
    for network, student in zip(recipe.evaluate.students, plain["evaluate"]["students"], strict=True):
        student["model"] = network.shown
    return plain
