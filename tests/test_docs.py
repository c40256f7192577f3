"""The pages in docs: nothing in them may go stale."""

import ast
import importlib
import re
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
import yaml
from benchmarks.test_tables import tables
from conftest import ROOT
from local_hub.client import Hub
from test_condense import run_block, run_command

import srel_hub
from srel_hub import config
from srel_hub.config import Recipe
from srel_hub.config.json_schema import types_schema
from srel_hub.config.reference import reference
from srel_hub.reports.card import CARDS, ROW_TITLES
from srel_hub.reports.plots import CAPTIONS


DOCS = ROOT / "docs"
SECTIONS = sorted(
    (
        kind
        for kind in vars(config).values()
        if isinstance(kind, type) and is_dataclass(kind) and kind.__module__.startswith("srel_hub.config")
    ),
    key=lambda kind: kind.__name__,
)


# The recipe reference


def test_the_recipe_reference_is_what_the_types_say() -> None:
    printed = subprocess.run([sys.executable, "-m", "srel_hub", "recipe", "reference"], capture_output=True, check=True)
    assert printed.stdout == (DOCS / "reference" / "recipe.md").read_bytes() == reference().encode()


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_every_field_is_listed_with_its_description(section: type) -> None:
    page, schema = reference(), types_schema()
    properties = schema["properties"] if section is Recipe else schema["$defs"][section.__name__]["properties"]
    assert list(properties) == [field.name for field in fields(section)]
    for name, field in properties.items():
        assert any(line.startswith(f"| `{name}` |") for line in page.splitlines() if field["description"] in line)


# Troubleshooting


def messages() -> str:
    """All text of the package, with the parts of a message joined and a zero byte where it has a value."""
    found: list[str] = []
    for file in Path(srel_hub.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "\0" for part in node.values]
                found.append("".join(str(part) for part in parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


def test_every_message_of_the_troubleshooting_page_is_one() -> None:
    headings = re.findall("^### (.*)$", (DOCS / "troubleshooting.md").read_text(), re.M)
    fragments = [re.fullmatch("`(.*)`", heading) for heading in headings]
    assert len(headings) >= 25 and all(fragments)
    text = messages()
    assert [found[1] for found in fragments if found and found[1] not in text] == []


def test_no_message_stands_twice_on_the_troubleshooting_page() -> None:
    headings = re.findall("^### (.*)$", (DOCS / "troubleshooting.md").read_text(), re.M)
    assert len(set(headings)) == len(headings)


# The card


def test_the_page_on_cards_goes_through_the_card() -> None:
    page = (DOCS / "card.md").read_text()
    of_card = re.findall("^## (.*)$", (CARDS / "dataset.md.jinja").read_text(), re.M)
    of_page = re.findall("^## (.*)$", page, re.M)
    assert len(of_card) >= 8 and [heading for heading in of_page if heading in of_card] == of_card
    titles = [*ROW_TITLES.values(), *(caption.title for caption in CAPTIONS.values())]
    assert all(f"| {title} |" in page for title in titles)


def test_figures_of_the_page_on_cards_are_those_of_the_results() -> None:
    page, protocols, labels = ((DOCS / "card.md").read_text(), [*tables.protocols()], [*tables.label_sizes("tiny")])
    for figure in ("14.79", "25.74"):
        assert f"{figure} %" in page and any(f"| {figure} +- " in line for line in protocols)
    top1 = {line.split(" | ")[0].strip("| "): float(line.split(" | ")[-1].split()[0]) for line in labels}
    assert f"{top1['full'] - top1['topk 50']:.2f} points" in page
    assert abs(top1["full"] - top1["uint8"]) < 0.1
    for loss in ("4.7e-09", "4e-06", "0.029"):
        assert loss in page and any(f"| {loss} |" in line for line in labels)


# The methods


METHODS = (DOCS / "methods.md").read_text()


def named(path: str) -> object:
    """What a dotted name of the package means."""
    module, *parts = path.split(".")
    found: object = importlib.import_module(f"srel_hub.{module}")
    for part in parts:
        found = getattr(found, part)
    return found


def test_every_formula_names_the_code_that_computes_it() -> None:
    lines = re.findall(r"^Code: ((?:`[\w.]+`,?\s+)*`[\w.]+`)$", METHODS, re.M)
    names = [name for line in lines for name in re.findall("`(.*?)`", line)]
    assert len(names) >= 30 and all(callable(named(name)) for name in names)
    for section in re.split("^##", METHODS, flags=re.M):
        assert "```math" not in section or section.rindex("Code: ") > section.rindex("```math")


def test_every_knob_on_the_page_of_methods_is_one() -> None:
    known = {field.name for section in SECTIONS for field in fields(section)}
    knobs = re.findall(r"`(\w+)(?:: (?!\{)\w+)?`", METHODS)
    values = {"resized", "padded", "draw", "float16", "uint8", "topk", "ddranking"}
    assert set(knobs) - known <= values


# The tutorial, and the commands of every page


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of somebody who went through the tutorial, in order, up to the push."""
    return tmp_path_factory.mktemp("user")


def blocks(page: str) -> list[tuple[str, str]]:
    """Language and text of every block of code on a page."""
    return re.findall(r"^```(\w+)\n(.*?)^```", (DOCS / page).read_text(), re.M | re.S)


@pytest.mark.long
def test_the_tutorial_runs_from_a_folder_of_images_to_what_others_type(
    user: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In order, each block as it stands; then the blocks of the other pages, which speak of the same dataset."""
    monkeypatch.setenv("HF_TOKEN", "hf_my-name")
    said = ""
    for language, block in [*blocks("tutorial.md"), *blocks("card.md")]:
        if language == "yaml":
            (user / "shapes.yaml").write_text(block)
        elif language == "python":
            said += run_block(block, user)
        else:
            assert language == "bash"
            for command in block.splitlines():
                run_command(command.split(), user)
    assert "train {'disc': 40, 'square': 40, 'triangle': 40}" in said and "condensed  " in said
    assert "['disc', 'square', 'triangle'] 15" in said and "'label': " in said
    assert sorted(file.name for file in user.glob("*.png")) == ["disc.png", "square.png", "triangle.png"]
    assert {"datasets/my-name/shapes-ipc5", "models/my-name/shapes-ipc5-teacher"} <= set(hub.state()["repos"])


def test_every_page_is_run_or_has_nothing_to_run() -> None:
    """label-format.md's layout is text; what else has code is run above or by the README's test."""
    runnable = {
        page.name for page in DOCS.glob("*.md") if {"python", "bash", "sh"} & {name for name, _ in blocks(page.name)}
    }
    assert runnable <= {"tutorial.md", "card.md"}


@pytest.mark.parametrize("page", sorted([*DOCS.glob("*.md"), ROOT / "README.md"]), ids=lambda page: page.name)
def test_links_to_files_and_headings_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]*(?:#[^)\s]*)?)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        if "://" in path:
            continue
        there = page.parent / path if path else page
        assert there.exists(), target
        headings = [re.sub(r"[^\w\- ]", "", h).strip().lower().replace(" ", "-") for h in headings_of(there)]
        assert not anchor or anchor in headings, target


def headings_of(page: Path) -> list[str]:
    return re.findall("^#+ (.*)$", page.read_text(), re.M) if page.suffix == ".md" else []


# The files beside the README


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == srel_hub.__version__ and citation["type"] == "software"
    assert citation["references"][0]["url"].endswith("/2306.13092")


def test_the_changelog_has_every_version_once_the_latest_first() -> None:
    found = re.findall(r"^## \[(\d+\.\d+\.\d+)\]", (ROOT / "CHANGELOG.md").read_text(), re.M)
    order = [tuple(int(part) for part in version.split(".")) for version in found]
    assert srel_hub.__version__ in found and order == sorted(set(order), reverse=True)


def test_contributing_names_commands_and_files_that_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    targets = re.findall("^make ([a-z-]+)$", text, re.M)
    assert all(re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M) for target in targets) and targets
    for path in re.findall(r"`((?:docs|tests|benchmarks)/[\w./]+)`", text):
        assert (ROOT / path).exists(), path
