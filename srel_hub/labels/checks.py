"""The checks of a verification: each takes the dataset, and returns a description or raises a UserError."""

import math

import datasets
import torch
from tqdm import tqdm

from srel_hub.core.metrics import BETTER_THAN_CHANCE, predictions
from srel_hub.errors import UserError
from srel_hub.hub.repository import Repository, Store, front_matter
from srel_hub.labels.dataset import Condensed, require_class_names
from srel_hub.labels.manifest import MANIFEST, Manifest
from srel_hub.labels.reader import SoftLabels
from srel_hub.labels.repository_files import data_files, label_file_path
from srel_hub.storage.condensed_table import image_table_sha256, table_features
from srel_hub.storage.files import format_bytes, sha256
from srel_hub.teachers.class_subset import class_columns, complete


ACCURACY_MARGIN = 0.01  # below the manifest's accuracy; another device rounds otherwise
UNLIKELY = 0.01  # probability below which an accuracy is not chance
KNOWN_FILES = ("README.md", ".gitattributes", "LICENSE", "LICENSE.md", "LICENSE.txt", MANIFEST)
MOST_PROBLEMS = 5  # that one line lists
LOGITS_PER_STEP = 10_000_000  # that are in memory at once: 40 MB of float32


class Subject:
    """The dataset to verify.

    Args:
        store: Its folder or repository.
        manifest: Its manifest.
        fast: Whether to skip the checks that download labels.
    """

    def __init__(self, store: Store, manifest: Manifest, fast: bool) -> None:
        self.store, self.manifest, self.fast = store, manifest, fast
        self.condensed = Condensed(store, manifest, max(1, manifest.epochs))
        self.labels = SoftLabels(manifest, lambda name: label_file_path(store, name))


def check_files(subject: Subject) -> str:
    """Check the size of every file in the manifest, and its sha256 unless that would mean downloading labels."""
    expected = {file.name: (file.bytes, file.sha256) for file in subject.manifest.others}
    expected |= {f"soft_labels/{file.name}": (file.bytes, file.sha256) for file in subject.manifest.files}
    problems = []
    for name, (size, digest) in expected.items():
        blob = subject.store.blob(name)
        if blob is None:
            problems.append(f"{name} is missing")
        elif blob.size != size:
            problems.append(f"{name} has {blob.size} bytes, but the manifest says {size}")
        elif (blob.digest if len(blob.digest) == 64 else _digest(subject, name, digest)) != digest:
            problems.append(f"the sha256 of {name} differs from the manifest's")
    listed = {*expected, *KNOWN_FILES}
    unlisted = [name for name in subject.store.names() if name not in listed]
    # load_dataset reads any file in data/, so one that the manifest does not list would add images.
    loaded = [name for name in unlisted if name.startswith(("data/", "soft_labels/"))]
    problems += [f"{name} is not listed in the manifest" for name in loaded]
    if problems:
        rest = len(problems) - MOST_PROBLEMS
        raise UserError("; ".join(problems[:MOST_PROBLEMS]) + (f"; and {rest} more" if rest > 0 else ""))
    foreign = [name for name in unlisted if name not in loaded]
    note = f"; not listed in the manifest: {', '.join(foreign[:MOST_PROBLEMS])}" if foreign else ""
    return f"{len(expected)}, {format_bytes(sum(size for size, _ in expected.values()))}{note}"


def _digest(subject: Subject, name: str, expected: str) -> str:
    """Return the sha256 of a file. A label file on the Hub is not downloaded; its digest is checked on first use."""
    is_costly = isinstance(subject.store, Repository) and name.startswith("soft_labels/")
    return expected if is_costly else sha256(subject.store.fetch(name))


def check_card(subject: Subject) -> str:
    """Check that the card's metadata makes `load_dataset` load these images and no others."""
    metadata = front_matter(subject.store)
    if not isinstance(metadata, dict):
        raise UserError("the metadata of README.md is not a mapping")
    configs = [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*"}]}]
    if metadata.get("configs") != configs:
        raise UserError(f"README.md: configs is {str(metadata.get('configs'))[:200]}; it must be {configs}")
    info = metadata.get("dataset_info")
    splits = info.get("splits") if isinstance(info, dict) else None
    counts = [(split.get("name"), split.get("num_examples")) for split in splits or [] if isinstance(split, dict)]
    if counts != [("train", subject.manifest.num_images)]:
        raise UserError(
            f"README.md: dataset_info counts {counts}, but the manifest has {subject.manifest.num_images} images"
        )
    features = datasets.Features._from_yaml_list(info.get("features") or []) if isinstance(info, dict) else None
    if features != table_features(subject.manifest.class_names):
        raise UserError(
            f"README.md: dataset_info has the features {str(features)[:200]}; it must have an image and its class"
        )
    return f"license {str(metadata.get('license'))[:100]}, {subject.manifest.num_images} examples"


def check_images(subject: Subject) -> str:
    """Check that rows, sizes and classes match the manifest, and that the pixels are those that were labeled."""
    labels, pixels = subject.condensed.labels, subject.condensed.pixels
    if image_table_sha256(pixels, labels) != subject.manifest.image_table_sha256:
        raise UserError("the images or classes are not those that were labeled (the sha256 of the image table differs)")
    height, width = subject.manifest.image_size
    shards = len(data_files(subject.store, subject.manifest))
    return f"{len(labels)} of {width} x {height} pixels in {shards} file{'s' if shards > 1 else ''}, as labeled"


def check_class_names(subject: Subject) -> str:
    """Check that the dataset, the manifest and the teacher have the same class names in the same order."""
    subject.condensed.require_rows()
    names = subject.condensed.classifier.class_names
    require_class_names("the teacher", names, subject.manifest)
    return f"{len(names)}, equal in dataset, manifest and teacher"


def check_soft_labels(subject: Subject) -> str | None:
    """Check the sha256 of every label file, the ranges of crops, partners and order, and that logits are finite."""
    if subject.fast:
        return None
    subject.condensed.require_rows()
    epochs, N = subject.manifest.epochs, subject.manifest.num_images
    if epochs == 0:
        return "none are stored: the teacher computes labels during training"
    step = max(1, LOGITS_PER_STEP // subject.manifest.num_classes)
    for epoch in tqdm(range(epochs), "soft labels", unit="epoch", dynamic_ncols=True, leave=False):
        subject.labels.views(epoch)
        subject.labels.order(epoch)
        for start in range(0, N, step):
            rows = torch.arange(start, min(start + step, N))
            logits = subject.labels.logits(epoch, rows)
            if not logits.isfinite().all():
                row = int(rows[(~logits.isfinite().all(1)).nonzero()[0, 0]])
                raise UserError(f"epoch {epoch}: the logits of image {row} are not finite")
    return "every file matches the manifest; crops, partners and order are in range; all logits are finite"


def check_teacher(subject: Subject) -> str:
    """Check that the teacher's sha256 and the settings of its image processor match the manifest."""
    classifier, manifest = subject.condensed.classifier, subject.manifest
    for name, expected, value in (
        ("mean", manifest.mean, classifier.mean),
        ("std", manifest.std, classifier.std),
        ("image size", manifest.image_size, classifier.size),
    ):
        if tuple(expected) != tuple(value):
            raise UserError(
                f"{name} is {list(value)} in the teacher's image processor, but {list(expected)} in the manifest"
            )
    network = complete(classifier).model
    if class_columns(classifier) != manifest.teacher.columns:
        raise UserError("the teacher's config.json selects other classes of the network than the manifest")
    parameters = sum(parameter.numel() for parameter in network.parameters())
    members = len(subject.condensed.classifiers) - 1  # whose digests were compared as they were loaded
    committee = f", and a committee of {members} more" if members else ""
    title = f"{type(network).__name__} with {parameters:,} parameters"
    if manifest.teacher.num_classes is not None:
        title += f", {manifest.num_classes} of its {manifest.teacher.num_classes} classes"
    return f"{title}{committee}, sha256 as in the manifest"


def check_accuracy(subject: Subject) -> str:
    """Check that the teacher's accuracy on the stored images matches the manifest, and is not below chance.

    An accuracy near chance that the manifest itself states is a note: a small or hardly trained set is no fake.
    """
    classifier, condensed, device = subject.condensed.classifier, subject.condensed, fastest_device()
    predicted = []
    for logits in predictions(classifier.model.to(device), condensed.pixels, classifier.table(device)):
        if not logits.isfinite().all():
            raise UserError("the teacher's logits on the stored images are not finite")
        predicted.append(logits.argmax(1))
    hits = int((torch.cat(predicted) == condensed.labels).sum())
    accuracy, classes = hits / len(condensed.labels), subject.manifest.num_classes
    claimed, chance = subject.manifest.teacher.accuracy, 1 / classes
    if accuracy < claimed - ACCURACY_MARGIN:
        raise UserError(
            f"the teacher's accuracy on the stored images is {accuracy:.1%}, but the manifest says {claimed:.1%}"
        )
    if is_below_chance(hits, len(condensed.labels), classes):
        raise UserError(
            f"the teacher's accuracy on the stored images is {accuracy:.1%}, less than that of guessing "
            f"({chance:.1%}), so the images have the classes of other images"
        )
    note = ""
    if accuracy <= chance + BETTER_THAN_CHANCE * (1 - chance):
        note = f"; note: this is near that of guessing ({chance:.1%}), so the images show little of their classes"
    return f"the teacher's accuracy on the stored images is {accuracy:.1%} (manifest: {claimed:.1%}){note}"


def is_below_chance(hits: int, count: int, num_classes: int) -> bool:
    """Return whether so few correct predictions are less likely than UNLIKELY if the classes were guessed.

    Images are optimized toward their class, so even those of a useless teacher are not below chance. Images whose
    classes were exchanged are. The bound exp(-N KL(hits / N || 1 / K)) is Chernoff's, so fewer than about 5 K images
    never count as below chance.
    """
    accuracy, chance = hits / count, 1 / num_classes
    if accuracy >= chance:
        return False
    divergence = (1 - accuracy) * math.log((1 - accuracy) / (1 - chance))
    divergence += accuracy * math.log(accuracy / chance) if hits else 0.0
    return math.exp(-count * divergence) < UNLIKELY


def fastest_device() -> torch.device:
    """Return the GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
