"""The inputs of a run's stages: the real dataset and the pretrained teachers, as opened by preflight."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from srel_hub.config import Pretrained, Recipe
from srel_hub.data import class_names as classes
from srel_hub.data.given_images import GivenImages
from srel_hub.data.sources import Source
from srel_hub.errors import UserError
from srel_hub.runs.completion import Stage
from srel_hub.storage.decode import Frame
from srel_hub.storage.files import read_json
from srel_hub.teachers.classifier import Classifier
from srel_hub.teachers.pretrained import Origin


@dataclass(frozen=True)
class Adopted:
    """A pretrained teacher with the dataset's class names and image size.

    Attributes:
        classifier: The network, on the CPU.
        origin: The source of the network, for the card.
        remark: What was changed in the network, for the log; None if nothing was.
    """

    classifier: Classifier
    origin: Origin
    remark: str | None = None


@dataclass(frozen=True)
class Inputs:
    """The inputs of the stages.

    Attributes:
        source: The real dataset.
        class_names: Names of the condensed dataset's classes, in its order.
        frame: How a real image is resized to the dataset's size; None leaves images unchanged.
        adopted: Pretrained teachers by their folder in the run, except those that the run already has.
        given: Images to label instead of recovering any; None if images are recovered, or the run already has them.
    """

    source: Source
    class_names: tuple[str, ...]
    frame: Frame | None
    adopted: dict[str, Adopted]
    given: GivenImages | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the dataset's images."""
        return image_size(self.source, self.frame)


def image_size(source: Source, frame: Frame | None) -> tuple[int, int]:
    """Return (height, width) of the frame, or of the first image if `frame` is None."""
    if frame is not None:
        return frame.size
    split = source.train or source.eval
    assert split is not None, "a recipe opens one split at least"
    return split.size


def teacher_specs(recipe: Recipe) -> dict[str, tuple[Pretrained | None, str]]:
    """Return every folder of the run that contains a teacher.

    Returns:
        For each folder, the pretrained network to adopt (None if the teacher is trained), and the recipe's field for
        it.
    """
    specs = {"teacher": (recipe.squeeze.pretrained, "squeeze.pretrained")}
    for index, spec in enumerate(recipe.recover.teachers):
        specs[f"recover_teacher-{index + 1}"] = (spec, f"recover.teachers.{index}")
    if recipe.relabel.teacher is not None:
        specs["label_teacher"] = (recipe.relabel.teacher, "relabel.teacher")
    for index, spec in enumerate(recipe.relabel.committee):
        specs[f"label_committee-{index + 1}"] = (spec, f"relabel.committee.{index}")
    return specs


def stage_of(folder: str) -> Stage:
    """Return the stage to whose results a teacher's folder belongs. A change of that stage replaces the folder."""
    if folder == "teacher":
        return "squeeze"
    return "recover" if folder.startswith("recover_") else "relabel"


def require_same_data(teacher: Path, source: Source, class_names: tuple[str, ...]) -> None:
    """Check that the dataset has not changed since the run began. Otherwise labels could belong to other classes.

    Args:
        teacher: The run's folder `teacher`, whose metrics.json has the image counts from the beginning of the run.
        source: The current dataset.
        class_names: The run's classes.

    Raises:
        UserError: If the dataset changed. The message lists the changes.
    """
    before = read_json(teacher / "metrics.json")
    changes = []
    if source.class_names is not None and not classes.are_numbered(source.class_names):
        contradiction = classes.describe_mismatch(source.class_names, class_names, "the dataset", "this run")
        changes += [contradiction] if contradiction else []
    counts = before["class_images"]  # None if the training split was not opened
    train = source.train
    if not changes and counts and train is not None and _class_counts(train.labels, class_names) != counts:
        changes.append("the number of training images of some classes has changed")
    if not changes and before["eval_images"] and source.eval is not None:
        count = len(source.eval.labels)
        if count != before["eval_images"]:
            changes.append(f"the eval split has {count} images, but had {before['eval_images']}")
    skipped = None if source.skipped is None else {name: list(images) for name, images in source.skipped.items()}
    if not changes and before.get("skipped_images") != skipped:
        changes.append("other images cannot be read")
    made = None if source.made_eval is None else source.made_eval.sha256
    if not changes and made != (before.get("made_eval") or {}).get("sha256"):
        changes.append("other images would be set aside for the evaluation")
    if changes:
        raise UserError(
            f"source: the data changed since the run {teacher.parent} began: {'; '.join(changes)}. Restore the data, "
            "or start another run with name=..."
        )


def _class_counts(labels: Tensor, class_names: tuple[str, ...]) -> list[int]:
    counts: list[int] = labels.bincount(minlength=len(class_names)).tolist()
    return counts
