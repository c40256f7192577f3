"""The architecture: a module imports only from modules above it, and the stages never from each other."""

import ast
from pathlib import Path

import pytest

import srel_hub


PACKAGE = Path(srel_hub.__file__).parent
ORDER = [
    "faults",
    "yaml_files",
    "reference",
    "recipe",
    "protocols",
    "files",
    "units",
    "tensor_files",
    "pixels",
    "stopping",
    "bar",
    "presence",
    "marks",
    "status",
    "engine",
    "processes",
    "settle",
    "lending",
    "run",
    "work",
    "cli",
    "hub",
    "store",
    "push",
    "same_rows",
    "augment",
    "priors",
    "moves",
    "models",
    "classes",
    "folders",
    "convert",
    "picture",
    "encodings",
    "training",
    "checkpoint",
    "teacher",
    "labelling",
    "pretrained",
    "networks",
    "costs",
    "split",
    "source",
    "images",
    "cache",
    "patches",
    "class_statistics",
    "history",
    "objective",
    "soft_labels",
    "condensed",
    "checks",
    "preflight",
    "squeeze",
    "recover",
    "relabel",
    "scores",
    "rows",
    "evaluate",
    "plan",
    "measure",
    "drawing",
    "figures",
    "compare",
    "export",
    "pictures",
    "card",
    "assemble",
    "read_back",
    "publish",
    "verify",
    "report",
    "condense",
    "sweep",
    "class_steps",
    "step_teachers",
    "continual_world",
    "continual_results",
    "continual",
]
STAGES = {"squeeze", "recover", "relabel", "evaluate"}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def module_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(path: Path) -> set[str]:
    """Modules of the package that a file imports at its top."""
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module == "srel_hub":
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("srel_hub."):
            names.add((node.module or "").split(".")[1])
        elif isinstance(node, ast.Import):
            names |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("srel_hub.")}
    return names


def test_every_module_has_its_place() -> None:
    assert {module_of(path) for path in FILES} == set(ORDER)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    own = module_of(path)
    for name in imported(path) - {own, "__version__"}:
        assert ORDER.index(name) < ORDER.index(own), f"{own} imports {name}, which stands below it"
        assert not (own in STAGES and name in STAGES), f"the stage {own} imports the stage {name}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "models").glob("[!_]*.py")), ids=lambda path: path.stem)
def test_a_network_stands_on_its_own(path: Path) -> None:
    assert "srel_hub" not in {name.split(".")[0] for name in _all_imports(path)}


def _all_imports(path: Path) -> list[str]:
    nodes = ast.walk(ast.parse(path.read_text()))
    return [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
