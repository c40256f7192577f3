"""The architecture: a package imports only from packages above it, and parts of different stages never each other."""

import ast
import re
from pathlib import Path

import pytest

import srel_hub


PACKAGE = Path(srel_hub.__file__).parent
ORDER = [
    "errors",
    "config",
    "core",
    "models",
    "storage",
    "data",
    "teachers",
    "runs",
    "hub",
    "labels",
    "stages",
    "reports",
    "studies",
    "condense",
    "api",
    "squeeze",
    "recover",
    "relabel",
    "evaluate",
    "publish",
    "commands",
    "__main__",
]
SHARED = {"inputs"}  # what the parts of `stages` may import; `pipeline` imports all of them
ENTRY_POINTS = {
    "condense",
    "stages/pipeline",
    "stages/preflight/prepare",
    "reports/assemble",
    "reports/publish",
    "reports/run_pictures",
    "studies/plan/run_plan",
    "studies/continual/study",
    "studies/continual/trainer",
}
LONGEST = 350  # lines of a module
FILES = sorted(PACKAGE.rglob("*.py"))


def parts(path: Path) -> tuple[str, ...]:
    return path.relative_to(PACKAGE).with_suffix("").parts


def imported(path: Path) -> set[tuple[str, ...]]:
    """Return the modules of the package that a file imports, each as its dotted parts."""
    names: set[tuple[str, ...]] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "srel_hub":
            above = tuple((node.module or "").split(".")[1:])
            names |= {(*above, alias.name) for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {tuple(a.name.split(".")[1:]) for a in node.names if a.name.split(".")[0] == "srel_hub"}
    return {name for name in names if name and name[0] in ORDER}


def test_every_module_has_its_place() -> None:
    assert {parts(path)[0] for path in FILES} - {"__init__"} == set(ORDER)


@pytest.mark.parametrize("path", FILES, ids=lambda path: "/".join(parts(path)))
def test_imports_go_one_way(path: Path) -> None:
    own = parts(path)
    if own == ("__init__",):
        return  # its public names are lazy
    for name in imported(path):
        assert ORDER.index(name[0]) <= ORDER.index(own[0]), (
            f"{'.'.join(own)} imports {'.'.join(name)}, which is below it"
        )


@pytest.mark.parametrize("path", sorted((PACKAGE / "stages").rglob("*.py")), ids=lambda path: "/".join(parts(path)))
def test_stages_meet_on_disk(path: Path) -> None:
    own = parts(path)[1]
    others = {name[1] for name in imported(path) if name[0] == "stages"} - {own, "__init__"} - SHARED
    if own == "pipeline":
        return
    assert not others, f"{path.name} imports {others}"


def test_only_entry_points_read_a_whole_recipe() -> None:
    """Everything below them receives the section that it needs."""
    reading = {"/".join(parts(path)) for path in FILES if re.search(r"\brun\.recipe\b", path.read_text())}
    assert reading <= ENTRY_POINTS


@pytest.mark.parametrize("path", FILES, ids=lambda path: "/".join(parts(path)))
def test_a_module_can_be_read_in_one_sitting(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LONGEST


@pytest.mark.parametrize("path", sorted((PACKAGE / "models").glob("[!_]*.py")), ids=lambda path: path.stem)
def test_a_network_is_self_contained(path: Path) -> None:
    """The Hub gets a copy of the file alone."""
    nodes = ast.walk(ast.parse(path.read_text()))
    names = [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    assert "srel_hub" not in {name.split(".")[0] for name in names}
