"""Protocols: the settings that decide how students are trained and scored.

Accuracies are comparable only between runs with equal protocols.
"""

from collections.abc import Iterator
from typing import Any

from srel_hub.config.recipe import Recipe, recipe_adapter
from srel_hub.config.recipe_files import read_protocol
from srel_hub.config.serialize import as_dict
from srel_hub.config.yaml_io import merge


TRAININGS = ("seeds", "students", "baselines", "scores")  # of `evaluate`: which trainings to run, not how


def protocol_of(recipe: Recipe) -> dict[str, Any]:
    """Return all settings that decide how students are trained and scored, as plain values by section and name."""
    plain = as_dict(recipe)
    evaluate = {name: value for name, value in plain["evaluate"].items() if name not in TRAININGS}
    return {"relabel": {name: plain["relabel"][name] for name in ("group_size", "augment")}, "evaluate": evaluate}


def deviations(recipe: Recipe) -> dict[str, tuple[Any, Any]]:
    """Return where a recipe differs from the protocol that it names.

    Returns:
        For each dotted name, the protocol's value and the recipe's. Empty if the recipe names no protocol.

    Raises:
        UserError: If there is no protocol of that name.
    """
    if recipe.protocol is None:
        return {}
    exact = recipe_adapter().validate_python(merge(as_dict(recipe), read_protocol(recipe.protocol)))
    return {name: (old, new) for name, old, new in differences(protocol_of(exact), protocol_of(recipe))}


def protocol_title(recipe: Recipe) -> str:
    """Return the text for cards: 'sre2l-300, but evaluate.epochs 30 instead of 300', or 'its own'."""
    if recipe.protocol is None:
        return "its own"
    changes = [f"{name} {new} instead of {old}" for name, (old, new) in sorted(deviations(recipe).items())]
    return ", but ".join([recipe.protocol, *([", ".join(changes)] if changes else [])])


def differences(old: Any, new: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Compare two plain values.

    Args:
        old: A mapping, list or scalar.
        new: The value to compare with `old`.
        name: Dotted name of both, to which the names of their keys are appended.

    Yields:
        Dotted name, old value and new value of each difference. Two lists that differ are one difference.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        for key in old.keys() | new.keys():
            yield from differences(old.get(key), new.get(key), f"{name}.{key}".lstrip("."))
    elif old != new:
        yield name, old, new
