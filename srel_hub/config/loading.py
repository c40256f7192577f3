"""Recipes from YAML files and command lines.

A recipe may extend another (`extends: base.yaml`, relative to the file or the name of a shipped one), name an
evaluation protocol, and be changed by overrides (`recover.iterations=100`). They apply in this order: defaults, the
extended recipe, the protocol, the file, the overrides.
"""

import copy
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from srel_hub.config.arguments import Overrides, override_texts, require_path
from srel_hub.config.fields import LONGEST_NAME, public_name
from srel_hub.config.recipe import Recipe, recipe_adapter
from srel_hub.config.recipe_files import find_recipe, is_run_directory, read_merged, with_protocol
from srel_hub.config.serialize import as_dict
from srel_hub.config.validation import describe_errors, is_text, shown
from srel_hub.config.yaml_io import parse_yaml
from srel_hub.errors import UserError


class RecipeError(UserError):
    """All validation errors of one recipe.

    Attributes:
        messages: One line per error, with the field, its value, what is allowed and the nearest name.

    Examples:
        >>> from srel_hub import RecipeError, load_recipe
        >>> try:
        ...     load_recipe("quickstart", {"recover.iterations": 0, "recover.lr": "fast"})
        ... except RecipeError as error:
        ...     print(len(error.messages), error.messages[0])
        2 recover.iterations: must be a whole number of at least 1, got 0
    """

    def __init__(self, name: str, messages: Sequence[str]) -> None:
        self.messages = list(messages)
        count = "1 error" if len(messages) == 1 else f"{len(messages)} errors"
        super().__init__("\n".join([f"{name}: the recipe has {count}", *(f"  {line}" for line in messages)]))


def load_recipe(path: str | Path, overrides: Overrides = ()) -> Recipe:
    """Read, merge and validate a recipe.

    Args:
        path: A YAML file, the name of a shipped recipe, or a run directory. Its `recipe.yaml` is read, but `run.root`
            and `name` are those of the directory, so that a renamed, moved or copied run is used where it is.
        overrides: Values that replace those of the recipe: a mapping from dotted names to values, or strings
            `name=value` as on the command line. The value of a string is taken literally if the field is text,
            otherwise it is read as YAML; `null` is always null.

    Raises:
        UserError: If an argument has the wrong type, or the file does not exist or is not a YAML mapping.
        RecipeError: If values are not valid. It reports all errors together.

    Examples:
        >>> from srel_hub import load_recipe
        >>> recipe = load_recipe("quickstart", {"recover.ipc": 5})
        >>> recipe.name, recipe.recover.ipc
        ('quickstart', 5)
    """
    require_path("path", path, "a YAML file, the name of a shipped recipe, or a run directory")
    texts = override_texts(overrides)
    if is_run_directory(path):
        return _load_in_place(Path(path), texts)
    return validated(read_recipe(path), texts, str(path))


def _load_in_place(folder: Path, overrides: Sequence[str]) -> Recipe:
    """Load the recipe of a run directory, with the place of the directory unless overrides name another place."""
    place = folder.resolve()
    fields = {override.partition("=")[0] for override in overrides}
    mapping, overrides = read_recipe(folder), [f"run.root={os.path.relpath(place.parent)}", *overrides]
    if "name" in fields:
        return validated(mapping, overrides, str(folder))
    if "run.root" in fields:  # a new run at another place, whose name must be valid
        return validated(mapping, [*overrides, f"name={place.name}"], str(folder))
    # The name of a folder, such as "run (copy)", need not be a valid name of a recipe.
    return replace(validated(mapping, overrides, str(folder)), name=place.name)


def read_recipe(path: str | Path) -> dict[str, Any]:
    """Return a recipe's mapping, merged with what it extends and with a name, but not validated.

    Raises:
        UserError: If the file does not exist or is not a YAML mapping.
    """
    file = find_recipe(path)
    return {"name": name_of_file(file), **read_merged(file)}


def name_of_file(file: Path) -> str:
    """Return the name of a recipe that sets none: its file's name without characters that `name` does not allow."""
    name = re.sub(r"^[^A-Za-z0-9]+|[^A-Za-z0-9._-]+", "-", file.stem).strip("-")
    return name[:LONGEST_NAME] or "run"


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
        try:
            mapping = dict(with_protocol(mapping, mapping))
        except UserError as error:
            messages.append(str(error))
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
    if not equals or not all(key.split(".")):
        return f"{override!r}: an override is key=value, for example recover.iterations=500"
    if not text.strip():
        return f"{key}: the value is missing; use {key}=null to clear the field"
    *sections, leaf = key.split(".")
    # Titles and names may look like YAML ("1.10", "a # b"). A quoted value is YAML, so that 'null' can be a text.
    is_literal = is_text(Recipe, key.split(".")) and text != "null" and text[0] not in "'\""
    try:
        value = text if is_literal else parse_yaml(text)
    except yaml.YAMLError as error:
        return f"{key}={text}: the value is not valid YAML ({error}); correct it, or put it in quotes"
    for depth, section in enumerate(sections):
        if mapping.get(section) is None:  # a section that is null begins with its defaults
            mapping[section] = {}
        if not isinstance(mapping[section], dict):
            return _not_a_section(key, ".".join(sections[: depth + 1]), mapping[section])
        mapping = mapping[section]
    mapping[leaf] = value
    return None


def _not_a_section(key: str, name: str, value: Any) -> str:
    if isinstance(value, list):
        return f"{key}: {name} is a list, whose items cannot be set one by one; set {name}=[...] as a whole"
    if is_text(Recipe, [*name.split("."), "path"]):  # a teacher, whose path may replace its section
        return f"{key}: {name} is set to {value!r}; to set {key} too, write the former as {name}.path={value}"
    return f"{key}: {name} is not a section, but {shown(value)}; set {name} itself"


def published(recipe: Recipe) -> dict[str, Any]:
    """Return the recipe as it is published: how the dataset was made, but not where.

    Returns:
        Plain values without the sections `run` and `publish`. Local paths are reduced to their last part.
    """
    plain = as_dict(recipe)
    del plain["run"], plain["publish"]
    teachers = (plain["relabel"]["teacher"], *plain["relabel"]["committee"], *plain["recover"]["teachers"])
    for section in (plain["source"], plain["squeeze"]["pretrained"], plain["recover"].get("images"), *teachers):
        if section is not None and section["path"] is not None:
            section["path"] = public_name(section["path"])
    plain["squeeze"]["network"]["model"] = recipe.squeeze.network.shown
    for network, student in zip(recipe.evaluate.students, plain["evaluate"]["students"], strict=True):
        student["model"] = network.shown
    return plain
