"""Recipe files: where they are found, the shipped ones, and how they extend each other."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from srel_hub.config.resources import RECIPES
from srel_hub.config.yaml_io import Loader, merge
from srel_hub.errors import UserError, reading


PROTOCOLS, SWEEPS = RECIPES / "protocols", RECIPES / "sweeps"
MODELINE = "# yaml-language-server: "  # first line of the shipped files; see json_schema.py


def find_recipe(path: str | Path) -> Path:
    """Return the file of a recipe.

    Args:
        path: A YAML file, a run directory, or the name of a shipped recipe (`quickstart`, `cda/in1k_ipc50`) or sweep.

    Raises:
        UserError: If there is no such recipe. The message lists the shipped recipes.
    """
    candidates = [Path(path), Path(path) / "recipe.yaml", RECIPES / f"{path}.yaml", SWEEPS / f"{path}.yaml"]
    # `recipes/quickstart.yaml` also works without a checkout.
    if Path(path).parts[:1] == ("recipes",):
        candidates.append(RECIPES.joinpath(*Path(path).parts[1:]))
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    names = recipe_names()
    nearest = _nearest(str(path).removeprefix("recipes/").removesuffix(".yaml"), names)
    plain = [name for name in names if "/" not in name]
    methods = sorted({name.split("/")[0] for name in names if "/" in name})
    raise UserError(
        f"there is no recipe {str(path)!r}{nearest}\n"
        f"Pass a YAML file, a run directory or a shipped recipe: {', '.join(plain)}.\n"
        f"Recipes of other methods are in {', '.join(methods)}; for example {methods[0]}/{plain[0]}."
    )


def recipe_names() -> list[str]:
    """Return the sorted names of the shipped recipes.

    Recipes of methods other than SRe2L have their folder as a prefix, such as cda/cifar10_ipc10.
    """
    files = [file.relative_to(RECIPES).with_suffix("") for file in RECIPES.rglob("*.yaml")]
    return sorted(file.as_posix() for file in files if not {"base", "protocols", "sweeps"} & set(file.parts))


def protocol_names() -> list[str]:
    """Return the sorted names of the shipped protocols."""
    return sorted(file.stem for file in PROTOCOLS.glob("*.yaml"))


def read_merged(file: Path, children: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Return a file's mapping, merged over the recipe that it extends and the protocol that it names.

    Args:
        file: The YAML file.
        children: The files through which this one was reached, to detect cycles.

    Raises:
        UserError: If the file is not a YAML mapping, extends itself, or extends a file that does not exist.
    """
    if file.resolve() in children:
        raise UserError(
            f"{file}: extends itself through {' -> '.join(child.name for child in children)}; remove one `extends`"
        )
    with reading(f"{file}: not valid YAML"):  # a date such as 2024-13-45 is a ValueError, `!!int x` too
        mapping = yaml.load(file.read_text(encoding="utf-8"), Loader)  # noqa: S506 (a SafeLoader)
    if not isinstance(mapping, dict):
        kind = "an empty file" if mapping is None else type(mapping).__name__
        raise UserError(f"{file}: a recipe must be a mapping of sections, got {kind}")
    parent = mapping.pop("extends", None)
    base = {} if parent is None else _read_parent(file, str(parent), children)
    return merge(with_protocol(base, mapping), mapping)


def with_protocol(base: Mapping[str, Any], top: Mapping[str, Any]) -> Mapping[str, Any]:
    """Merge the protocol named in `top` into `base`; the protocol's values win."""
    return base if top.get("protocol") is None else merge(base, read_protocol(str(top["protocol"])))


def read_protocol(name: str) -> dict[str, Any]:
    """Return a shipped protocol: values of `relabel` and `evaluate`.

    Raises:
        UserError: If there is no protocol of that name.
    """
    if name not in protocol_names():
        allowed = ", ".join(protocol_names())
        raise UserError(f"protocol={name}: must be one of {allowed}{_nearest(name, protocol_names())}")
    text = (PROTOCOLS / f"{name}.yaml").read_text(encoding="utf-8")
    protocol: dict[str, Any] = yaml.load(text, Loader)  # noqa: S506 (a SafeLoader)
    return protocol


def first_comment(protocol: str) -> str:
    """Return the first line of a protocol's comment, which names its paper and code."""
    lines = (PROTOCOLS / f"{protocol}.yaml").read_text(encoding="utf-8").splitlines()
    return next(line for line in lines if not line.startswith(MODELINE)).removeprefix("# ")


def _read_parent(file: Path, name: str, children: tuple[Path, ...]) -> dict[str, Any]:
    # A path relative to the file comes first, so that a user's `base.yaml` is not taken for a shipped one.
    candidates = (file.parent / name, RECIPES / name, RECIPES / f"{name}.yaml")
    parent = next((candidate for candidate in candidates if candidate.is_file()), None)
    if parent is None:
        raise UserError(
            f"{file}: extends: {name!r}: there is no file {candidates[0]}, and no shipped recipe of that name"
        )
    return read_merged(parent, (*children, file.resolve()))


def _nearest(name: str, names: Sequence[str]) -> str:
    matches = difflib.get_close_matches(name, names, n=1)
    return f"; nearest: {matches[0]}" if matches else ""
