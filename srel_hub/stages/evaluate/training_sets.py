"""What students train on: condensed or real images, with the teacher's labels or their own, in views or whole.

All rows of a protocol see as many epochs of labels, drawn, pooled and encoded alike; only the images differ.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from srel_hub.config import Augment, Evaluate, Recipe
from srel_hub.core.encodings import Encoding, decode, encode
from srel_hub.core.seeds import derive_seed, generator
from srel_hub.data.splits import Images, Split, random_subset
from srel_hub.labels.epochs import Epoch, KeptEpoch, sampled_epoch, stored_epoch
from srel_hub.labels.labeller import Labeller
from srel_hub.labels.manifest import Manifest
from srel_hub.labels.reader import SoftLabels
from srel_hub.runs.decoded_images import condensed_images, source_images
from srel_hub.runs.run import Run
from srel_hub.storage.decode import Frame
from srel_hub.storage.mapped_images import to_device_if_it_fits


CONDENSED, RANDOM, RANDOM_HARD = "condensed", "random-real", "random-real-hard"
CONDENSED_HARD, REAL_HARD = "condensed-hard", "real-hard"  # from here on: what the scores need besides
CONDENSED_WHOLE, RANDOM_WHOLE = "condensed-whole", "random-real-whole"
KEPT_BYTES = 256 * 1024**2  # of epochs that several trainings use
WHOLE = Augment(crop="none", flip=False)


@dataclass(frozen=True)
class Row:
    """What a student trains on: the images' classes [N], and its epochs by their number.

    `hard` says that the classes, not the logits, are the target.
    """

    labels: Tensor
    epoch: Callable[[int], Epoch]
    hard: bool


def row_names(spec: Evaluate, evaluated: bool, has_real: bool) -> tuple[str, ...]:
    """The rows of every student: none without an eval split, no real ones without a training split."""
    if not evaluated:
        return ()
    rows = [CONDENSED, *([RANDOM, RANDOM_HARD] if has_real and spec.baselines else [])]
    if spec.scores:
        rows += [CONDENSED_HARD, REAL_HARD, CONDENSED_WHOLE, RANDOM_WHOLE]
    if spec.loss == "hard":  # then these are what others are
        rows = [row for row in rows if row not in (RANDOM_HARD, CONDENSED_HARD)]
    return tuple(rows)


class Shared:
    """Epochs that several trainings of this process use, shown and labeled once: the condensed ones, and those of
    the random real images of the last seed.

    Args:
        keeps: False makes every epoch each time; decided by the recipe, for labels that a teacher is asked for depend,
            in their last bit, on how many it is asked at a time.
    """

    def __init__(self, keeps: bool) -> None:
        self._keeps = keeps
        self._kept = dict[str | int, dict[int, KeptEpoch]]()

    def epoch(self, of: str | int, index: int, make: Callable[[], Epoch]) -> Epoch:
        """Epoch `index` of the condensed images (`of` their row's name) or of a seed's real ones."""
        if not self._keeps:
            return make()
        if of not in self._kept:
            self._kept = {of: {}} | {name: epochs for name, epochs in self._kept.items() if name == CONDENSED}
        if index not in self._kept[of]:
            self._kept[of][index] = KeptEpoch(make())
        return self._kept[of][index]


def kept_bytes(recipe: Recipe, num_classes: int, size: tuple[int, int], real: bool) -> int:
    """What `Shared` would keep: images as they are shown, and their logits; `real` tells if there are real rows."""
    epochs, stored = recipe.evaluate.epochs, recipe.relabel.epochs
    condensed = epochs if recipe.relabel.encoding == "none" else min(epochs, stored)
    images = (condensed + epochs * real) * recipe.recover.ipc * num_classes
    return images * (3 * size[0] * size[1] + 4 * num_classes)


class Rows:
    """The rows of a run.

    Args:
        labeller: who labels; the condensed images' labels are stored.
        frame: how a real image becomes one of the dataset's size.
        train: the real training split, if it is opened.
    """

    def __init__(
        self, run: Run, labeller: Labeller, frame: Frame, stored: SoftLabels, train: Split | None, shared: Shared
    ) -> None:
        self._run, self._labeller, self._frame, self._stored = run, labeller, frame, stored
        self._train, self._shared = train, shared

    def make(self, name: str, seed: int) -> Row:
        """A training's data. A random real subset depends on the seed only, so that all its rows share it."""
        is_condensed = name in (CONDENSED, CONDENSED_HARD, CONDENSED_WHOLE)
        images = condensed_images(self._run) if is_condensed else self._real(name, seed)
        drawn_from = self._manifest.seed if is_condensed else derive_seed(self._run.recipe.seed, "evaluate", seed)
        if name in (CONDENSED_WHOLE, RANDOM_WHOLE):
            kept = KeptEpoch(self._sampled(images, WHOLE, drawn_from)(0))
            return Row(images.labels, lambda epoch: kept, hard=False)
        if name in (CONDENSED_HARD, REAL_HARD):
            return Row(images.labels, self._sampled(images, self._views, drawn_from), hard=True)
        if name == CONDENSED and self._manifest.epochs:
            make = self._replayed(images)
        else:
            make = self._sampled(images, self._views, drawn_from)
        kept_as = CONDENSED if is_condensed else seed

        def epoch(index: int) -> Epoch:
            # Labels are pooled, views alone cost nothing.
            of_pool = index if name == RANDOM_HARD else self._manifest.pool_epoch(index)
            return self._shared.epoch(kept_as, of_pool, lambda: make(of_pool))

        return Row(images.labels, epoch, hard=name == RANDOM_HARD or self._run.recipe.evaluate.loss == "hard")

    @property
    def _views(self) -> Augment:
        return self._run.recipe.relabel.augment

    @property
    def _manifest(self) -> Manifest:
        return self._stored.manifest

    def _real(self, name: str, seed: int) -> Images:
        assert self._train is not None
        if name == REAL_HARD:
            return source_images(self._run, self._train, self._frame)
        draw = generator(self._run.recipe.seed, "evaluate", "random-real", seed)
        ipc, num_classes = self._run.recipe.recover.ipc, self._manifest.num_classes
        chosen = random_subset(self._train.labels, ipc, num_classes, draw)
        return source_images(self._run, self._train, self._frame, chosen)

    def _replayed(self, images: Images) -> Callable[[int], Epoch]:
        pixels, table = to_device_if_it_fits(images.pixels, self._run.device), self._labeller.table
        return lambda epoch: stored_epoch(pixels, table, self._stored, epoch)

    def _sampled(self, images: Images, augment: Augment, seed: int) -> Callable[[int], Epoch]:
        """Epochs that the labeller is asked about, their labels encoded as stored ones are."""
        pixels, coding = to_device_if_it_fits(images.pixels, self._run.device), self._manifest.coding

        def make(epoch: int) -> Epoch:
            found = sampled_epoch(pixels, self._labeller, augment, seed, epoch)
            return found if coding.name == "none" else _encoded(found, coding)

        return make


def _encoded(epoch: Epoch, coding: Encoding) -> Epoch:
    logits = partial(_through, epoch, coding)
    return Epoch(epoch.images, epoch.views, epoch.table, logits, epoch.groups)


def _through(epoch: Epoch, coding: Encoding, indices: Tensor, shown: Tensor) -> Tensor:
    logits = epoch.logits_of(indices, shown)
    return decode(encode(logits.cpu(), coding), coding).to(logits.device)
