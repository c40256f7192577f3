"""A page about a condensed dataset to look at: one file, which opens from disk and fetches nothing.

    srel-hub report runs/quickstart
    srel-hub report my-name/srel-digits-ipc10 --out digits.html

Results with their baselines, images by class with crops and soft labels, pictures, sizes, recipe, provenance: of a
run, of a dataset's folder, or of a dataset on the Hub. Of a large one the page shows what MOST_BYTES has room for.
"""

import base64
import io
import mimetypes
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from torch import Tensor

from srel_hub import __version__
from srel_hub.config import Recipe, load_recipe
from srel_hub.config.resources import CARDS
from srel_hub.errors import UserError
from srel_hub.hub.repository import Store, open_store
from srel_hub.labels.dataset import Condensed
from srel_hub.labels.epochs import Epoch
from srel_hub.labels.load import load_condensed
from srel_hub.labels.manifest import MANIFEST
from srel_hub.reports.card import ROW_TITLES
from srel_hub.reports.plots import CAPTIONS, Caption
from srel_hub.stages.evaluate.summary import percent, student_title
from srel_hub.storage.condensed_table import thumbnail
from srel_hub.storage.files import format_bytes, read_json, write_text


MOST_BYTES = 8_000_000  # of images and views on the page
MOST_CLASSES, MOST_IMAGES = 100, 10
VIEWS = 3  # of an image: its crops in the first epochs
TOP = 5  # soft labels of a view
LARGEST_SIDE = 128  # pixels; larger images are made smaller
SMALLEST_SHARE = 0.001


@dataclass(frozen=True)
class Label:
    """A class and the teacher's probability for it, in [0, 1]."""

    name: str
    share: float


@dataclass(frozen=True)
class View:
    """What a student sees of an image in an epoch, as a data URI, with the largest soft labels."""

    image: str
    mixed_with: str | None
    labels: list[Label]


@dataclass(frozen=True)
class Shown:
    """A condensed image, as a data URI, with its row in the dataset."""

    image: str
    row: int
    views: list[View]


@dataclass(frozen=True)
class Bar:
    """A result: what a student was trained on, how many images, its top-1 in percent as text."""

    trained_on: str
    images: int
    top1: str

    @property
    def length(self) -> float:
        """The mean, in percent."""
        return float(self.top1.split()[0])


@dataclass(frozen=True)
class OfClass:
    """The images of a class that are on the page."""

    name: str
    images: list[Shown]


def report(path: str, revision: str | None = None) -> str:
    """The page about a run, a dataset's folder or a dataset on the Hub, as HTML.

    Raises:
        UserError: for a path that is none of these, and for what is not a whole dataset.
    """
    place = _dataset_of(path)
    condensed = load_condensed(place, revision=revision, epochs=VIEWS)
    store = open_store(place, "dataset", revision, MANIFEST)
    recipe = load_recipe(store.fetch("recipe.yaml"))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(CARDS),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["bytes"] = format_bytes
    return environment.get_template("report.html.jinja").render(facts(condensed, store, recipe, path))


def _dataset_of(path: str) -> str:
    folder = Path(path).expanduser()
    if (folder / "recipe.yaml").is_file() and (folder / "units").is_dir():
        if not (folder / "dataset" / MANIFEST).is_file():
            raise UserError(f"{path}: has no dataset yet; run condense on it first")
        return str(folder / "dataset")
    return path


def facts(condensed: Condensed, store: Store, recipe: Recipe, asked: str) -> dict[str, Any]:
    """What the page says."""
    manifest, summary = condensed.manifest, read_json(store.fetch("metrics.json"))
    classes = list(by_class(condensed))
    parts = {"images": "data/", "soft labels": "soft_labels/", "pictures": "assets/"}
    blobs = {name: store.blob(name) for name in store.names()}
    return {
        "recipe": recipe,
        "recipe_text": store.fetch("recipe.yaml").read_text(encoding="utf-8"),
        "title": recipe.source.title or recipe.source.path or recipe.name,
        "manifest": manifest,
        "asked": asked,
        "where": str(store),
        "results": results_of(summary, store),
        "classes": classes,
        "shown": sum(len(each.images) for each in classes),
        "pictures": list(_pictures(store)),
        "sizes": {
            part: sum(blob.size for name, blob in blobs.items() if blob is not None and name.startswith(prefix))
            for part, prefix in parts.items()
        },
        "version": __version__,
    }


def results_of(summary: Any, store: Store) -> list[tuple[str, list[Bar]]]:
    """Every student with its results; none where nothing was measured.

    Raises:
        UserError: for a metrics.json of another form.
    """
    try:
        return [
            (
                student_title(student),
                [
                    Bar(ROW_TITLES.get(row["row"], row["row"]), int(row["train_images"]), percent(row["top1"]))
                    for row in student["rows"]
                ],
            )
            for student in summary["students"]
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{store}: metrics.json is none of srel_hub's: {type(error).__name__} {error}") from None


def _pictures(store: Store) -> Iterator[tuple[str, str, Caption]]:
    """File, data URI and caption of those that are there."""
    there = set(store.names())
    for name, caption in CAPTIONS.items():
        if f"assets/{name}" in there:
            content = store.fetch(f"assets/{name}").read_bytes()
            yield name, _uri(content, str(mimetypes.guess_type(name)[0])), caption


def by_class(condensed: Condensed) -> Iterator[OfClass]:
    """Images by class with their views: as many classes and images as there is room for."""
    manifest, pixels = condensed.manifest, condensed.pixels
    epochs = [condensed[index] for index in range(min(VIEWS, manifest.epochs or VIEWS))]
    each = len(data_uri(pixels[0])) * (1 + len(epochs))
    room = max(1, MOST_BYTES // each)
    classes = min(manifest.num_classes, MOST_CLASSES, room)
    count = min(MOST_IMAGES, max(1, room // classes))
    for label in range(classes):
        rows = (condensed.labels == label).nonzero()[:count, 0]
        views = [_views(epoch, rows, condensed) for epoch in epochs]
        shown = [
            Shown(data_uri(pixels[row]), int(row), [view[place] for view in views]) for place, row in enumerate(rows)
        ]
        yield OfClass(manifest.class_names[label], shown)


def _views(epoch: Epoch, rows: Tensor, condensed: Condensed) -> list[View]:
    shown, names = epoch.render(rows), condensed.manifest.class_names
    shares = epoch.logits_of(rows, shown).float().softmax(1)
    partners = rows if epoch.views.partners is None else epoch.views.partners[rows].long()
    return [
        View(
            image=data_uri(image),
            mixed_with=None if partner == row else names[int(condensed.labels[partner])],
            labels=list(_labels(share, names)),
        )
        for row, partner, image, share in zip(rows, partners, shown, shares, strict=True)
    ]


def _labels(shares: Tensor, names: Sequence[str]) -> Iterator[Label]:
    """The largest of probabilities float32 [K]."""
    top = shares.topk(min(TOP, len(names)))
    for share, index in zip(top.values.tolist(), top.indices.tolist(), strict=True):
        if share >= SMALLEST_SHARE:
            yield Label(names[index], share)


def data_uri(image: Tensor) -> str:
    """uint8 [3, H, W] as a PNG, made smaller where it is larger than LARGEST_SIDE."""
    H, W = image.shape[1:]
    scale = min(1.0, LARGEST_SIDE / max(H, W))
    buffer = io.BytesIO()
    thumbnail(image, (max(1, round(H * scale)), max(1, round(W * scale)))).save(buffer, format="PNG")
    return _uri(buffer.getvalue(), "image/png")


def _uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def write_report(path: str, revision: str | None = None, out: Path | None = None) -> Path:
    """Write the page, by default to report.html in the run, or in the current folder for a dataset.

    Returns:
        the file.

    Raises:
        UserError: for a path without a whole dataset, and for an `out` in a folder that does not exist.
    """
    page = report(path, revision)
    file = out or (Path(path) / "report.html" if (Path(path) / "units").is_dir() else Path("report.html"))
    if not file.parent.is_dir():
        raise UserError(f"--out={file}: there is no folder {file.parent}")
    write_text(file, page)
    return file
