"""srel_hub: condense an image dataset with SRe2L and share it on the Hugging Face Hub."""

from typing import TYPE_CHECKING, Any


__version__ = "0.8.0"
__all__ = ["__version__", "load_condensed", "load_recipe"]

if TYPE_CHECKING:
    from srel_hub.config.loading import load_recipe
    from srel_hub.labels.load import load_condensed


def __getattr__(name: str) -> Any:
    # Lazy, so that `srel-hub recipe` neither imports torch nor finds itself imported already.
    if name == "load_condensed":
        from srel_hub.labels.load import load_condensed

        return load_condensed
    if name == "load_recipe":
        from srel_hub.config.loading import load_recipe

        return load_recipe
    raise AttributeError(f"module 'srel_hub' has no attribute {name!r}")
