"""The pages in docs: nothing in them may go stale."""

import subprocess
import sys
from dataclasses import fields, is_dataclass

import pytest
from conftest import ROOT

from srel_hub import recipe
from srel_hub.recipe import Recipe
from srel_hub.reference import meanings, reference


DOCS = ROOT / "docs"
SECTIONS = sorted(
    (
        kind
        for kind in vars(recipe).values()
        if isinstance(kind, type) and is_dataclass(kind) and kind.__module__ == recipe.__name__
    ),
    key=lambda kind: kind.__name__,
)


# The recipe reference


def test_the_recipe_reference_is_what_the_types_say() -> None:
    printed = subprocess.run([sys.executable, "-m", "srel_hub.recipe", "reference"], capture_output=True, check=True)
    assert printed.stdout == (DOCS / "recipe.md").read_bytes() == reference(Recipe).encode()


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_every_field_is_told_with_a_meaning(section: type) -> None:
    page, told = reference(Recipe), meanings(section)
    assert all(told[field.name] for field in fields(section))
    for field in fields(section):
        assert any(line.startswith(f"| `{field.name}` |") for line in page.splitlines() if told[field.name] in line)
