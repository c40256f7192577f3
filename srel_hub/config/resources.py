"""Folders of the shipped recipes and card templates: inside the wheel, or in the checkout of an editable install."""

import importlib.resources
from pathlib import Path


PACKAGE = Path(str(importlib.resources.files("srel_hub")))
CHECKOUT = PACKAGE.parent  # the parent of the package is site-packages if a wheel is installed


def _shipped(name: str) -> Path:
    """Return a folder that a wheel has inside the package, and a checkout beside it."""
    return next((folder for folder in (PACKAGE / name, CHECKOUT / name) if folder.is_dir()), PACKAGE / name)


RECIPES, CARDS = _shipped("recipes"), _shipped("cards")
SCHEMA = RECIPES / "recipe.schema.json"
