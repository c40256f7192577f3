"""Draw the pictures of a run: each function takes numbers or images and writes one file.

`run_pictures` collects the numbers from a run directory.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from srel_hub.reports import plot_style
from srel_hub.storage.condensed_table import thumbnail
from srel_hub.storage.files import atomic_write


LONGEST_NAME = 14  # letters of a class name; longer ones overlap their neighbors
FRAME_MS, LAST_FRAME_MS = 180, 1500
GAP = 2  # white pixels between the images of an animation


@dataclass(frozen=True)
class Caption:
    """The text of a picture on a card or page.

    Attributes:
        title: The heading.
        alt: A description of the picture for readers who cannot see it.
        reading: How to read the picture.
    """

    title: str
    alt: str
    reading: str


REAL_PICTURE = "real.png"  # shows images of the source unchanged, so not every license allows it
CAPTIONS = {  # by file name, in the order in which a card shows them
    REAL_PICTURE: Caption(
        "Real and condensed images",
        "Real images of each class in the upper rows, condensed images in the lower rows",
        "The real images are drawn at random from the training split. Condensed images are made to train networks, "
        "not to be looked at: they show the colors and textures of a class, but rarely its outlines.",
    ),
    "recovery.gif": Caption(
        "How the images are made",
        "Animation: the first condensed image of each class, from the start to the last iteration of recover",
        "The first image of each class while its pixels are optimized.",
    ),
    "recovery.png": Caption(
        "Images at different iterations",
        "The first condensed image of several classes, one class per row, after an increasing number of iterations",
        "The number above each column is the number of iterations.",
    ),
    "terms.png": Caption(
        "Loss terms",
        "Curves of the cross-entropy and of the BatchNorm term over the iterations of recover",
        "The line is the mean over all images and the band is the range over units of work. When the cross-entropy is "
        "near 0, the teacher recognizes the images. The BatchNorm term measures how far their statistics are from "
        "those of real images. Both terms are computed on the current crops, so they rise under a curriculum, which "
        "makes the crops smaller.",
    ),
    "features.png": Caption(
        "Features of the teacher",
        "Map of the teacher's features: real images as dots, condensed images as large markers, one color per class",
        "t-SNE of the inputs of the teacher's last layer. To the teacher, condensed images that are placed among the "
        "real images of their class look like them. Distances between groups mean little.",
    ),
    "students.png": Caption(
        "Training loss of the students",
        "Curves of the students' training loss over their epochs, one line per training set",
        "Each line is the mean over seeds. Losses with soft labels and with hard labels are different quantities, so "
        "compare the shapes of the curves, not their heights. A lower curve does not mean a better student, because "
        "some training sets are easier to fit than others.",
    ),
    "bytes.png": Caption(
        "Accuracy and size",
        "Accuracy of the students over the size of their training sets in bytes, with the spread over seeds",
        "The size is that of the images as PNG and of the labels. Up and to the left is better.",
    ),
}


def legend_of(hard: bool) -> dict[str, str]:
    """Return short titles for legends, by training set.

    Args:
        hard: Whether evaluate uses hard labels only.
    """
    labels = "hard labels" if hard else "soft labels"
    return {
        "condensed": "condensed",
        "random-real": f"random real, {labels}",
        "random-real-hard": "random real, hard labels",
        "condensed-hard": "condensed, hard labels",
        "real-hard": "all real, hard labels",
        "condensed-whole": "condensed, not augmented",
        "random-real-whole": "random real, not augmented",
    }


def short_name(name: str) -> str:
    """Return a class name that fits beside a picture: its first synonym, cut to LONGEST_NAME letters."""
    first = name.split(",")[0]  # ImageNet's names are lists of synonyms
    return first if len(first) <= LONGEST_NAME else f"{first[: LONGEST_NAME - 1]}…"


def draw_terms(iterations: Sequence[int], terms: Mapping[str, Tensor], file: Path) -> None:
    """Plot loss terms over the iterations of recover, one panel per term.

    Args:
        iterations: Iterations [M] at which the terms were recorded.
        terms: float32 [U, M] by name ('cross_entropy', 'bn'): for each of U units of work, the mean over its images.
        file: Where to write the picture.
    """
    titles = {"cross_entropy": "cross-entropy", "bn": "BatchNorm term"}
    with plot_style.panels(file, 1, len(terms), 3.6, 2.7) as panels:
        for panel, (name, values), color in zip(panels[0], terms.items(), plot_style.COLORS, strict=False):
            panel.plot(iterations, values.mean(0), color=color)
            panel.fill_between(iterations, values.amin(0), values.amax(0), color=color, alpha=0.2, linewidth=0)
            panel.set(xlabel="iteration")
            plot_style.log_ticks(panel.yaxis)
            panel.set_title(titles[name])


def draw_recovery(frames: Mapping[int, Tensor], names: Sequence[str], file: Path, rows: int = 5, most: int = 8) -> None:
    """Draw images at several iterations of recover, one class per row and one iteration per column.

    Args:
        frames: Images uint8 [n, 3, H, W] of n classes, by iteration.
        names: Class names, at least n.
        file: Where to write the picture.
        rows: Classes to draw at most.
        most: Moments to draw at most. They are spread evenly over the frames and include the first and the last.
    """
    moments = list(frames)
    if len(moments) > most:
        moments = [moments[round(k * (len(moments) - 1) / (most - 1))] for k in range(most)]
    rows = min(rows, len(next(iter(frames.values()))))
    cells = [[frames[moment][row] for moment in moments] for row in range(rows)]
    _sheet(cells, [f"{moment:,}" for moment in moments], names[:rows], file)


def draw_real(real: Tensor, condensed: Tensor, names: Sequence[str], file: Path) -> None:
    """Draw real images above condensed ones, one class per column.

    Args:
        real: Images uint8 [classes, n, 3, H, W].
        condensed: Condensed images uint8 [classes, n, 3, H, W].
        names: Class names, at least as many as classes.
        file: Where to write the picture.
    """
    cells = [[*images] for kind in (real, condensed) for images in kind.transpose(0, 1)]
    rows = ["" if row else kind for kind in ("real", "condensed") for row in range(real.shape[1])]
    _sheet(cells, names, rows, file)


def _sheet(cells: Sequence[Sequence[Tensor]], columns: Sequence[str], rows: Sequence[str], file: Path) -> None:
    """Draw a grid of images with a name above each column and beside each row."""
    with plot_style.panels(file, len(cells), len(cells[0]), 0.9, 0.9) as panels:
        for row, images in enumerate(cells):
            for column, image in enumerate(images):
                panel = panels[row][column]
                panel.imshow(image.permute(1, 2, 0).numpy(), interpolation="nearest")
                panel.set(xticks=[], yticks=[])
                panel.spines[:].set_visible(False)
                panel.grid(False)
                if row == 0:
                    panel.set_title(short_name(columns[column]), loc="center", fontsize=7)
                if column == 0:
                    panel.set_ylabel(short_name(rows[row]), fontsize=7)


def animate(frames: Iterable[Tensor], file: Path) -> None:
    """Write a GIF whose frames show images uint8 [n, 3, H, W] side by side.

    The images are 64 pixels high, or less if the file would exceed MOST_BYTES.
    """
    moments = list(frames)
    with atomic_write(file) as temporary:
        for side in (64, 48, 32):
            strips = [_strip(images, side) for images in moments]
            times = [FRAME_MS] * (len(strips) - 1) + [LAST_FRAME_MS]  # the last frame is the result; pause on it
            options: dict[str, Any] = {"duration": times, "loop": 0, "optimize": False}
            strips[0].save(temporary, format="GIF", save_all=True, append_images=strips[1:], **options)
            if temporary.stat().st_size <= plot_style.MOST_BYTES:
                break


def _strip(images: Tensor, side: int) -> Image.Image:
    """Return the images side by side, each resized to a height of `side` pixels, with white gaps."""
    width = max(1, round(side * images.shape[3] / images.shape[2]))
    strip = Image.new("RGB", (len(images) * (width + GAP) - GAP, side), "white")
    for index, image in enumerate(images):
        strip.paste(thumbnail(image, (side, width)), (index * (width + GAP), 0))
    return strip


def draw_features(
    real: Tensor, real_labels: Tensor, condensed: Tensor, labels: Tensor, names: Sequence[str], file: Path
) -> None:
    """Draw a map of real and condensed images, one color per class.

    Args:
        real: Positions float32 [N, 2] of real images.
        real_labels: Their classes, int64 [N].
        condensed: Positions float32 [M, 2] of condensed images.
        labels: Their classes, int64 [M].
        names: Class names in the order of the labels.
        file: Where to write the picture.
    """
    with plot_style.panels(file, 1, 1, 6.0, 4.4) as panels:
        panel = panels[0][0]
        for index, name in enumerate(names):
            color = plot_style.COLORS[index % len(plot_style.COLORS)]
            # There are 7 colors and 7 markers: class 7 has the color of class 0, so its marker must differ.
            marker = plot_style.MARKERS[(index + index // len(plot_style.COLORS)) % len(plot_style.MARKERS)]
            dots, marks = real[real_labels == index], condensed[labels == index]
            panel.scatter(*dots.T, s=7, color=color, alpha=0.45, linewidths=0)
            style = {"color": color, "marker": marker, "edgecolors": "black", "linewidths": 0.8, "alpha": 0.85}
            panel.scatter(*marks.T, s=42, label=f"{short_name(name)}, condensed", **style)
            # The median lies inside the group even if a few images are far away, unlike the mean.
            middle = (dots if len(dots) else marks).median(0).values.tolist()
            box = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1}
            panel.annotate(short_name(name), middle, ha="center", va="center", fontsize=8, weight="bold", bbox=box)
        panel.scatter([], [], s=7, color="gray", label="real, by color")
        panel.spines[:].set_visible(False)
        panel.set(xticks=[], yticks=[])
        panel.figure.legend(loc="outside right center")


def draw_students(curves: Mapping[str, Mapping[str, Tensor]], file: Path) -> None:
    """Plot the training loss over epochs, one panel per student and one line per training set.

    Args:
        curves: Losses float32 [seeds, epochs], by student and then by training set, both as titles.
        file: Where to write the picture.
    """
    with plot_style.panels(file, 1, len(curves), 3.8, 3.0) as panels:
        for panel, (student, rows) in zip(panels[0], curves.items(), strict=True):
            for (row, losses), (color, style) in zip(rows.items(), _lines(), strict=False):
                mean = losses.mean(0)
                panel.plot(range(1, len(mean) + 1), mean, color=color, linestyle=style, label=row)
            panel.set(xlabel="epoch", ylabel="training loss")
            plot_style.log_ticks(panel.yaxis)
            panel.set_title(student)
        # Three columns are wider than one panel, and matplotlib would cut them off.
        plot_style.legend_below(panels[0][0], 3 if len(curves) > 1 else 2)


def _lines() -> Iterator[tuple[str, str]]:
    # Dashes in addition to colors, so that lines can be told apart in print and where they overlap.
    for index, color in enumerate(plot_style.COLORS):
        yield color, ("-", "--", ":", "-.")[index % 4]


@dataclass(frozen=True)
class Point:
    """The accuracy of one student on one training set.

    Attributes:
        student: The title of the student.
        trained_on: The title of the training set.
        size: Bytes of its images and labels.
        mean: Mean top-1 accuracy in [0, 1].
        std: Sample standard deviation over the seeds; None with one seed.
    """

    student: str
    trained_on: str
    size: int
    mean: float
    std: float | None


def draw_bytes(points: Sequence[Point], file: Path) -> None:
    """Plot accuracy over bytes, with one color per training set and one marker per student."""
    students = list(dict.fromkeys(point.student for point in points))
    rows = list(dict.fromkeys(point.trained_on for point in points))
    with plot_style.panels(file, 1, 1, 4.6, 3.2) as panels:
        panel = panels[0][0]
        for point in points:
            student = f", {point.student}" if len(students) > 1 else ""
            panel.errorbar(
                point.size,
                100 * point.mean,
                100 * (point.std or 0),
                color=plot_style.COLORS[rows.index(point.trained_on) % len(plot_style.COLORS)],
                marker=plot_style.MARKERS[students.index(point.student) % len(plot_style.MARKERS)],
                linestyle="none",
                capsize=3,
                label=f"{point.trained_on}{student}",
            )
        panel.set(xlabel="images and labels", ylabel="top-1 %")
        plot_style.log_ticks(panel.xaxis, "B")
        panel.margins(x=0.15)
        if len(students) == 1:
            panel.set_title(students[0])
        plot_style.legend_below(panel)
