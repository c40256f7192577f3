"""What a run needs, found and checked together, so that a mistake is told before anything is spent."""

import os
import shutil
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from srel_hub import classes, teacher
from srel_hub.faults import Faults, UserError
from srel_hub.picture import Frame
from srel_hub.pretrained import Origin, at_size, load_pretrained, require_batchnorm, try_out
from srel_hub.recipe import Pretrained, Recipe
from srel_hub.run import Run, read_json
from srel_hub.soft_labels import row_bytes
from srel_hub.source import Source, open_source
from srel_hub.split import Split
from srel_hub.teacher import Classifier
from srel_hub.training import predict


CHECKED_IMAGES = 2000
BETTER_THAN_CHANCE = 0.2  # of the way from chance to perfect
TRUST = "if the order is right all the same, set squeeze.trust_class_order=true"
UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


@dataclass(frozen=True)
class Adopted:
    """A pretrained teacher that fits: it has the dataset's class names and the images' size."""

    classifier: Classifier
    origin: Origin


@dataclass(frozen=True)
class Prepared:
    """What the stages need.

    Attributes:
        class_names: of the condensed dataset, in its order.
        frame: how a real image becomes one of the dataset's size; None leaves images as they are.
        adopted: pretrained teachers by the run's folder that they are kept in; those that are there are left out.
    """

    source: Source
    class_names: tuple[str, ...]
    frame: Frame | None
    adopted: dict[str, Adopted]


def teachers(recipe: Recipe) -> dict[str, tuple[Pretrained | None, str]]:
    """The run's folders of teachers, each with what is adopted there (None: trained) and the recipe's name for it."""
    wanted = {"teacher": (recipe.squeeze.pretrained, "squeeze.pretrained")}
    if recipe.relabel.teacher is not None:
        wanted["label_teacher"] = (recipe.relabel.teacher, "relabel.teacher")
    return wanted


def prepare(run: Run) -> Prepared:
    """Open the source and the pretrained teachers, and check them, each other and the disk.

    Raises:
        UserError: with every fault at once.
    """
    recipe, faults = run.recipe, Faults()
    source, opened = None, dict[str, tuple[Classifier, Origin]]()
    with faults.collected():
        source = open_source(recipe.source, run.progress, recipe.opens_train)
    missing = {folder: what for folder, what in teachers(recipe).items() if not run.is_done("squeeze", folder)}
    for folder, (spec, field) in missing.items():
        with faults.collected():
            if spec is not None:
                opened[folder] = load_pretrained(spec, field)
        with faults.collected():
            if folder == "teacher" and folder in opened:
                require_batchnorm(opened[folder][0], f"{field}={opened[folder][1].path}")
    if source is None or (recipe.squeeze.pretrained is not None and "teacher" not in opened and "teacher" in missing):
        faults.settle()  # without them there is nothing to compare the rest with
    assert source is not None
    kept = None if "teacher" in missing else teacher.load(run.path("teacher"), torch.device("cpu"))
    if kept is not None:
        require_same_data(run, source, kept.class_names)
    frame = kept.frame if kept else image_frame(recipe, opened.get("teacher"))
    names = kept.class_names if kept else source.class_names
    adopted, assumed = {}, dict[str, Classifier]()
    for folder, (classifier, origin) in opened.items():
        with faults.collected():
            who = f"{teachers(recipe)[folder][1]}={origin.path}"
            names, unproven = agree(classifier.class_names, names, who, recipe.squeeze.trust_class_order)
            size = frame or Frame(first_size(source))
            classifier = replace(
                classifier, class_names=names, size=size.size, resize=size.resize, resample=size.resample
            )
            try_out(classifier, who)
            adopted[folder] = Adopted(classifier, origin)
            if unproven:
                assumed[who] = classifier
    with faults.collected():
        if frame is None:
            require_one_size(source)
    faults.settle()
    assert names is not None
    with faults.collected():
        require_memory(source, frame, trains="teacher" in missing and recipe.squeeze.pretrained is None)
    with faults.collected():
        require_disk(run, len(names), frame.size if frame else first_size(source), list(adopted.values()))
    for who, classifier in assumed.items():
        with faults.collected():
            require_accuracy(replace(classifier, model=classifier.model.to(run.device)), source.eval, who)
    faults.settle()
    return Prepared(source, names, frame, adopted)


def image_frame(recipe: Recipe, opened: tuple[Classifier, Origin] | None) -> Frame | None:
    """The recipe's size, else the pretrained teacher's, else the images' own."""
    side = recipe.source.image_size
    if opened is None:
        return None if side is None else Frame((side, side))
    return opened[0].frame if side is None else at_size(opened[0], side).frame


def first_size(source: Source) -> tuple[int, int]:
    """Height and width of the first image."""
    split = source.train or source.eval
    assert split is not None
    return split.size


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


def agree(own: tuple[str, ...], names: tuple[str, ...] | None, who: str, trust: bool) -> tuple[tuple[str, ...], bool]:
    """The class names on which a teacher (`own`) and the dataset (`names`; None: not opened) agree.

    Returns:
        the names, and whether the order is only assumed, since one side has numbers for names.

    Raises:
        UserError: where they contradict each other, with the first three differences.
    """
    if names is None:
        if classes.nameless(own):
            field = who.split("=")[0]
            raise UserError(
                f"{who}: it does not name its classes, and no split is opened that would; set {field}.class_names, or "
                "source.eval_split"
            )
        return classes.unique(own), False
    wrong = classes.contradiction(own, names, who, "the dataset")
    if wrong is None:
        return names, False
    if len(own) != len(names):
        raise UserError(wrong)
    if classes.nameless(names):
        return classes.unique(own), not trust
    if classes.nameless(own) or trust:
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
    score = mean_recall(predict(classifier.model, images.pixels, table).argmax(1), images.labels)
    if score < least:
        raise UserError(
            f"{who}: it recognises {score:.1%} of {len(rows)} eval images (mean over the classes); a teacher of these "
            f"classes in this order must reach {least:.1%}. It knows other classes, or in another order; {TRUST}"
        )


def mean_recall(answers: Tensor, labels: Tensor) -> float:
    """Mean, over the classes that occur, of the share of a class's images that are answered right."""
    right = labels[answers == labels].bincount(minlength=int(labels.max()) + 1)
    count = labels.bincount()
    return float((right[count > 0] / count[count > 0]).mean())


def require_same_data(run: Run, source: Source, class_names: tuple[str, ...]) -> None:
    """Refuse to go on with other data than the run began with: labels would be counted against other classes.

    Raises:
        UserError: saying what changed.
    """
    began = read_json(run.path("teacher", "metrics.json"))
    counts = began.get("class_images")  # not kept before version 0.2.0
    faults = []
    if source.class_names is not None and not classes.nameless(source.class_names):
        wrong = classes.contradiction(source.class_names, class_names, "the dataset", "this run")
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


def require_memory(source: Source, frame: Frame | None, trains: bool) -> None:
    """Compare what is decoded at once with the machine's memory.

    Raises:
        UserError: naming the splits' size and the knob.
    """
    needed = 0
    for split in (source.train if trains else None, source.eval):
        if split is not None:
            height, width = frame.size if frame else split.size
            needed += 3 * height * width * len(split.labels)
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise UserError(
            f"the images need {in_bytes(needed)} of memory, the machine has {in_bytes(there)}; lower "
            "source.image_size, or take fewer images"
        )


def require_disk(run: Run, num_classes: int, size: tuple[int, int], adopted: list[Adopted]) -> None:
    """Compare what the recipe will write with what is free there. PNGs of noise are as large as the pixels.

    Raises:
        UserError: naming the parts and the knobs.
    """
    relabel, count = run.recipe.relabel, num_classes * run.recipe.recover.ipc
    images = 2 * 3 * size[0] * size[1] * count  # shards, and the dataset's parquet
    labels = relabel.epochs * count * row_bytes(num_classes, relabel.augment.mix)
    weights = sum(4 * sum(p.numel() for p in each.classifier.model.parameters()) for each in adopted)
    folder = next(path for path in (run.folder, *run.folder.resolve().parents) if path.is_dir())
    there = sum(file.stat().st_size for file in run.folder.rglob("*") if file.is_file())
    free = shutil.disk_usage(folder).free
    if images + labels + weights - there > free:
        raise UserError(
            f"not enough disk: the recipe writes {in_bytes(images + labels + weights)} (images {in_bytes(images)}, "
            f"soft labels {in_bytes(labels)}, teachers {in_bytes(weights)}) to {run.folder}, where {in_bytes(free)} "
            "are free; free some, set run.root to another disk, or lower relabel.epochs or recover.ipc"
        )


def in_bytes(count: float) -> str:
    """'28.3 GiB'."""
    power = 0
    while count >= 1024 and power < len(UNITS) - 1:
        count, power = count / 1024, power + 1
    return f"{count:.{0 if power == 0 else 1}f} {UNITS[power]}"
