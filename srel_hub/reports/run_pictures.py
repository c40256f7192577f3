"""Draw the pictures of a run for its card: the images, how they were made, the teacher's features, the students.

    srel-hub pictures runs/quickstart

The pictures are written to `pictures/`. `condense` draws them before it assembles the dataset, and copies them to the
dataset's `assets/`. Drawing requires matplotlib and scikit-learn. Real images are shown only if the license of the
source allows it.
"""

import json
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from srel_hub.config import Recipe, fingerprint
from srel_hub.core.augment import normalize
from srel_hub.core.metrics import prediction_batch
from srel_hub.core.seeds import generator
from srel_hub.data.sources import Source, add_builtin_metadata, open_source
from srel_hub.data.splits import Images, Split, random_subset
from srel_hub.errors import UserError
from srel_hub.reports import plots
from srel_hub.runs.completion import Marks
from srel_hub.runs.decoded_images import condensed_images, source_images
from srel_hub.runs.run import Run
from srel_hub.stages.evaluate.summary import Training, student_title
from srel_hub.stages.recover.trace import History, read_history
from srel_hub.storage.condensed_table import encode_png
from srel_hub.storage.decode import Frame
from srel_hub.storage.files import atomic_write, read_json, total_bytes
from srel_hub.teachers import classifier as teacher
from srel_hub.teachers.class_subset import complete
from srel_hub.teachers.classifier import Classifier


SHOWABLE = (  # licenses, in the Hub's spelling, that let anybody show single images with a credit
    *("cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0"),
    *("pddl", "odc-by", "odbl", "cdla-permissive-1.0", "cdla-permissive-2.0", "cdla-sharing-1.0"),
    *("mit", "apache-2.0", "bsd", "bsd-2-clause", "bsd-3-clause", "unlicense"),
)
CLASSES = 10  # in any picture at most; more do not fit and have no distinct marks
REAL_POINTS, CONDENSED_POINTS = 40, 10  # images per class on the map of features
ROWS = 3  # of real and of condensed images, in the picture that compares them
SAMPLED = 500  # images whose PNG size is measured; the rest is extrapolated
NEEDED = ("matplotlib", "sklearn")

# Decodes these rows of a split, with the teacher's resizing, to uint8 images.
Read = Callable[[Split, Frame | None, Tensor], Images]


def can_draw() -> bool:
    """Return whether the libraries that draw the pictures are installed."""
    return all(find_spec(name) is not None for name in NEEDED)


def draw(run: Run, source: Source | None = None) -> Path | None:
    """Draw the pictures of a run, unless they already exist for the current results.

    Args:
        run: The run, with all stages up to evaluate complete.
        source: The real dataset; None: opened if a picture needs it.

    Returns:
        The folder of the pictures; None if the recipe sets `pictures: false` or a library is missing.

    Raises:
        UserError: If a stage is not complete.
    """
    if not run.recipe.pictures or not can_draw():
        return None
    for part, stage in (("images", "recover"), ("soft_labels", "relabel"), ("evaluate", "evaluate")):
        run.require(part, stage)  # type: ignore[arg-type]
    folder, unit = run.path("pictures"), drawing_of(run.recipe, run.marks)
    run.begin()
    if not run.is_done("pictures", unit):
        with run.locked("pictures"):
            # Another process may have drawn them while this one waited for the lock.
            if not run.is_done("pictures", unit):
                if source is None:
                    source = open_source(run.recipe.source, run.progress, run.recipe.opens_train)
                _draw_all(run, source, folder)
                run.marks.mark("pictures", unit, sorted(folder.iterdir()))
    return folder


def draw_and_print(run: Run) -> None:
    """Draw the pictures of a run, and print their titles.

    Raises:
        UserError: If the recipe sets `pictures: false`, or a library is missing.
    """
    if not can_draw():
        raise UserError(
            "the pictures need matplotlib and scikit-learn, and one of them is not installed; run pip install "
            "'srel_hub[viz]'"
        )
    if not run.recipe.pictures:
        raise UserError("pictures=false: the recipe skips pictures; pass pictures=true")
    folder = draw(run)
    if run.is_main and folder is not None:
        titles = [f"{file.name}: {plots.CAPTIONS[file.name].title}" for file in sorted(folder.iterdir())]
        print("\n".join([*titles, f"the pictures are in {folder}; condense puts them on the card"]))


def _draw_all(run: Run, source: Source, target: Path) -> None:
    with atomic_write(target) as temporary:
        temporary.mkdir()
        read = partial(source_images, run)
        album = Album(run.folder, run.recipe, run.device, source, condensed_images(run), read)
        for _ in run.progress(album.draw(temporary), None, "pictures", "picture"):
            pass


def drawing_of(recipe: Recipe, marks: Marks) -> str:
    """Return the name of the unit of work that draws the pictures of the current results."""
    keys = [fingerprint(section) for section in (recipe.squeeze, recipe.recover, recipe.relabel, recipe.evaluate)]
    license = add_builtin_metadata(recipe.source).license  # decides whether real images are shown
    results = [marks.digests("relabel", "manifest"), read_json(marks.folder / "evaluate" / "summary.json")]
    return f"pictures-{fingerprint([keys, license, results])[:16]}"


class Album:
    """All pictures of a run.

    Args:
        run_folder: The run directory.
        recipe: Its recipe.
        device: The device on which the teacher computes features.
        source: The real dataset.
        condensed: The condensed images, uint8.
        read: A function that decodes rows of a split of `source`.
    """

    def __init__(
        self, run_folder: Path, recipe: Recipe, device: torch.device, source: Source, condensed: Images, read: Read
    ) -> None:
        self._run_folder, self._recipe, self._device, self._read = run_folder, recipe, device, read
        self._train, self._real = source.train, source.train or source.eval
        self._classifier = teacher.load(run_folder / recipe.label_folder, device)
        self._condensed = condensed
        self._may_show = add_builtin_metadata(recipe.source).license in SHOWABLE
        self._names = self._classifier.class_names[:CLASSES]
        self._legend = plots.legend_of(hard=recipe.evaluate.loss == "hard")

    def draw(self, target: Path) -> Iterator[str]:
        """Draw every picture for which the run has data, in the folder `target`.

        Yields:
            The name of each file once it is written.
        """
        history = read_history(self._run_folder / "history")
        summary = read_json(self._run_folder / "evaluate" / "summary.json")
        if self._train is not None and self._may_show:
            yield self._draw_real(self._train, target)
        if history is not None:
            yield from self._draw_history(history, target)
        if self._real is not None and (name := self._draw_features(self._real, target)):
            yield name
        if summary["measured"]:
            yield self._draw_students(summary, target)
            yield self._draw_bytes(summary, target)

    def _draw_real(self, train: Split, target: Path) -> str:
        count = min(ROWS, self._recipe.recover.ipc, int(train.labels.bincount().min()))
        real = _by_class(self._sample(train, count), len(self._names), count)
        condensed = _by_class(self._condensed, len(self._names), count)
        plots.draw_real(real, condensed, self._names, target / plots.REAL_PICTURE)
        return plots.REAL_PICTURE

    def _draw_history(self, history: History, target: Path) -> Iterator[str]:
        plots.draw_terms(history.iterations, history.terms, target / "terms.png")
        yield "terms.png"
        frames = dict(history.frames)
        if self._recipe.recover.patches is not None and not self._may_show:
            del frames[0]  # patches are real images, unchanged before the first iteration
        plots.draw_recovery(frames, self._names, target / "recovery.png")
        yield "recovery.png"
        plots.animate(frames.values(), target / "recovery.gif")
        yield "recovery.gif"

    def _draw_features(self, split: Split, target: Path) -> str | None:
        """Draw t-SNE (van der Maaten and Hinton, 2008) of real and condensed images together (SRe2L, Appendix C)."""
        if not bool((split.labels < len(self._names)).any()):
            return None  # a small eval split may have no image of the classes shown
        real = self._sample(split, REAL_POINTS)
        condensed = _first(self._condensed, len(self._names), CONDENSED_POINTS)
        real_features = features(self._classifier, real.pixels, self._device)
        condensed_features = features(self._classifier, condensed.pixels, self._device)
        if real_features is None or condensed_features is None:
            return None
        # One map for both: separate maps of t-SNE have unrelated axes.
        positions = tsne(torch.cat([real_features, condensed_features]))
        dots, marks = positions.split([len(real.labels), len(condensed.labels)])
        plots.draw_features(dots, real.labels, marks, condensed.labels, self._names, target / "features.png")
        return "features.png"

    def _sample(self, split: Split, count: int) -> Images:
        """Return `count` random real images of each class shown."""
        draw = generator(self._recipe.seed, "pictures")
        rows = random_subset(split.labels, count, len(self._names), draw)
        return self._read(split, self._classifier.frame, rows)

    def _draw_students(self, summary: dict[str, Any], target: Path) -> str:
        curves: dict[str, dict[str, Tensor]] = {}
        for student, results in zip(self._recipe.evaluate.students, summary["students"], strict=True):
            rows = curves.setdefault(student_title(results), {})
            for row in results["rows"]:
                names = [Training(student, row["row"], seed).name for seed in range(row["n"])]
                losses = [_losses(self._run_folder / "evaluate" / name) for name in names]
                rows[self._legend[row["row"]]] = torch.tensor(losses)
        plots.draw_students(curves, target / "students.png")
        return "students.png"

    def _draw_bytes(self, summary: dict[str, Any], target: Path) -> str:
        images = {"condensed": png_bytes(self._condensed.pixels)}
        if self._train is not None:
            images["random-real"] = png_bytes(self._random_real(self._train).pixels)
        hard = self._recipe.evaluate.loss == "hard"
        labels = 0 if hard else total_bytes(self._run_folder / "soft_labels")
        points = [
            plots.Point(
                student=student_title(student),
                trained_on=self._legend[row["row"]],
                size=images[kind] + (0 if row["row"].endswith("hard") else labels),
                mean=row["top1"]["mean"],
                std=row["top1"]["std"],
            )
            for student in summary["students"]
            for row in student["rows"]
            if (kind := row["row"].removesuffix("-hard")) in images
        ]
        plots.draw_bytes(points, target / "bytes.png")
        return "bytes.png"

    def _random_real(self, train: Split) -> Images:
        """Return the random real images that evaluate draws for seed 0."""
        draw = generator(self._recipe.seed, "evaluate", "random-real", 0)
        rows = random_subset(train.labels, self._recipe.recover.ipc, len(self._classifier.class_names), draw)
        return self._read(train, self._classifier.frame, rows)


def _first(images: Images, classes: int, count: int) -> Images:
    """Return the first `count` images of each of the first classes."""
    rows = torch.cat([(images.labels == label).nonzero()[:count, 0] for label in range(classes)])
    return Images(images.pixels[rows], images.labels[rows])


def _by_class(images: Images, classes: int, count: int) -> Tensor:
    """Return uint8 [classes, count, 3, H, W]: the first `count` images of each of the first classes."""
    pixels = _first(images, classes, count).pixels
    return pixels.view(classes, count, *pixels.shape[1:])


def _losses(folder: Path) -> list[float]:
    """Return the loss of each epoch of a training."""
    return [json.loads(line)["loss"] for line in (folder / "curve.jsonl").read_text(encoding="utf-8").splitlines()]


def png_bytes(pixels: Tensor) -> int:
    """Return the size of images uint8 [N, 3, H, W] as PNG files; an estimate if there are more than SAMPLED."""
    sample = pixels[:: -(-len(pixels) // SAMPLED)]
    return round(sum(len(encode_png(image)) for image in sample) * len(pixels) / len(sample))


@torch.no_grad()
def features(classifier: Classifier, pixels: Tensor, device: torch.device) -> Tensor | None:
    """Compute the inputs of the network's last linear layer.

    Args:
        classifier: The teacher.
        pixels: Images uint8 [N, 3, H, W].
        device: The device to compute on.

    Returns:
        float32 [N, D] on the CPU; None if no linear layer has as many outputs as there are classes.
    """
    linear = [module for module in classifier.model.modules() if isinstance(module, nn.Linear)]
    heads = [module for module in linear if module.out_features == len(complete(classifier).class_names)]
    if not heads:
        return None
    inputs: list[Tensor] = []
    table = classifier.table(device)
    with heads[-1].register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0].flatten(1))):
        for part in pixels.split(prediction_batch((pixels.shape[2], pixels.shape[3]))):
            classifier.model(normalize(part.to(device), table))
    return torch.cat(inputs).float().cpu()


def tsne(points: Tensor) -> Tensor:
    """Return float32 [N, 2], a t-SNE map of points [N, D]; equal in every call with the same points."""
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    perplexity = min(30.0, (len(points) - 1) / 3)  # TSNE refuses a perplexity of N or more
    # With several threads the order of sums, and with it the map, depends on the machine.
    with threadpool_limits(1):
        positions = TSNE(init="pca", perplexity=perplexity, random_state=0).fit_transform(points.numpy())
    return torch.from_numpy(positions)
