"""The whole recipe: its sections, and the rules that involve several of them."""

import functools
from dataclasses import dataclass, field
from typing import Literal

from pydantic import TypeAdapter

from srel_hub.config.evaluate import Evaluate
from srel_hub.config.fields import STRICT, Line, Name, Whole, require
from srel_hub.config.publish import Publish
from srel_hub.config.recover import Recover
from srel_hub.config.relabel import Relabel
from srel_hub.config.run_settings import RunSettings
from srel_hub.config.source import Source
from srel_hub.config.squeeze import Squeeze


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A complete description of a run: the real dataset, the four stages, the evaluation and the push.

    Examples:
        >>> from srel_hub import Recipe, load_recipe
        >>> def images(recipe: Recipe, num_classes: int) -> int:
        ...     return recipe.recover.ipc * num_classes
        >>> images(load_recipe("cifar10_ipc10"), num_classes=10)
        100
    """

    __pydantic_config__ = STRICT

    name: Name
    """Name of the run directory: letters, digits, `.`, `_` and `-`, at most 96. Default: the name of the recipe
    file."""

    seed: Whole = 0
    """Seed of all random numbers."""

    protocol: Line | None = None
    """Name of a shipped evaluation protocol, whose values replace the defaults of `relabel` and `evaluate`. `srel-hub
    recipe protocols` lists them. null: none."""

    precision: Literal["float32", "bfloat16", "auto"] = "auto"
    """Data type of convolutions and matrix products. auto: bfloat16 if the hardware supports it, otherwise
    float32."""

    pictures: bool = True
    """Whether to draw figures for the card. Requires matplotlib and scikit-learn; without them, figures are
    skipped."""

    source: Source
    """The real dataset."""

    squeeze: Squeeze = field(default_factory=Squeeze)
    """First stage: the teacher."""

    recover: Recover
    """Second stage: the condensed images."""

    relabel: Relabel = field(default_factory=Relabel)
    """Third stage: the soft labels."""

    evaluate: Evaluate = field(default_factory=Evaluate)
    """Fourth stage: students, trained on the condensed dataset."""

    publish: Publish = field(default_factory=Publish)
    """Last stage: the repositories on the Hugging Face Hub."""

    run: RunSettings = field(default_factory=RunSettings)
    """Where and how the run works."""

    def __post_init__(self) -> None:
        require(
            self.source.train_split is not None or self.squeeze.pretrained is not None,
            "source.train_split: is null, but squeeze trains a teacher on it; name the split, or set "
            "squeeze.pretrained",
        )
        require(
            not self.evaluate.scores
            or (self.evaluate.baselines and self.source.train_split is not None and self.source.has_eval),
            "evaluate.scores=true: needs source.train_split, source.eval_split and evaluate.baselines",
        )
        require(
            self.recover.patches is None or not self.recover.reads_real or self.source.train_split is not None,
            "recover.patches: need the training split, but source.train_split is null; name the split, or set "
            "recover.patches=null to start from noise",
        )
        require(
            not self.recover.reads_real or self.recover.patches is not None or self.source.train_split is not None,
            "recover.statistics=class: needs the training split, but source.train_split is null; name the split, or "
            "set recover.statistics=dataset",
        )
        images = self.recover.images
        require(
            self.recover.ipc > 0 or images is not None,
            "recover.ipc: is required; add it to the recipe, as a whole number of at least 1",
        )
        require(
            images is None or images.license != "unknown" or self.publish.repo_id is None or self.publish.private,
            "recover.images.license: is unknown, and a public dataset needs a license; set recover.images.license (and "
            "recover.images.terms) to those of the images, or set publish.private=true",
        )
        size, batch = self.relabel.group_size, self.evaluate.batch_size
        require(
            not self.evaluate.groups or (size is not None and batch % size == 0),
            f"evaluate.groups=true: evaluate.batch_size={batch} must be a multiple of relabel.group_size={size}",
        )

    @property
    def opens_train(self) -> bool:
        """Whether a stage reads the training split: squeeze, recover, or evaluate for its random real images."""
        has_baselines = self.source.has_eval and self.evaluate.baselines
        needed = self.squeeze.pretrained is None or self.recover.reads_real or has_baselines
        return needed and self.source.train_split is not None

    @property
    def recover_folders(self) -> tuple[str, ...]:
        """Names of the run's folders with the classifiers that the images match, squeeze's first."""
        return ("teacher", *(f"recover_teacher-{index + 1}" for index in range(len(self.recover.teachers))))

    @property
    def label_folder(self) -> str:
        """Name of the run's folder with the classifier that computes the soft labels."""
        return "teacher" if self.relabel.teacher is None else "label_teacher"

    @property
    def label_folders(self) -> tuple[str, ...]:
        """Names of the run's folders with all classifiers that compute soft labels, `label_folder` first."""
        return (self.label_folder, *(f"label_committee-{index + 1}" for index in range(len(self.relabel.committee))))


@functools.cache
def recipe_adapter() -> TypeAdapter[Recipe]:
    """Return pydantic's validator of recipes.

    It is built once per process. That takes about 30 ms, because pydantic parses the sources for the descriptions of
    the fields; a sweep validates up to 1,000 recipes.
    """
    return TypeAdapter(Recipe)
