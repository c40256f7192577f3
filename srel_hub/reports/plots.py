"""The pictures of a run, each a function from numbers to a file; `pictures` finds the numbers."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from srel_hub.reports import plot_style as drawing
from srel_hub.storage.condensed_table import thumbnail
from srel_hub.storage.files import atomic_write


SHORT = {  # names of training sets, for legends
    "condensed": "condensed",
    "random-real": "random real, soft labels",
    "random-real-hard": "random real, hard labels",
    "condensed-hard": "condensed, hard labels",
    "real-hard": "all real, hard labels",
    "condensed-whole": "condensed, not augmented",
    "random-real-whole": "random real, not augmented",
}
LONGEST_NAME = 14  # letters of a class's name beside a picture
MOMENTS, CLASS_ROWS = 8, 5  # of the way to an image
FRAME_MS, LAST_FRAME_MS = 180, 1500


@dataclass(frozen=True)
class Caption:
    """What is said with a picture.

    Attributes:
        title: a heading.
        alt: what it shows, for who does not see it.
        reading: how to read it.
    """

    title: str
    alt: str
    reading: str


REAL_PICTURE = "real.png"  # shows images of the source as they are
CAPTIONS = {  # by file, in the order in which they are shown
    REAL_PICTURE: Caption(
        "Real beside condensed",
        "Real images of each class in the upper rows, condensed ones below",
        "The real images are random ones of the training split. Condensed ones are made to train networks, not to be "
        "looked at: colors and textures of a class are there, outlines seldom.",
    ),
    "recovery.gif": Caption(
        "How the images come about",
        "Animation: the first condensed image of each class, from its beginning to the last iteration",
        "The first image of each class while its pixels are optimized.",
    ),
    "recovery.png": Caption(
        "An image over the iterations",
        "The first condensed images after more and more iterations, a class a row",
        "From left to right, the number of iterations is above each column.",
    ),
    "terms.png": Caption(
        "What is minimized",
        "Cross-entropy and BatchNorm term over the iterations of recover",
        "Mean over all images, and the range over units of work. The teacher recognizes an image when its "
        "cross-entropy is near 0; the BatchNorm term says how far its statistics are from those of real images. Both "
        "are of the crops at hand: with a curriculum, whose crops become smaller, they rise.",
    ),
    "features.png": Caption(
        "As the teacher sees them",
        "Map of the teacher's features: real images as dots, condensed images as large marks, a color a class",
        "t-SNE of what enters the teacher's last layer. Condensed images that lie among the real ones of their class "
        "look alike to the teacher; distances between groups mean little.",
    ),
    "students.png": Caption(
        "Students in training",
        "Training loss of the students over their epochs, a line a training set",
        "Mean over seeds. Losses with soft and with hard labels are different quantities: compare their shapes, not "
        "their heights. Nor is a lower curve the better student: training sets differ in how hard they are.",
    ),
    "bytes.png": Caption(
        "Accuracy against bytes",
        "Students' accuracy over the bytes of what they were trained on, with the spread over seeds",
        "Images as PNG, plus labels. Up and to the left is better.",
    ),
}


def short(name: str) -> str:
    """A class's name that fits beside a picture."""
    first = name.split(",")[0]
    return first if len(first) <= LONGEST_NAME else f"{first[: LONGEST_NAME - 1]}…"


def draw_terms(iterations: Sequence[int], terms: Mapping[str, Tensor], file: Path) -> None:
    """Loss terms, each float32 [U, M], over the iterations [M]."""
    titles = {"cross_entropy": "cross-entropy", "bn": "BatchNorm term"}
    with drawing.panels(file, 1, len(terms), 3.6, 2.7) as panels:
        for panel, (name, values), color in zip(panels[0], terms.items(), drawing.COLORS, strict=False):
            panel.plot(iterations, values.mean(0), color=color)
            panel.fill_between(iterations, values.amin(0), values.amax(0), color=color, alpha=0.2, linewidth=0)
            panel.set(xlabel="iteration")
            drawing.log_ticks(panel.yaxis)
            panel.set_title(titles[name])


def draw_recovery(frames: Mapping[int, Tensor], names: Sequence[str], file: Path, rows: int = 5, most: int = 8) -> None:
    """Images uint8 [n, 3, H, W] by iteration: at most `most` of these moments, of the first `rows` classes."""
    moments = list(frames)
    if len(moments) > most:
        moments = [moments[round(k * (len(moments) - 1) / (most - 1))] for k in range(most)]
    rows = min(rows, len(next(iter(frames.values()))))
    cells = [[frames[moment][row] for moment in moments] for row in range(rows)]
    _sheet(cells, [f"{moment:,}" for moment in moments], names[:rows], file)


def draw_real(real: Tensor, condensed: Tensor, names: Sequence[str], file: Path) -> None:
    """Images uint8 [classes, n, 3, H, W] of each kind, a class a column."""
    cells = [[*images] for kind in (real, condensed) for images in kind.transpose(0, 1)]
    rows = ["" if row else kind for kind in ("real", "condensed") for row in range(real.shape[1])]
    _sheet(cells, names, rows, file)


def _sheet(cells: Sequence[Sequence[Tensor]], columns: Sequence[str], rows: Sequence[str], file: Path) -> None:
    """Images with a name above each column and beside each row."""
    with drawing.panels(file, len(cells), len(cells[0]), 0.9, 0.9) as panels:
        for row, images in enumerate(cells):
            for column, image in enumerate(images):
                panel = panels[row][column]
                panel.imshow(image.permute(1, 2, 0).numpy(), interpolation="nearest")
                panel.set(xticks=[], yticks=[])
                panel.spines[:].set_visible(False)
                panel.grid(False)
                if row == 0:
                    panel.set_title(short(columns[column]), loc="center", fontsize=7)
                if column == 0:
                    panel.set_ylabel(short(rows[row]), fontsize=7)


def animate(frames: Iterable[Tensor], file: Path) -> None:
    """A GIF of images uint8 [n, 3, H, W] side by side, each frame a moment; smaller where it would be too large."""
    kept = list(frames)
    with atomic_write(file) as temporary:
        for side in (64, 48, 32):
            strips = [_strip(images, side) for images in kept]
            times = [FRAME_MS] * (len(strips) - 1) + [LAST_FRAME_MS]
            options: dict[str, Any] = {"duration": times, "loop": 0, "optimize": False}
            strips[0].save(temporary, format="GIF", save_all=True, append_images=strips[1:], **options)
            if temporary.stat().st_size <= drawing.MOST_BYTES:
                break


def _strip(images: Tensor, side: int) -> Image.Image:
    """Images in a row, each brought to `side` pixels of height, with white between."""
    width = max(1, round(side * images.shape[3] / images.shape[2]))
    strip = Image.new("RGB", (len(images) * (width + 2) - 2, side), "white")
    for index, image in enumerate(images):
        strip.paste(thumbnail(image, (side, width)), (index * (width + 2), 0))
    return strip


def draw_features(
    real: Tensor, real_labels: Tensor, condensed: Tensor, labels: Tensor, names: Sequence[str], file: Path
) -> None:
    """Places float32 [N, 2] of real and of condensed images, with the class int64 [N] of each."""
    with drawing.panels(file, 1, 1, 6.0, 4.4) as panels:
        panel = panels[0][0]
        for index, name in enumerate(names):
            color = drawing.COLORS[index % len(drawing.COLORS)]
            marker = drawing.MARKERS[(index + index // len(drawing.COLORS)) % len(drawing.MARKERS)]
            here, made = real[real_labels == index], condensed[labels == index]
            panel.scatter(*here.T, s=7, color=color, alpha=0.45, linewidths=0)
            mark = {"color": color, "marker": marker, "edgecolors": "black", "linewidths": 0.8, "alpha": 0.85}
            panel.scatter(*made.T, s=42, label=f"{short(name)}, condensed", **mark)
            middle = (here if len(here) else made).median(0).values.tolist()
            box = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1}
            panel.annotate(short(name), middle, ha="center", va="center", fontsize=8, weight="bold", bbox=box)
        panel.scatter([], [], s=7, color="gray", label="real, by color")
        panel.spines[:].set_visible(False)
        panel.set(xticks=[], yticks=[])
        panel.figure.legend(loc="outside right center")


def draw_students(curves: Mapping[str, Mapping[str, Tensor]], file: Path) -> None:
    """Losses float32 [seeds, epochs] by student, then training set."""
    with drawing.panels(file, 1, len(curves), 3.8, 3.0) as panels:
        for panel, (student, rows) in zip(panels[0], curves.items(), strict=True):
            for (row, losses), (color, style) in zip(rows.items(), _lines(), strict=False):
                mean = losses.mean(0)
                panel.plot(range(1, len(mean) + 1), mean, color=color, linestyle=style, label=SHORT[row])
            panel.set(xlabel="epoch", ylabel="training loss")
            drawing.log_ticks(panel.yaxis)
            panel.set_title(student)
        drawing.legend_below(panels[0][0], 3)


def _lines() -> Iterator[tuple[str, str]]:
    for index, color in enumerate(drawing.COLORS):
        yield color, ("-", "--", ":", "-.")[index % 4]


@dataclass(frozen=True)
class Point:
    """A student's accuracy on one training set of so many bytes."""

    student: str
    row: str
    size: int
    mean: float
    std: float | None


def draw_bytes(points: Sequence[Point], file: Path) -> None:
    """Accuracy over bytes; a color a training set, a marker a student."""
    students, rows = (list(dict.fromkeys(getattr(point, name) for point in points)) for name in ("student", "row"))
    with drawing.panels(file, 1, 1, 4.6, 3.2) as panels:
        panel = panels[0][0]
        for point in points:
            several = f", {point.student}" if len(students) > 1 else ""
            panel.errorbar(
                point.size,
                100 * point.mean,
                100 * (point.std or 0),
                color=drawing.COLORS[rows.index(point.row) % len(drawing.COLORS)],
                marker=drawing.MARKERS[students.index(point.student) % len(drawing.MARKERS)],
                linestyle="none",
                capsize=3,
                label=f"{SHORT[point.row]}{several}",
            )
        panel.set(xlabel="images and labels", ylabel="top-1 %")
        drawing.log_ticks(panel.xaxis, "B")
        panel.margins(x=0.15)
        if len(students) == 1:
            panel.set_title(students[0])
        drawing.legend_below(panel)
