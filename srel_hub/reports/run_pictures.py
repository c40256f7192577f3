"""Pictures of a run for its card: images, how they came about, how the teacher sees them, what students make of them.

    srel-hub pictures runs/quickstart

Leaves `pictures/`; `condense` draws them before it assembles the dataset, whose `assets/` get them. They need
matplotlib and scikit-learn. Real images are shown only where the source's license allows to show them (SHOWABLE).
"""

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from srel_hub.config import fingerprint
from srel_hub.core.augment import normalize
from srel_hub.core.metrics import prediction_batch
from srel_hub.core.seeds import generator
from srel_hub.data.sources import Source, add_builtin_metadata, open_source
from srel_hub.data.splits import Images, Split, random_subset
from srel_hub.reports import plots as figures
from srel_hub.runs.decoded_images import condensed_images, source_images
from srel_hub.runs.run import Run
from srel_hub.stages.evaluate.summary import Training, student_title
from srel_hub.stages.recover.trace import History, read_history
from srel_hub.storage.condensed_table import encode_png
from srel_hub.storage.files import atomic_write, read_json, total_bytes
from srel_hub.teachers import classifier as teacher
from srel_hub.teachers.classifier import Classifier


SHOWABLE = (  # licenses, in the Hub's spelling, that let anybody show single images with a credit
    *("cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0"),
    *("pddl", "odc-by", "odbl", "cdla-permissive-1.0", "cdla-permissive-2.0", "cdla-sharing-1.0"),
    *("mit", "apache-2.0", "bsd", "bsd-2-clause", "bsd-3-clause", "unlicense"),
)
CLASSES = 10  # at most, in any picture
REAL_POINTS, CONDENSED_POINTS = 40, 10  # of a class, on the map of features
ROWS = 3  # of real and of condensed images, side by side
SAMPLED = 500  # images whose bytes are counted
NEEDED = ("matplotlib", "sklearn")


def can_draw() -> bool:
    return all(find_spec(name) is not None for name in NEEDED)


def draw(run: Run, source: Source | None = None) -> Path | None:
    """Draw what is not drawn yet from what the stages left.

    Returns:
        the folder of pictures; None where the recipe wants none, or the libraries are missing.

    Raises:
        UserError: where a stage has not run yet.
    """
    if not run.recipe.pictures or not can_draw():
        return None
    for part, stage in (("images", "recover"), ("soft_labels", "relabel"), ("evaluate", "evaluate")):
        run.require(part, stage)  # type: ignore[arg-type]
    folder, unit = run.path("pictures"), drawing_of(run)
    run.begin()
    if not run.is_done("pictures", unit):
        with run.locked("pictures"):
            if not run.is_done("pictures", unit):
                if source is None:
                    source = open_source(run.recipe.source, run.progress, run.recipe.opens_train)
                with atomic_write(folder) as temporary:
                    temporary.mkdir()
                    made = Album(run, source, temporary).draw()
                    for _ in run.progress(made, None, "pictures", "picture"):
                        pass
                run.marks.mark("pictures", unit, sorted(folder.iterdir()))
    return folder


def drawing_of(run: Run) -> str:
    """The name of the pictures of these results."""
    keys = [run.stage_key(stage) for stage in ("squeeze", "recover", "relabel", "evaluate")]
    told = add_builtin_metadata(run.recipe.source)
    results = [run.marks.digests("relabel", "manifest"), read_json(run.path("evaluate", "summary.json"))]
    return f"pictures-{fingerprint([keys, told.license, results])[:16]}"


class Album:
    """The pictures of a run.

    Args:
        folder: where they go.
    """

    def __init__(self, run: Run, source: Source, folder: Path) -> None:
        self._run, self._recipe, self._folder = run, run.recipe, folder
        self._train, self._real = source.train, source.train or source.eval
        self._classifier = teacher.load(run.path(run.recipe.label_folder), run.device)
        self._condensed = condensed_images(run)
        self._may_show = add_builtin_metadata(run.recipe.source).license in SHOWABLE
        self._names = self._classifier.class_names[:CLASSES]

    def draw(self) -> Iterator[str]:
        """Draw those that this run has numbers for; gives each file's name when it is there."""
        way, summary = read_history(self._run.path("history")), self._summary
        if self._train is not None and self._may_show:
            yield self._draw_real(self._train)
        if way is not None:
            yield from self._draw_way(way)
        if self._real is not None and (drawn := self._draw_features(self._real)):
            yield drawn
        if summary["measured"]:
            yield self._draw_students(summary)
            yield self._draw_bytes(summary)

    @property
    def _summary(self) -> dict[str, Any]:
        return read_json(self._run.path("evaluate", "summary.json"))  # type: ignore[no-any-return]

    def _draw_real(self, train: Split) -> str:
        count = min(ROWS, self._recipe.recover.ipc, int(train.labels.bincount().min()))
        real, made = (_by_class(each, len(self._names), count) for each in (self._some(train, count), self._condensed))
        figures.draw_real(real, made, self._names, self._folder / "real.png")
        return "real.png"

    def _draw_way(self, way: History) -> Iterator[str]:
        figures.draw_terms(way.iterations, way.terms, self._folder / "terms.png")
        yield "terms.png"
        frames = dict(way.frames)
        if self._recipe.recover.patches is not None and not self._may_show:
            del frames[0]  # real images as they are
        figures.draw_recovery(frames, self._names, self._folder / "recovery.png")
        yield "recovery.png"
        figures.animate(frames.values(), self._folder / "recovery.gif")
        yield "recovery.gif"

    def _draw_features(self, split: Split) -> str | None:
        """t-SNE (van der Maaten and Hinton, 2008) of real and condensed images together (SRe2L, Appendix C)."""
        if not bool((split.labels < len(self._names)).any()):
            return None  # a small eval split may have none of the classes shown
        shown = [self._some(split, REAL_POINTS), _first(self._condensed, len(self._names), CONDENSED_POINTS)]
        found = [features(self._classifier, images.pixels, self._run.device) for images in shown]
        if found[0] is None or found[1] is None:
            return None
        places = tsne(torch.cat([found[0], found[1]])).split([len(images.labels) for images in shown])
        labels = [images.labels for images in shown]
        figures.draw_features(*(places[0], labels[0], places[1], labels[1]), self._names, self._folder / "features.png")
        return "features.png"

    def _some(self, split: Split, count: int) -> Images:
        """So many random real images of each of the classes shown."""
        draw = generator(self._recipe.seed, "pictures")
        rows = random_subset(split.labels, count, len(self._names), draw)
        return source_images(self._run, split, self._classifier.frame, rows)

    def _draw_students(self, summary: dict[str, Any]) -> str:
        curves: dict[str, dict[str, Tensor]] = {}
        for student, told in zip(self._recipe.evaluate.students, summary["students"], strict=True):
            rows = curves.setdefault(student_title(told), {})
            for row in told["rows"]:
                names = [Training(student, row["row"], seed).name for seed in range(row["n"])]
                rows[row["row"]] = torch.tensor([_losses(self._run.path("evaluate", name)) for name in names])
        figures.draw_students(curves, self._folder / "students.png")
        return "students.png"

    def _draw_bytes(self, summary: dict[str, Any]) -> str:
        images = {"condensed": png_bytes(self._condensed.pixels)}
        if self._train is not None:
            draw = generator(self._recipe.seed, "evaluate", "random-real", 0)
            classes = len(self._classifier.class_names)
            rows = random_subset(self._train.labels, self._recipe.recover.ipc, classes, draw)
            images["random-real"] = png_bytes(
                source_images(self._run, self._train, self._classifier.frame, rows).pixels
            )
        labels = total_bytes(self._run.path("soft_labels"))
        points = [
            figures.Point(
                student_title(student),
                row["row"],
                images[kind] + (0 if row["row"].endswith("hard") else labels),
                row["top1"]["mean"],
                row["top1"]["std"],
            )
            for student in summary["students"]
            for row in student["rows"]
            if (kind := row["row"].removesuffix("-hard")) in images
        ]
        figures.draw_bytes(points, self._folder / "bytes.png")
        return "bytes.png"


def _first(images: Images, classes: int, count: int) -> Images:
    """The first so many images of each of the first classes."""
    rows = torch.cat([(images.labels == label).nonzero()[:count, 0] for label in range(classes)])
    return Images(images.pixels[rows], images.labels[rows])


def _by_class(images: Images, classes: int, count: int) -> Tensor:
    """uint8 [classes, count, 3, H, W]: the first so many images of each of the first classes."""
    pixels = _first(images, classes, count).pixels
    return pixels.view(classes, count, *pixels.shape[1:])


def _losses(folder: Path) -> list[float]:
    """A training's loss, epoch by epoch."""
    return [json.loads(line)["loss"] for line in (folder / "curve.jsonl").read_text(encoding="utf-8").splitlines()]


def png_bytes(pixels: Tensor) -> int:
    """Of images uint8 [N, 3, H, W] as PNG files; of many, from a sample of them."""
    sample = pixels[:: -(-len(pixels) // SAMPLED)]
    return round(sum(len(encode_png(image)) for image in sample) * len(pixels) / len(sample))


@torch.no_grad()
def features(classifier: Classifier, pixels: Tensor, device: torch.device) -> Tensor | None:
    """float32 [N, D]: what enters the network's last linear layer; None for a network that has none of its classes."""
    linear = [module for module in classifier.model.modules() if isinstance(module, nn.Linear)]
    heads = [module for module in linear if module.out_features == len(classifier.class_names)]
    if not heads:
        return None
    seen: list[Tensor] = []
    table = classifier.table(device)
    with heads[-1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].flatten(1))):
        for part in pixels.split(prediction_batch((pixels.shape[2], pixels.shape[3]))):
            classifier.model(normalize(part.to(device), table))
    return torch.cat(seen).float().cpu()


def tsne(points: Tensor) -> Tensor:
    """float32 [N, 2] of points [N, D]; the same on each call, whatever the machine's threads."""
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    perplexity = min(30.0, (len(points) - 1) / 3)
    with threadpool_limits(1):
        made = TSNE(init="pca", perplexity=perplexity, random_state=0).fit_transform(points.numpy())
    return torch.from_numpy(made)
