"""The pages in docs: nothing in them may go stale."""

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
import yaml
from benchmarks.test_tables import tables
from conftest import ROOT
from test_layers import ORDER

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
    page = (DOCS / "guides" / "reading-a-card.md").read_text()
    of_card = re.findall("^## (.*)$", (CARDS / "dataset.md.jinja").read_text(), re.M)
    of_page = re.findall("^## (.*)$", page, re.M)
    assert len(of_card) >= 8 and [heading for heading in of_page if heading in of_card] == of_card
    titles = [*ROW_TITLES.values(), *(caption.title for caption in CAPTIONS.values())]
    assert all(f"| {title} |" in page for title in titles)


def rows_of(table: str) -> dict[str, list[str]]:
    """Return the cells of a table of results by the first cell of each row."""
    lines = [line for line in tables.TABLES[table]() if line.startswith("|")][2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: row[1:] for row in cells}


def test_figures_in_the_text_are_those_of_the_results() -> None:
    """Every number that a page quotes outside of a table."""
    text = {page.relative_to(ROOT).as_posix(): page.read_text() for page in PAGES}
    card, bad = text["docs/guides/reading-a-card.md"], text["docs/guides/bad-results.md"]
    protocols, tiny, cifar = rows_of("protocols"), rows_of("labels-tiny"), rows_of("labels-cifar10")
    accuracies = [row[0].split()[0] for row in protocols.values()]
    for page in (card, bad, text["docs/guides/protocols.md"]):
        assert f"{min(accuracies)} %" in page and f"{max(accuracies)} %" in page
    lost = top1(tiny["full"]) - top1(tiny["topk 50"])
    assert f"{lost:.2f} points" in card and f"{lost:.2f} points" in bad
    assert abs(top1(tiny["full"]) - top1(tiny["uint8"])) < 0.1
    for row, loss in (("full", "4.7e-09"), ("uint8", "4e-06"), ("topk 50", "0.029")):
        assert tiny[row][2] == loss and loss in card
    assert f"{top1(cifar['student on batches of 16']):.2f} %" in bad and f"{top1(cifar['full']):.2f} %" in bad
    labels, guide = text["docs/results/labels.md"], text["docs/guides/soft-labels.md"]
    for row, times, points in (("a fortieth, uint8", "71", "0.26"), ("a twentieth, uint8", "36", "0.16")):
        assert round(float(tiny[row][1])) == int(times) and f"{top1(tiny['full']) - top1(tiny[row]):.2f}" == points
        assert f"{times} times smaller" in labels and f"{points} points" in labels
    assert "36 times smaller" in guide and "0.16 points" in guide
    gpu, speed, performance = tables.results("gpu"), text["docs/results/speed.md"], text["docs/guides/performance.md"]
    for size, gain in ((224, "2.2"), (32, "6.0")):
        ours = [gpu[f"recover resnet18-{size}{mode}"]["times"]["ours"]["ms_per_image"] for mode in ("", " compiled")]
        assert f"{ours[0] / ours[1]:.1f}" == gain and gain in speed and gain in performance
    for name, least, most in (("cost-cpu", 0.9, 1.1), ("cost-gpu", 0.78, 1), ("cost-gpu-float32", 0.5, 1)):
        ratios = [row["forecast_bytes"] / row["peak_bytes"] for row in tables.file(name)["results"]]
        assert all(least <= ratio <= most for ratio in ratios)
    quickstart, readme = rows_of("quickstart"), text["README.md"]
    for row in (ROW_TITLES["condensed"], ROW_TITLES["random-real"]):
        assert f"{float(quickstart[row][1].split()[0]):.1f} %" in readme
    assert f"({100 * tables.results('quickstart')['teacher']:.1f} %)" in readme


def top1(row: list[str]) -> float:
    """Return the mean accuracy in the last cell of a row."""
    return float(row[-1].split()[0])


# The methods


METHODS = (DOCS / "reference" / "methods.md").read_text()


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


# Links, pages and files that are named


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted(DOCS.rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files_and_headings_that_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]*(?:#[^)\s]*)?)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        if "://" in path:
            continue
        linked = page.parent / path if path else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors_of(linked), target


def anchors_of(page: Path) -> list[str]:
    """Return the anchors of a page's headings, as both GitHub and the site name them."""
    headings = re.findall("^#+ (.*)$", page.read_text(), re.M) if page.suffix == ".md" else []
    return [re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings]


def test_the_site_lists_every_page_once() -> None:
    listed = re.findall(r"^ +- .*?([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M)
    assert sorted(listed) == sorted(file.relative_to(DOCS).as_posix() for file in DOCS.rglob("*.md"))


def test_the_site_loads_nothing_from_other_hosts() -> None:
    settings = (ROOT / "mkdocs.yml").read_text()
    assert "font: false" in settings and "extra_javascript" not in settings and "http" not in settings
    assert "http" not in (DOCS / "assets" / "site.css").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_paths_of_the_repository_that_a_page_names_exist(page: Path) -> None:
    tops = "srel_hub|docs|tests|benchmarks|recipes|examples|cards"
    named_paths = re.findall(rf"`((?:{tops})/[\w./-]*)`", page.read_text())
    missing = [path for path in named_paths if not any(ROOT.glob(f"{path.rstrip('/')}*"))]
    assert missing == []


def test_the_code_map_has_every_package_in_order() -> None:
    """The table is in the order of imports, which tests/test_layers.py checks."""
    table = (DOCS / "contributing" / "code-map.md").read_text().split("\n## ")[0]
    packages = [Path(path).stem for path in re.findall(r"^\| `srel_hub/([\w./]+)` \|", table, re.M)]
    assert packages == [name for name in ORDER if name in packages]
    assert {folder.parent.name for folder in Path(srel_hub.__file__).parent.glob("*/__init__.py")} <= set(packages)


def test_the_page_on_the_api_has_every_public_name() -> None:
    page = (DOCS / "reference" / "api.md").read_text()
    documented = set(re.findall(r"^::: srel_hub\.(\w+)$", page, re.M))
    assert documented == {name for name in srel_hub.__all__ if not name.startswith("_")}


# The files beside the README


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == srel_hub.__version__ and citation["type"] == "software"
    assert citation["references"][0]["url"].endswith("/2306.13092")


def test_the_changelog_has_every_version_once_the_latest_first() -> None:
    found = re.findall(r"^## \[(\d+\.\d+\.\d+)\]", (ROOT / "CHANGELOG.md").read_text(), re.M)
    order = [tuple(int(part) for part in version.split(".")) for version in found]
    assert srel_hub.__version__ in found and order == sorted(set(order), reverse=True)


def test_contributing_names_targets_of_make_that_exist() -> None:
    targets = re.findall("^make ([a-z-]+)$", (ROOT / "CONTRIBUTING.md").read_text(), re.M)
    assert all(re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M) for target in targets) and targets


def test_the_package_and_the_citation_name_one_repository() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    repository = yaml.safe_load((ROOT / "CITATION.cff").read_text())["repository-code"]
    assert project["urls"]["Repository"] == repository
    assert all(url.startswith(repository) for url in project["urls"].values())
