"""Modules with the user's own networks: import them with consent, and check that a repository can carry them.

Consent is `run.imports` in a recipe or `--import` on the command line. A name in a file from elsewhere, such as the
config.json of a teacher, never leads to an import.
"""

import ast
import importlib
import importlib.util
import os
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from srel_hub.config import Network, Recipe
from srel_hub.errors import UserError, first_few
from srel_hub.models import own


def import_modules(names: Sequence[str], field: str) -> None:
    """Import modules and allow their functions to build networks. All problems are reported together.

    Args:
        names: Modules in the current folder or on Python's path.
        field: The recipe's field or the option that names them, for messages.

    Raises:
        UserError: If a module does not exist, fails, or is not one self-contained file.
    """
    problems = []
    for name in dict.fromkeys(names):
        try:
            own.allow(_checked(_import(name)))
        except own.OwnNetworkError as error:
            problems.append(f"{field}={name}: {error}")
    if problems:
        raise UserError("\n".join(problems))


def import_file(file: Path) -> ModuleType:
    """Import a file as the module of its name and allow its functions to build networks, unless that was done before.

    Raises:
        UserError: See `import_modules`.
    """
    loaded = [module for module in list(sys.modules.values()) if _is_module_of(module, file)]
    try:
        module = _checked(loaded[0] if loaded else _load(file))
        own.allow(module)
    except own.OwnNetworkError as error:
        raise UserError(f"source={file}: {error}") from None
    return module


def with_source_digests(recipe: Recipe, pinned: bool) -> Recipe:
    """Return the recipe with the sha256 of the file of each factory.

    Args:
        recipe: The requested recipe, whose modules are imported.
        pinned: Whether a sha256 in the recipe must be that of the file. A run directory compares them itself.

    Raises:
        UserError: If a factory's module is not imported, or its file is not the one that the recipe pins.
    """
    squeeze, evaluate = recipe.squeeze, recipe.evaluate
    students = tuple(
        _with_digest(student, f"evaluate.students.{index}", pinned) for index, student in enumerate(evaluate.students)
    )
    network = _with_digest(squeeze.network, "squeeze.network", pinned)
    if network is squeeze.network and students == evaluate.students:
        return recipe
    return replace(recipe, squeeze=replace(squeeze, network=network), evaluate=replace(evaluate, students=students))


def _with_digest(network: Network, field: str, pinned: bool) -> Network:
    if network.factory is None:
        return network
    name = network.factory.partition(":")[0]
    try:
        file = own.allowed_file(network.factory)
    except own.NotAllowedError:
        raise UserError(
            f"{field}.factory={network.factory}: srel_hub runs your own code only with your consent; set "
            f"run.imports=[{name}]"
        ) from None
    actual = own.digest(file)
    if pinned and network.source_sha256 not in (None, actual):
        raise UserError(
            f"{field}.source_sha256={network.source_sha256}: {file} has the sha256 {actual}; restore the "
            "file, or remove source_sha256"
        )
    return replace(network, source_sha256=actual)


def _import(name: str) -> ModuleType:
    """Import a module, from the current folder first, as Python does for a script in it."""
    folder = os.getcwd()
    try:
        if name not in sys.modules:
            sys.path.insert(0, folder)
            try:
                importlib.invalidate_caches()  # the file may be new
                if importlib.util.find_spec(name) is None:
                    raise own.OwnNetworkError(
                        f"there is no module {name}: no file {name}.py in {folder} or on Python's path"
                    )
                return importlib.import_module(name)
            finally:
                sys.path.remove(folder)
        return sys.modules[name]
    except (own.OwnNetworkError, KeyboardInterrupt):
        raise
    except BaseException as error:  # it is the user's code, which may also call sys.exit
        raise own.OwnNetworkError(f"importing {name} failed: {own.describe(error, Path(f'{name}.py'))}") from None


def _load(file: Path) -> ModuleType:
    """Import a file that need not be on Python's path."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if not file.is_file() or file.suffix != ".py" or spec is None or spec.loader is None:
        raise own.OwnNetworkError("this is not a file of Python code (.py)")
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(file.stem)
    sys.modules[file.stem] = module  # dataclasses and pickle look a class's module up
    try:
        spec.loader.exec_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # it is the user's code
        if before is None:
            del sys.modules[file.stem]
        else:
            sys.modules[file.stem] = before
        raise own.OwnNetworkError(f"importing it failed: {own.describe(error, file)}") from None
    return module


def _is_module_of(module: ModuleType, file: Path) -> bool:
    other = getattr(module, "__file__", None)
    return other is not None and os.path.realpath(other) == os.path.realpath(file)


def _checked(module: ModuleType) -> ModuleType:
    """Return a module after checking that its file needs no other file of the user.

    Raises:
        OwnNetworkError: If the module is not one file, or imports files beside it, which a repository would lack.
    """
    file = own.source_file(module)
    installed = {os.path.realpath(sysconfig.get_path(name)) for name in ("purelib", "platlib", "stdlib")}
    if str(file.parent) in installed:
        return module
    names: list[str] = []
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += ["." * node.level + (node.module or "")]
    beside = [name for name in dict.fromkeys(names) if name.startswith(".") or _is_beside(file, name.split(".")[0])]
    if beside:
        raise own.OwnNetworkError(
            f"{file.name} imports {', '.join(first_few(beside))} from files beside it, but the teacher's repository "
            "carries only this file; put all of the network's code into it"
        )
    return module


def _is_beside(file: Path, name: str) -> bool:
    if name == "srel_hub":  # in a checkout of it
        return False
    return (file.parent / f"{name}.py").is_file() or (file.parent / name / "__init__.py").is_file()
