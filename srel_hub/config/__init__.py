"""The recipe: its typed sections, and functions that read, merge, validate and compare recipes.

A recipe is a frozen dataclass of dataclasses. Every function of the program receives only the section that it needs.
"""

from srel_hub.config.evaluate import Cooling, Evaluate
from srel_hub.config.fields import EXAMPLE_ID, REF, is_local, public_name
from srel_hub.config.loading import RecipeError, load_recipe, published, read_recipe, validated
from srel_hub.config.networks import NETWORKS, Network, Pretrained, network_title
from srel_hub.config.publish import Publish
from srel_hub.config.recipe import Recipe
from srel_hub.config.recover import GivenImages, Patches, Recover
from srel_hub.config.relabel import Relabel
from srel_hub.config.run_settings import RunSettings
from srel_hub.config.serialize import as_dict, canonical, fingerprint
from srel_hub.config.source import Source
from srel_hub.config.squeeze import Squeeze
from srel_hub.config.training import Augment, Optimizer


__all__ = [
    "EXAMPLE_ID",
    "NETWORKS",
    "REF",
    "Augment",
    "Cooling",
    "Evaluate",
    "GivenImages",
    "Network",
    "Optimizer",
    "Patches",
    "Pretrained",
    "Publish",
    "Recipe",
    "RecipeError",
    "Recover",
    "Relabel",
    "RunSettings",
    "Source",
    "Squeeze",
    "as_dict",
    "canonical",
    "fingerprint",
    "is_local",
    "load_recipe",
    "network_title",
    "public_name",
    "published",
    "read_recipe",
    "validated",
]
