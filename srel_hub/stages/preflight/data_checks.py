"""Checks of data and teachers against each other. Each check returns a list of problems."""

import torch
from torch import Tensor

from srel_hub.core.metrics import BETTER_THAN_CHANCE, predictions
from srel_hub.data import class_names as classes
from srel_hub.data.splits import Split
from srel_hub.errors import UserError
from srel_hub.stages.preflight.gathered import Gathered
from srel_hub.teachers.class_order import are_wordnet_ids, class_order, in_order
from srel_hub.teachers.classifier import Classifier


DECODED_IMAGES = 500  # given images in memory at once
CHECKED_IMAGES = 2000  # eval images that a teacher without class names is scored on
TRUST = "if the order is right, set squeeze.trust_class_order=true"


def agree(own: tuple[str, ...], names: tuple[str, ...] | None, who: str, trust: bool) -> tuple[tuple[str, ...], bool]:
    """Find the class names on which a teacher and the dataset agree.

    Args:
        own: The teacher's class names; numbers if it has no names.
        names: The dataset's class names; None if no opened split has class names.
        who: The name of the teacher in messages.
        trust: Whether to accept the order even if the names contradict each other.

    Returns:
        The class names, and whether the order is only assumed, because the teacher or the dataset has numbers instead
        of names.

    Raises:
        UserError: If the names contradict each other. The message lists the first three differences.
    """
    if names is None:
        if classes.are_numbered(own):
            field = who.split("=")[0]
            raise UserError(
                f"{who}: the teacher does not name its classes, and no opened split names them; set "
                f"{field}.class_names, or source.eval_split"
            )
        return classes.make_unique(own), False
    contradiction = classes.describe_mismatch(own, names, who, "the dataset")
    if contradiction is None:
        return names, False
    if len(own) != len(names):
        raise UserError(contradiction)
    are_words = not are_wordnet_ids(own) and not classes.are_numbered(own)
    if classes.are_numbered(names) or (are_wordnet_ids(names) and are_words):
        return classes.make_unique(own), not trust
    if classes.are_numbered(own) or (are_wordnet_ids(own) and not are_wordnet_ids(names)) or trust:
        return names, not trust
    raise UserError(
        f"{contradiction}. Labels would belong to the wrong classes; choose another teacher or dataset; {TRUST}"
    )


def in_order_of(classifier: Classifier, names: tuple[str, ...] | None, who: str) -> tuple[Classifier, str | None]:
    """Return a teacher with the dataset's class order, and a remark if its classes were permuted.

    Args:
        classifier: The teacher.
        names: The dataset's class names; None if no opened split has class names.
        who: The name of the teacher in the remark.
    """
    order = None if names is None else class_order(classifier.class_names, names)
    permuted = None if order is None else in_order(classifier, order)
    if order is None or permuted is None:
        return classifier, None
    moved = sum(index != old for index, old in enumerate(order))
    return permuted, (
        f"{who}: the teacher has the dataset's classes in another order; its last layer was permuted to the dataset's "
        f"order ({moved} of {len(order)} classes moved)"
    )


def assumed_class_order(gathered: Gathered) -> list[str]:
    """Check by its accuracy that a teacher whose class order is only assumed has the dataset's class order."""
    problems = []
    for who, classifier in gathered.unproven.items():
        try:
            require_accuracy(classifier, gathered.inputs.source.eval, who, gathered.device)
        except UserError as error:
            problems.append(str(error))
    return problems


def require_accuracy(
    classifier: Classifier, split: Split | None, who: str, device: torch.device, images_title: str = "eval images"
) -> None:
    """Check that a teacher recognizes the dataset's classes.

    The score is the mean of the classes' recalls. A network with other classes, or another order, gets about 1 / K.

    Args:
        classifier: The teacher.
        split: The images to score it on.
        who: The recipe's field and value in messages.
        device: The device to compute on.
        images_title: What the images are, in messages.

    Raises:
        UserError: If the score is less than a fifth of the way from chance to 100 %, or there are no images to score
            on.
    """
    if split is None:
        raise UserError(
            f"{who}: nothing shows that its classes are the dataset's, in the same order. Either the teacher or the "
            "dataset has "
            f"no class names, and there is no eval split to score the teacher on; set source.eval_split; {TRUST}"
        )
    chance = 1 / len(classifier.class_names)
    threshold = chance + BETTER_THAN_CHANCE * (1 - chance)
    rows = torch.linspace(0, len(split.labels) - 1, min(CHECKED_IMAGES, len(split.labels))).round().long()
    images = split.images(classifier.frame, rows)
    model = classifier.model.to(device)
    logits = predictions(model, images.pixels, classifier.table(device))
    score = mean_recall(torch.cat([batch.argmax(1) for batch in logits]), images.labels)
    if score < threshold:
        raise UserError(
            f"{who}: the teacher recognizes {score:.1%} of {len(rows)} {images_title} (mean over the classes); a "
            f"teacher trained on these classes, in this order, should reach at least {threshold:.1%}. So this one was "
            f"probably trained on other classes, or on the same ones in another order; {TRUST}"
        )


def given_image_size(gathered: Gathered) -> list[str]:
    """Check that all given images can be read and have the size of the dataset."""
    given = gathered.inputs.given
    if given is None:
        return []
    try:
        for rows in given.rows.flatten().split(DECODED_IMAGES):
            given.pixels(rows, gathered.size)
    except UserError as error:
        return [str(error)]
    return []


def mean_recall(predicted: Tensor, labels: Tensor) -> float:
    """Return the mean recall, in [0, 1], over the classes that occur in `labels`.

    Args:
        predicted: int64 [N], the predicted classes.
        labels: int64 [N], the true classes.
    """
    correct = labels[predicted == labels].bincount(minlength=int(labels.max()) + 1)
    count = labels.bincount()
    return float((correct[count > 0] / count[count > 0]).mean())


def one_image_size(gathered: Gathered) -> list[str]:
    """Check that both splits have the same image size, if images are not resized."""
    source = gathered.inputs.source
    if (
        gathered.inputs.frame is not None
        or not source.train
        or not source.eval
        or source.train.size == source.eval.size
    ):
        return []
    train, evaluation = (f"{width} x {height}" for height, width in (source.train.size, source.eval.size))
    return [
        f"source: the training images have {train} pixels, but the eval images have {evaluation}; set "
        "source.image_size to "
        "resize both"
    ]


def enough_real_patches(gathered: Gathered) -> list[str]:
    """Check that every class has enough crops for its patches."""
    train, spec, ipc = gathered.inputs.source.train, gathered.recipe.recover.patches, gathered.recipe.recover.ipc
    if train is None or spec is None or not gathered.recipe.recover.reads_real:
        return []
    images = train.labels.bincount(minlength=gathered.num_classes)
    crops = images.clamp(max=spec.images) * spec.crops
    smallest, needed = int(crops.argmin()), ipc * spec.tiles**2
    if crops[smallest] >= needed:
        return []
    return [
        f"recover.patches: {ipc} images of {spec.tiles**2} patches need {needed} crops of every class, but "
        f"{gathered.inputs.class_names[smallest]!r} has {int(crops[smallest])} ({int(images[smallest])} images, "
        f"images={spec.images}, crops={spec.crops}); raise recover.patches.crops or lower recover.ipc"
    ]
