"""srel_hub: condense an image dataset with SRe2L and share it on the Hugging Face Hub.

The names below are the public interface. They are loaded on first use, so that `import srel_hub` is fast, and so that
`load_condensed` imports neither accelerate nor the pipeline.
"""

from typing import TYPE_CHECKING


__version__ = "0.10.0"
__all__ = [
    "Condensed",
    "Epoch",
    "Recipe",
    "RecipeError",
    "UnavailableError",
    "UserError",
    "__version__",
    "condense_dataset",
    "load_condensed",
    "load_recipe",
    "save_teacher",
    "verify_dataset",
]

if TYPE_CHECKING:
    from srel_hub.api import condense_dataset
    from srel_hub.config import Recipe, RecipeError, load_recipe
    from srel_hub.errors import UnavailableError, UserError
    from srel_hub.labels.dataset import Condensed
    from srel_hub.labels.epochs import Epoch
    from srel_hub.labels.load import load_condensed
    from srel_hub.labels.verify import verify_dataset
    from srel_hub.teachers.own_teacher import save_teacher
else:  # hidden from type checkers, which would take any attribute of the package for one of type Any
    _MODULES = {
        "Condensed": "srel_hub.labels.dataset",
        "Epoch": "srel_hub.labels.epochs",
        "Recipe": "srel_hub.config",
        "RecipeError": "srel_hub.config",
        "UnavailableError": "srel_hub.errors",
        "UserError": "srel_hub.errors",
        "condense_dataset": "srel_hub.api",
        "load_condensed": "srel_hub.labels.load",
        "load_recipe": "srel_hub.config",
        "save_teacher": "srel_hub.teachers.own_teacher",
        "verify_dataset": "srel_hub.labels.verify",
    }

    def __getattr__(name):
        """Import a public name on first use."""
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = globals()[name] = getattr(import_module(_MODULES[name]), name)
        return value

    def __dir__():
        """Return all attributes, also those that are not loaded yet."""
        return sorted({*globals(), *__all__})
