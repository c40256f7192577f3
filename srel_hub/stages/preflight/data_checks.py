"""Checks that compare: teacher with dataset, data with the run's beginning, what is needed with what there is."""

import shutil

import torch
from torch import Tensor

from srel_hub.config import Recipe
from srel_hub.core.encodings import recipe_encoding
from srel_hub.core.metrics import BETTER_THAN_CHANCE, predictions
from srel_hub.data import class_names as classes
from srel_hub.data.sources import Source
from srel_hub.data.splits import Split
from srel_hub.errors import UserError
from srel_hub.labels.epoch_files import row_bytes
from srel_hub.runs.run import Run
from srel_hub.storage.files import format_bytes, read_json, total_bytes
from srel_hub.teachers.classifier import Classifier


CHECKED_IMAGES = 2000
TRUST = "if the order is right all the same, set squeeze.trust_class_order=true"


def agree(own: tuple[str, ...], names: tuple[str, ...] | None, who: str, trust: bool) -> tuple[tuple[str, ...], bool]:
    """The class names on which a teacher (`own`) and the dataset (`names`; None: not opened) agree.

    Returns:
        the names, and whether the order is only assumed, since one side has numbers for names.

    Raises:
        UserError: where they contradict each other, with the first three differences.
    """
    if names is None:
        if classes.are_numbered(own):
            field = who.split("=")[0]
            raise UserError(
                f"{who}: it does not name its classes, and no split is opened that would; set {field}.class_names, or "
                "source.eval_split"
            )
        return classes.make_unique(own), False
    wrong = classes.describe_mismatch(own, names, who, "the dataset")
    if wrong is None:
        return names, False
    if len(own) != len(names):
        raise UserError(wrong)
    if classes.are_numbered(names):
        return classes.make_unique(own), not trust
    if classes.are_numbered(own) or trust:
        return names, not trust
    raise UserError(f"{wrong}. Labels would be of the wrong classes; choose another teacher or dataset; {TRUST}")


def require_accuracy(classifier: Classifier, split: Split | None, who: str) -> None:
    """Check by its answers that a teacher without class names has the dataset's classes in the dataset's order.

    The score is the mean of the classes' recalls, of which a network that cannot tell them gets 1 / K.

    Raises:
        UserError: where it scores less than a fifth of the way from chance to perfect, or nothing can be scored.
    """
    if split is None:
        raise UserError(
            f"{who}: nothing shows that its classes are the dataset's, in this order: one of the two has no class "
            f"names, and there is no eval split to score it on; set source.eval_split; {TRUST}"
        )
    chance = 1 / len(classifier.class_names)
    least = chance + BETTER_THAN_CHANCE * (1 - chance)
    rows = torch.linspace(0, len(split.labels) - 1, min(CHECKED_IMAGES, len(split.labels))).round().long()
    images = split.images(classifier.frame, rows)
    table = classifier.table(next(classifier.model.parameters()).device)
    answers = torch.cat([logits.argmax(1) for logits in predictions(classifier.model, images.pixels, table)])
    score = mean_recall(answers, images.labels)
    if score < least:
        raise UserError(
            f"{who}: it recognizes {score:.1%} of {len(rows)} eval images (mean over the classes); a teacher of these "
            f"classes in this order must reach {least:.1%}. It knows other classes, or in another order; {TRUST}"
        )


def mean_recall(answers: Tensor, labels: Tensor) -> float:
    """Mean, over the classes that occur, of the share of a class's images that are answered right."""
    right = labels[answers == labels].bincount(minlength=int(labels.max()) + 1)
    count = labels.bincount()
    return float((right[count > 0] / count[count > 0]).mean())


def require_one_size(source: Source) -> None:
    """Refuse splits of different sizes where nothing brings them to one.

    Raises:
        UserError: with both sizes.
    """
    if source.train and source.eval and source.train.size != source.eval.size:
        ours, theirs = (f"{width} x {height}" for height, width in (source.train.size, source.eval.size))
        raise UserError(
            f"the training images are of {ours} pixels, the eval images of {theirs}; set source.image_size"
        )


def require_same_data(run: Run, source: Source, class_names: tuple[str, ...]) -> None:
    """Refuse to go on with other data than the run began with: labels would be counted against other classes.

    Raises:
        UserError: saying what changed.
    """
    began = read_json(run.path("teacher", "metrics.json"))
    counts = began.get("class_images")  # not kept before version 0.2.0
    faults = []
    if source.class_names is not None and not classes.are_numbered(source.class_names):
        wrong = classes.describe_mismatch(source.class_names, class_names, "the dataset", "this run")
        faults += [wrong] if wrong else []
    if not faults and counts and source.train is not None:
        same = source.train.labels.bincount(minlength=len(class_names)).tolist() == counts
        faults += [] if same else ["the training split has another number of images of some classes"]
    if not faults and began["eval_images"] and source.eval is not None:
        now = len(source.eval.labels)
        faults += (
            [f"the eval split has {now} images, it had {began['eval_images']}"] if now != began["eval_images"] else []
        )
    if faults:
        raise UserError(
            f"source: the data changed since {run.folder} was begun: {'; '.join(faults)}. Bring them back, or start "
            "another run with name=..."
        )


def require_disk(run: Run, source: Source, num_classes: int, size: tuple[int, int], weights: int) -> None:
    """Compare what the recipe will write with what is free there. PNGs of noise are as large as the pixels.

    Args:
        weights: bytes of the teachers.

    Raises:
        UserError: naming the parts and the knobs.
    """
    relabel, count = run.recipe.relabel, num_classes * run.recipe.recover.ipc
    image = 3 * size[0] * size[1]
    images = 2 * image * count  # shards, and the dataset's parquet
    stored = 0 if relabel.encoding == "none" else relabel.epochs
    labels = stored * count * row_bytes(recipe_encoding(relabel, num_classes), relabel.augment.mix)
    decoded = image * decoded_images(run.recipe, source, count)
    folder = next(path for path in (run.folder, *run.folder.resolve().parents) if path.is_dir())
    there = total_bytes(run.folder)
    free = shutil.disk_usage(folder).free
    if images + labels + weights + decoded - there > free:
        raise UserError(
            f"not enough disk: the recipe writes {format_bytes(images + labels + weights + decoded)} (images "
            f"{format_bytes(images)}, soft labels {format_bytes(labels)}, teachers {format_bytes(weights)}, for a "
            f"while decoded images {format_bytes(decoded)}) to {run.folder}, where {format_bytes(free)} are free; "
            "free some, set run.root to another disk, or lower relabel.epochs, recover.ipc or source.image_size"
        )


def decoded_images(recipe: Recipe, source: Source, count: int) -> int:
    """How many decoded images a run keeps while it works: condensed, eval, random real and training images."""
    train, evaluated = source.train, source.eval
    if evaluated is None or evaluated.fingerprint is None:  # in memory already
        return count
    real = recipe.evaluate.seeds * count if train is not None and recipe.evaluate.baselines else 0
    trained = len(train.labels) if train is not None and recipe.squeeze.pretrained is None else 0
    return count + len(evaluated.labels) + real + trained
