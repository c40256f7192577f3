"""Where the shipped recipes and card templates are: in the wheel, or in the checkout of an editable install."""

import importlib.resources
from pathlib import Path


PACKAGE = Path(str(importlib.resources.files("srel_hub")))
CHECKOUT = PACKAGE.parent  # of an editable install; site-packages otherwise


def _shipped(name: str) -> Path:
    """Return a folder that the wheel has inside the package and a checkout has beside it."""
    return next((folder for folder in (PACKAGE / name, CHECKOUT / name) if folder.is_dir()), PACKAGE / name)


RECIPES, CARDS = _shipped("recipes"), _shipped("cards")
