"""The rules of `srel-hub init`, which choose image size, network, method and budget for a dataset and a machine.

All functions are pure. The recipe's comments (text.py) explain the choices to the user.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from srel_hub.config import Network
from srel_hub.data.class_names import describe_mismatch


Method = Literal["best", "sre2l"]

SIDES = (224, 128, 96, 64, 32)  # pixels; what the papers' datasets have, largest first
SMALLEST_SIDE = 8  # pixels; the ConvNet halves an image three times
# Largest for a ResNet's small stem, which costs 15 times as much as the one that halves twice, and for the ConvNet,
# whose three blocks see too little of a larger image.
SMALL_SIDE = 64  # pixels
MOST_IPC = 10  # images per class; the size that most papers report
CONDENSED_SHARE = 10  # real images for one condensed image, at least: else there is nothing to gain
HOURS = {"cpu": 2.0, "cuda": 8.0}  # budgets
MOST_EPOCHS = 100  # of squeeze, for small datasets


@dataclass(frozen=True, kw_only=True)
class Data:
    """The facts about a dataset that the rules use.

    Attributes:
        smallest_class: training images of the smallest class.
        eval_images: number of eval images; None without an eval split.
        side: median of the sampled images' shorter sides, in pixels.
        sampled: number of images that were decoded to find `side`.
    """

    class_names: tuple[str, ...]
    train_images: int
    smallest_class: int
    eval_images: int | None
    side: int
    sampled: int


@dataclass(frozen=True)
class Effort:
    """The budget of the stages.

    Attributes:
        images_seen: images that the teacher sees during its training, counted over all epochs.
        least_epochs: minimum number of epochs of the teacher.
        iterations: iterations of recover.
        epochs: epochs of labels and students.
    """

    name: str
    images_seen: int
    least_epochs: int
    iterations: int
    epochs: int


FULL = Effort("full", 5_000_000, 30, 1000, 100)  # images seen: 50 epochs of Tiny-ImageNet, 100 of CIFAR
SHORT = Effort("short", 1_000_000, 10, 500, 100)
QUICK = Effort("quick", 200_000, 5, 200, 50)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A possible recipe."""

    side: int
    network: Network
    effort: Effort
    method: Method
    ipc: int
    epochs: int
    batch_size: int
    student_batch_size: int
    flip: bool
    pretrained: bool = False

    @property
    def title(self) -> str:
        """'resnet18 x 1 at 64 pixels, short budget'."""
        return f"{self.network.title} at {self.side} pixels, {self.effort.name} budget"


def choices(
    data: Data, method: Method, pretrained: bool, side: int | None = None, ipc: int | None = None
) -> Iterator[Choice]:
    """Yield the possible choices, the most preferred first and the cheapest last.

    Args:
        data: The dataset.
        method: The method of recover.
        pretrained: Whether a pretrained teacher has exactly these classes. It is then used, at the size it was trained
            at.
        side: Image size in pixels, if the user set it. In that case no smaller size is tried.
        ipc: Images per class, if the user set it.
    """
    if pretrained:
        first = side or SIDES[0]
        network = Network(model="resnet18", stem="imagenet")
        for effort in (FULL, SHORT, QUICK):
            yield _choice(data, method, first, ipc, network, effort, pretrained=True)
        return
    first = side or largest_side(data.side)
    sides = [first] if side else [first, *(smaller for smaller in SIDES if smaller < first)]
    for pixels in sides:
        for network, effort in _rungs(pixels):
            yield _choice(data, method, pixels, ipc, network, effort)
    if min(sides) <= SMALL_SIDE:
        for width in (0.5, 0.25):
            yield _choice(data, method, min(sides), ipc, Network(model="convnet", width=width), QUICK)


def _choice(
    data: Data,
    method: Method,
    side: int,
    ipc: int | None,
    network: Network,
    effort: Effort,
    pretrained: bool = False,
) -> Choice:
    count = ipc or images_per_class(data.smallest_class)
    return Choice(
        side=side,
        network=network,
        effort=effort,
        method=method,
        ipc=count,
        epochs=0 if pretrained else squeeze_epochs(data.train_images, effort),
        batch_size=squeeze_batch(data.train_images),
        student_batch_size=student_batch(count * len(data.class_names)),
        flip=not are_characters(data.class_names),
        pretrained=pretrained,
    )


def _rungs(side: int) -> Iterator[tuple[Network, Effort]]:
    """Return the networks and budgets at one image size, the most preferred first."""
    resnet = Network(model="resnet18", stem="small" if side <= SMALL_SIDE else "imagenet")
    yield from ((resnet, FULL), (resnet, SHORT))
    if side <= SMALL_SIDE:
        yield from ((Network(model="convnet"), SHORT), (Network(model="convnet", width=0.5), SHORT))


def largest_side(median: int) -> int:
    """Return the largest standard size that does not enlarge most images; below 32 pixels, that of the images."""
    fitting = [side for side in SIDES if side <= 1.05 * median]  # 61 pixels are nearly 64
    return fitting[0] if fitting else max(SMALLEST_SIDE, median)


def images_per_class(smallest_class: int) -> int:
    """Return a tenth of the smallest class, at least 1 and at most MOST_IPC."""
    return min(MOST_IPC, max(1, smallest_class // CONDENSED_SHARE))


def squeeze_epochs(train_images: int, effort: Effort) -> int:
    """Return the teacher's epochs: `images_seen` divided by the size of the training split, within bounds."""
    return min(MOST_EPOCHS, max(effort.least_epochs, round(effort.images_seen / train_images)))


def squeeze_batch(train_images: int) -> int:
    """Return the teacher's batch size: 64 for small datasets, which would otherwise have few steps per epoch."""
    return 128 if train_images >= 10_000 else 64


def student_batch(condensed: int) -> int:
    """Return the students' batch size: a power of two from 8 to 128 that gives about ten steps per epoch."""
    return next((size for size in (8, 16, 32, 64) if 15 * size >= condensed), 128)


def are_characters(class_names: Sequence[str]) -> bool:
    """Return whether the classes are digits or letters, whose mirror images are different or invalid characters."""
    return all(len(name) == 1 and name.isalnum() for name in class_names)


def same_classes(class_names: Sequence[str], teacher: Sequence[str]) -> bool:
    """Return whether a pretrained teacher has the same classes in the same order."""
    return describe_mismatch(class_names, teacher, "", "") is None


def forward_passes(data: Data, choice: Choice, seeds: int = 3) -> float:
    """Return the cost of a run as a number of forward passes of one image.

    A step of training or of recover costs three: forward, and backward to inputs and to weights. The cost is rough but
    fast to compute, to rank the choices. `plan` counts the real steps of the selected choice.
    """
    condensed = choice.ipc * len(data.class_names)
    squeeze = 3 * choice.epochs * data.train_images
    recover = 3 * choice.effort.iterations * condensed
    labels = choice.effort.epochs * condensed
    # Three rows, one of which asks the teacher for its labels too, and every student is scored.
    students = 0 if data.eval_images is None else seeds * (10 * choice.effort.epochs * condensed + 3 * data.eval_images)
    return float(squeeze + recover + labels + students)
