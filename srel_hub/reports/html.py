"""Write one HTML page about a condensed dataset; it opens from disk and loads nothing from the network.

    srel-hub report runs/quickstart
    srel-hub report my-name/srel-digits-ipc10 --out digits.html

The page shows results with their baselines, images by class with crops and soft labels, pictures, sizes, the recipe
and the provenance. The page can be written for a run, a dataset's folder or a dataset on the Hub. For a large dataset,
the page shows as many classes and images as fit into MOST_BYTES.
"""

import base64
import io
import mimetypes
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from torch import Tensor

from srel_hub import __version__
from srel_hub.config import Recipe, load_recipe
from srel_hub.config.places import expanded
from srel_hub.config.resources import CARDS
from srel_hub.errors import UserError
from srel_hub.hub.repository import Store, open_store
from srel_hub.labels.dataset import Condensed
from srel_hub.labels.epochs import Epoch
from srel_hub.labels.load import load_condensed
from srel_hub.labels.manifest import MANIFEST
from srel_hub.reports.card import given_facts, heading, row_titles
from srel_hub.reports.plots import CAPTIONS, Caption
from srel_hub.stages.evaluate.summary import percent, student_title
from srel_hub.storage.condensed_table import thumbnail
from srel_hub.storage.files import format_bytes, read_json, write_text


MOST_BYTES = 8_000_000  # of images and crops on the page; browsers open larger pages slowly
MOST_CLASSES, MOST_IMAGES = 100, 10  # on the page; images per class
CROPS = 3  # per image: its views in the first epochs
TOP = 5  # soft labels per crop
LARGEST_SIDE = 128  # pixels; larger images are shrunk
SMALLEST_SHARE = 0.001  # soft labels below 0.1 % are left out


@dataclass(frozen=True)
class Label:
    """A soft label: a class and the teacher's probability for it, in [0, 1]."""

    name: str
    share: float


@dataclass(frozen=True)
class Crop:
    """The view of an image that a student trains on in one epoch.

    Attributes:
        image: The pixels as a data URI.
        mixed_with: The class of the image that is mixed in, if any.
        labels: The largest soft labels.
    """

    image: str
    mixed_with: str | None
    labels: list[Label]


@dataclass(frozen=True)
class CondensedImage:
    """A condensed image as a data URI, with its row in the dataset and its crops."""

    image: str
    row: int
    crops: list[Crop]


@dataclass(frozen=True)
class ClassImages:
    """The images of one class that are on the page."""

    name: str
    images: list[CondensedImage]


@dataclass(frozen=True)
class Bar:
    """The result of a student on one training set.

    Attributes:
        trained_on: The title of the training set.
        images: Its number of images.
        top1: Accuracy in percent, such as '97.10 +- 0.32'.
    """

    trained_on: str
    images: int
    top1: str

    @property
    def length(self) -> float:
        """The mean accuracy in percent."""
        return float(self.top1.split()[0])


def report(path: str, revision: str | None = None) -> str:
    """Return an HTML page about a condensed dataset.

    Args:
        path: A run, a dataset's folder, or the id of a dataset on the Hub.
        revision: A branch, tag or commit on the Hub.

    Raises:
        UserError: If `path` is not a run or dataset, or the dataset is incomplete.
    """
    dataset = _dataset_of(path)
    condensed = load_condensed(dataset, revision=revision, epochs=CROPS)
    store = open_store(dataset, "dataset", revision, MANIFEST)
    recipe = load_recipe(store.fetch("recipe.yaml"))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(CARDS),
        autoescape=True,  # class names and captions come from other people's data
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["bytes"] = format_bytes
    return environment.get_template("report.html.jinja").render(page_facts(condensed, store, recipe, dataset))


def report_file(path: str) -> Path:
    """Return where the page is written by default: report.html in a run, or in the current folder for a dataset."""
    folder = expanded(path)
    return folder / "report.html" if (folder / "units").is_dir() else Path("report.html")


def write_report(path: str, revision: str | None, file: Path) -> None:
    """Write the page.

    Args:
        path: A run, a dataset's folder, or the id of a dataset on the Hub.
        revision: A branch, tag or commit on the Hub.
        file: The file to write.

    Raises:
        UserError: See `report`.
    """
    write_text(file, report(path, revision))


def _dataset_of(path: str) -> str:
    """Return the dataset's folder if `path` is a run, and `path` otherwise."""
    folder = expanded(path)
    if (folder / "recipe.yaml").is_file() and (folder / "units").is_dir():
        if not (folder / "dataset" / MANIFEST).is_file():
            raise UserError(f"{path}: this run has no dataset yet; run `srel-hub condense {path}` first")
        return str(folder / "dataset")
    return path


def page_facts(condensed: Condensed, store: Store, recipe: Recipe, dataset: str) -> dict[str, Any]:
    """Return the facts for the template, by their name in the template."""
    classes = list(images_by_class(condensed))
    parts = {"images": "data/", "soft labels": "soft_labels/", "pictures": "assets/"}
    blobs = {name: store.blob(name) for name in store.names()}
    title = recipe.source.title or recipe.source.path or recipe.name
    return {
        "recipe": recipe,
        "recipe_text": store.fetch("recipe.yaml").read_text(encoding="utf-8"),
        "title": title,
        "heading": heading(recipe, title),
        "given": given_facts(recipe),
        "manifest": condensed.manifest,
        "dataset": dataset,
        "store": str(store),
        "results": results_of(read_json(store.fetch("metrics.json")), row_titles(recipe), store),
        "classes": classes,
        "image_count": sum(len(of_class.images) for of_class in classes),
        "pictures": list(_pictures(store)),
        "sizes": {
            part: sum(blob.size for name, blob in blobs.items() if blob is not None and name.startswith(prefix))
            for part, prefix in parts.items()
        },
        "version": __version__,
    }


def results_of(summary: Any, titles: Mapping[str, str], store: Store) -> list[tuple[str, list[Bar]]]:
    """Return the title and the results of every student; empty if none were measured.

    Args:
        summary: The content of `metrics.json`.
        titles: The title of each training set.
        store: The folder or repository of the summary, for messages.

    Raises:
        UserError: If the summary is not in the form that srel_hub writes, as in a dataset made by another program.
    """
    try:
        return [
            (
                student_title(student),
                [
                    Bar(titles.get(row["row"], row["row"]), int(row["train_images"]), percent(row["top1"]))
                    for row in student["rows"]
                ],
            )
            for student in summary["students"]
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"{type(error).__name__} {error}"
        raise UserError(f"{store}: metrics.json is not in the form that srel_hub writes: {reason}") from None


def _pictures(store: Store) -> Iterator[tuple[str, str, Caption]]:
    """Yield file name, data URI and caption of each picture in the dataset."""
    names = set(store.names())
    for name, caption in CAPTIONS.items():
        if f"assets/{name}" in names:
            content = store.fetch(f"assets/{name}").read_bytes()
            yield name, _uri(content, str(mimetypes.guess_type(name)[0])), caption


def images_by_class(condensed: Condensed) -> Iterator[ClassImages]:
    """Yield images with their crops, class by class, as many as fit into MOST_BYTES."""
    manifest, pixels = condensed.manifest, condensed.pixels
    epochs = [condensed[index] for index in range(min(CROPS, manifest.epochs or CROPS))]
    # The first image stands for all: they have the same size in pixels and about the same in bytes.
    image_bytes = len(data_uri(pixels[0])) * (1 + len(epochs))
    room = max(1, MOST_BYTES // image_bytes)
    classes = min(manifest.num_classes, MOST_CLASSES, room)
    count = min(MOST_IMAGES, max(1, room // classes))
    for label in range(classes):
        rows = (condensed.labels == label).nonzero()[:count, 0]
        crops = [_crops(epoch, rows, condensed) for epoch in epochs]
        images = [
            CondensedImage(data_uri(pixels[row]), int(row), [of_epoch[index] for of_epoch in crops])
            for index, row in enumerate(rows)
        ]
        yield ClassImages(manifest.class_names[label], images)


def _crops(epoch: Epoch, rows: Tensor, condensed: Condensed) -> list[Crop]:
    """Return the crops of these rows in one epoch."""
    pixels, names = epoch.render(rows), condensed.manifest.class_names
    shares = epoch.logits_of(rows, pixels).float().softmax(1)
    # Without mixing, each image is its own partner.
    partners = rows if epoch.views.partners is None else epoch.views.partners[rows].long()
    return [
        Crop(
            image=data_uri(image),
            mixed_with=None if partner == row else names[int(condensed.labels[partner])],
            labels=list(_labels(share, names)),
        )
        for row, partner, image, share in zip(rows, partners, pixels, shares, strict=True)
    ]


def _labels(shares: Tensor, names: Sequence[str]) -> Iterator[Label]:
    """Yield the classes with the largest probabilities; `shares` is float32 [K]."""
    top = shares.topk(min(TOP, len(names)))
    for share, index in zip(top.values.tolist(), top.indices.tolist(), strict=True):
        if share >= SMALLEST_SHARE:
            yield Label(names[index], share)


def data_uri(image: Tensor) -> str:
    """Return an image uint8 [3, H, W] as a PNG in a data URI, shrunk to LARGEST_SIDE if it is larger."""
    H, W = image.shape[1:]
    scale = min(1.0, LARGEST_SIDE / max(H, W))
    buffer = io.BytesIO()
    thumbnail(image, (max(1, round(H * scale)), max(1, round(W * scale)))).save(buffer, format="PNG")
    return _uri(buffer.getvalue(), "image/png")


def _uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
