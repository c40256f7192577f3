"""What decides how students are trained and scored, named and compared: runs of equal protocols compare."""

from collections.abc import Iterator
from typing import Any

from pydantic import TypeAdapter

from srel_hub.config.plain import as_dict
from srel_hub.config.schema import Recipe
from srel_hub.config.yaml_io import merge, read_protocol


TRAININGS = ("seeds", "students", "baselines", "scores")  # of evaluate: which there are, not how they go


def protocol_of(recipe: Recipe) -> dict[str, Any]:
    """What decides how a student is trained and scored, whatever it is trained on: recipes of equal ones compare."""
    plain = as_dict(recipe)
    evaluate = {name: value for name, value in plain["evaluate"].items() if name not in TRAININGS}
    return {"relabel": {name: plain["relabel"][name] for name in ("group_size", "augment")}, "evaluate": evaluate}


def deviations(recipe: Recipe) -> dict[str, tuple[Any, Any]]:
    """Where a recipe is not the protocol that it names: the protocol's value and its own, by dotted name."""
    if recipe.protocol is None:
        return {}
    named = TypeAdapter(Recipe).validate_python(merge(as_dict(recipe), read_protocol(recipe.protocol)))
    return {name: (old, new) for name, old, new in differences(protocol_of(named), protocol_of(recipe))}


def protocol_title(recipe: Recipe) -> str:
    """'sre2l-300, but evaluate.epochs 30 instead of 300', or 'its own'."""
    if recipe.protocol is None:
        return "its own"
    changed = [f"{name} {new} instead of {old}" for name, (old, new) in sorted(deviations(recipe).items())]
    return ", but ".join([recipe.protocol, *([", ".join(changed)] if changed else [])])


def differences(old: Any, new: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where two plain values differ: dotted name, old value, new value."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in old.keys() | new.keys():
            yield from differences(old.get(key), new.get(key), f"{name}.{key}".lstrip("."))
    elif old != new:
        yield name, old, new
