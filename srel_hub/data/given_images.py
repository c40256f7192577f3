"""Existing images that a run labels instead of recovering any (`recover.images`)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from srel_hub import config
from srel_hub.data import class_names as classes
from srel_hub.data.class_subset import find_classes
from srel_hub.data.sources import open_source
from srel_hub.data.splits import Progress, Split
from srel_hub.errors import UserError, first_few


@dataclass(frozen=True)
class GivenImages:
    """Existing images that have been found and checked.

    Attributes:
        split: their table.
        rows: int64 [ipc, K], the row of the table of every image, by ipc index and class.
        is_assumed: whether the order of the classes is only assumed, because the images or the dataset have numbers
            instead of class names.
        where: the recipe's field and path, which begins messages.
    """

    split: Split
    rows: Tensor
    is_assumed: bool
    where: str

    @property
    def ipc(self) -> int:
        """The number of images per class."""
        return len(self.rows)

    def pixels(self, rows: Tensor, size: tuple[int, int]) -> Tensor:
        """Decode images and check their size.

        Args:
            rows: int64 [N], rows of the table.
            size: the (height, width) that they must have.

        Returns:
            uint8 [N, 3, H, W], the pixels as stored.

        Raises:
            UserError: if an image cannot be read, or has another size.
        """
        try:
            images = self.split.images(None, rows)
        except UserError as error:
            raise UserError(f"{self.where}: {error}") from None
        if images.size != size:
            raise UserError(
                f"{self.where}: the images have {images.size[1]} x {images.size[0]} pixels, but the dataset has "
                f"{size[1]} x {size[0]}. Given images are never resized; set source.image_size to their size, or "
                "resize them yourself"
            )
        return images.pixels


def open_given(
    spec: config.GivenImages, class_names: Sequence[str], selects: bool, ipc: int, progress: Progress
) -> GivenImages:
    """Find given images and sort them by class.

    Args:
        spec: the recipe's section `recover.images`.
        class_names: the dataset's class names, by index.
        selects: whether the dataset has selected classes only, so that the images may have more.
        ipc: the number of images per class that the recipe sets; 0 if it sets none.
        progress: shown while labels are read.

    Raises:
        UserError: if the images cannot be opened, their classes are not the dataset's, or the classes differ in their
            number of images.
    """
    where = f"recover.images={spec.path}"
    source = config.Source(
        path=spec.path,
        config=spec.config,
        revision=spec.revision,
        train_split=spec.split,
        eval_split=None,
        image_column=spec.image_column,
        label_column=spec.label_column,
    )
    try:
        opened = open_source(source, progress)
    except UserError as error:
        text = str(error).replace("source.train_split", "recover.images.split")
        raise UserError(text.replace("source.", "recover.images.")) from None
    assert opened.train is not None and opened.class_names is not None
    columns, is_assumed = match_classes(opened.class_names, class_names, selects, where)
    rows = [(opened.train.labels == column).nonzero()[:, 0] for column in columns]
    counts = [len(members) for members in rows]
    if len(set(counts)) > 1:
        fewest, most = counts.index(min(counts)), counts.index(max(counts))
        raise UserError(
            f"{where}: every class must have the same number of images, but {class_names[fewest]!r} has "
            f"{counts[fewest]} and {class_names[most]!r} has {counts[most]}; remove images of the larger classes"
        )
    if ipc not in (0, counts[0]):
        raise UserError(
            f"recover.ipc={ipc}: {where} has {counts[0]} images per class; remove recover.ipc, or set it to {counts[0]}"
        )
    return GivenImages(opened.train, torch.stack(rows, 1), is_assumed, where)


def match_classes(
    own: tuple[str, ...], class_names: Sequence[str], selects: bool, where: str
) -> tuple[list[int], bool]:
    """Find the classes of a dataset among those of given images.

    Args:
        own: the class names of the images.
        class_names: the class names of the dataset.
        selects: whether the images may have further classes.
        where: the recipe's field and path, which begins messages.

    Returns:
        for each class of the dataset, its index in `own`, and whether this is only assumed from the order.

    Raises:
        UserError: if a class is missing, or there are further classes. The message lists them.
    """
    is_numbered = classes.are_numbered(own) != classes.are_numbered(class_names)
    if is_numbered and len(own) == len(class_names):
        return list(range(len(own))), True
    columns = find_classes(class_names, own, where, "this set of images")
    others = [name for index, name in enumerate(own) if index not in set(columns)]
    if others and not selects:
        raise UserError(
            f"{where}: the dataset has no class {', '.join(first_few([repr(name) for name in others]))}; remove these "
            "images, or list the classes to keep in source.classes"
        )
    return columns, False
