"""Epochs: torch datasets of views with the teacher's logits, replayed from stored labels or computed on the fly."""

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import SupportsIndex

import torch
from torch import Tensor
from torch.utils.data import Dataset

from srel_hub import config
from srel_hub.config.arguments import whole_number
from srel_hub.core.augment import Views, normalize, render, sample_views
from srel_hub.core.metrics import prediction_batch
from srel_hub.core.seeds import generator
from srel_hub.labels.labeller import Labeller, groups_of, label, passes
from srel_hub.labels.reader import SoftLabels


Logits = Callable[[Tensor, Tensor], Tensor]
PASS = 256  # images per forward pass of a teacher that labels a whole epoch


class Epoch(Dataset[dict[str, Tensor]]):
    """One training epoch: every image in its view of this epoch, with the teacher's logits on that view.

    Items are `{"pixel_values": float32 [3, H, W], "logits": float32 [K]}`. Logits are stored before the softmax, so
    that each student can use its own temperature. Use an epoch with any `DataLoader`: a label belongs to the view of
    its image, so any batch size, order and number of workers can be used.

    Args:
        images: uint8 [N, 3, H, W].
        views: The crop, flip and mix of each image.
        table: The normalization, float32 [3, 256].
        logits: A function that returns logits float32 [B, K] for indices int64 [B] and their rendered views uint8 [B,
            3, H, W].
        groups: Groups of images whose labels were computed with the group's BatchNorm statistics; None if labels do not
            depend on other images.

    Attributes:
        groups: The argument `groups`. `DataLoader(epoch, batch_sampler=epoch.groups)` trains on the groups.

    Examples:
        >>> from torch.utils.data import DataLoader
        >>> from srel_hub import load_condensed
        >>> epoch = load_condensed("runs/quickstart/dataset")[0]
        >>> item = epoch[4]
        >>> item["pixel_values"].shape, item["logits"].shape
        (torch.Size([3, 8, 8]), torch.Size([10]))
        >>> batch = next(iter(DataLoader(epoch, batch_size=5, shuffle=True)))
        >>> batch["pixel_values"].shape, batch["logits"].dtype
        (torch.Size([5, 3, 8, 8]), torch.float32)
    """

    def __init__(
        self,
        images: Tensor,
        views: Views,
        table: Tensor,
        logits: Logits,
        groups: Sequence[Sequence[int]] | None = None,
    ) -> None:
        self.images, self.views, self.table, self.groups, self.logits_of = images, views, table, groups, logits

    def __len__(self) -> int:
        """Return the number of images N."""
        return len(self.images)

    def render(self, indices: Tensor) -> Tensor:
        """Render the images at `indices` (int64 [B]) in this epoch's views. Returns uint8 [B, 3, H, W].

        Examples:
            >>> import torch
            >>> from srel_hub import load_condensed
            >>> epoch = load_condensed("runs/quickstart/dataset")[0]
            >>> epoch.render(torch.tensor([0, 7])).dtype
            torch.uint8
        """
        return render(self.images, self.views, indices)

    def pixel_values(self, indices: Tensor) -> Tensor:
        """Render the images at `indices` (int64 [B]) and normalize them. Returns float32 [B, 3, H, W].

        Examples:
            >>> import torch
            >>> from srel_hub import load_condensed
            >>> epoch = load_condensed("runs/quickstart/dataset")[0]
            >>> epoch.pixel_values(torch.tensor([0, 7])).shape
            torch.Size([2, 3, 8, 8])
        """
        return normalize(self.render(indices).to(self.table.device), self.table)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return pixel values float32 [B, 3, H, W] and logits float32 [B, K] of the images `indices`, int64 [B].

        Unlike a `DataLoader`, it does not split the batch into items and collate them again.

        Examples:
            >>> import torch
            >>> from srel_hub import load_condensed
            >>> epoch = load_condensed("runs/quickstart/dataset")[0]
            >>> for indices in torch.randperm(len(epoch)).split(5):
            ...     pixel_values, logits = epoch.batch(indices)
        """
        views = self.render(indices)
        return normalize(views.to(self.table.device), self.table), self.logits_of(indices, views)

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Tensor]]:
        """Return the items of a batch; torch's `DataLoader` calls this once per batch."""
        pixel_values, logits = self.batch(torch.as_tensor(indices, dtype=torch.int64))
        return [{"pixel_values": x, "logits": z} for x, z in zip(pixel_values, logits, strict=True)]

    def __getitem__(self, index: SupportsIndex) -> dict[str, Tensor]:
        """Return one image in its view, and the teacher's logits on it.

        Raises:
            IndexError: If the index is not in [-N, N).
            UserError: If the index is not an integer.
        """
        number = whole_number("index", index)
        if not -len(self) <= number < len(self):
            raise IndexError(f"image {number} is out of range: there are {len(self)} images")
        return self.__getitems__([number % len(self)])[0]


class KeptEpoch(Epoch):
    """An epoch that several trainings use: its images are rendered once, and labeled at most once."""

    def __init__(self, epoch: Epoch) -> None:
        super().__init__(epoch.images, epoch.views, epoch.table, epoch.logits_of, epoch.groups)
        self._rendered = torch.cat([epoch.render(part) for part in self._parts()])

    def _parts(self) -> Sequence[Tensor]:
        size = prediction_batch((self.images.shape[2], self.images.shape[3]))
        parts: tuple[Tensor, ...] = torch.arange(len(self)).split(size)
        return parts

    @cached_property
    def _logits(self) -> Tensor:
        logits = [self.logits_of(part, self.render(part)) for part in self._parts()]
        return torch.cat(logits).to(self.table.device)

    def render(self, indices: Tensor) -> Tensor:
        """Return stored views, uint8 [B, 3, H, W]."""
        return self._rendered[indices.to(self._rendered.device)]

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return pixel values float32 [B, 3, H, W] and stored logits float32 [B, K]."""
        return self.pixel_values(indices), self._logits[indices.to(self.table.device)]


def stored_epoch(images: Tensor, table: Tensor, labels: SoftLabels, epoch: int) -> Epoch:
    """Return the stored epoch `epoch` on `images`, uint8 [N, 3, H, W], normalized by `table`, float32 [3, 256].

    Raises:
        UserError: If a label file of the epoch differs from the manifest.
    """
    size = labels.manifest.group_size
    groups = None if size is None else [group.tolist() for group in groups_of(labels.order(epoch), size)]
    logits = partial(_stored_logits, labels, epoch)
    return Epoch(images, labels.views(epoch).to(images.device), table, logits, groups)


def _stored_logits(labels: SoftLabels, epoch: int, indices: Tensor, _: Tensor) -> Tensor:
    return labels.logits(epoch, indices)


def sampled_epoch(images: Tensor, labeller: Labeller, augment: config.Augment, seed: int, epoch: int) -> Epoch:
    """Return an epoch whose views are drawn from (seed, epoch) and whose labels the labeller computes on the fly."""
    views, order = sample_epoch(augment, images, seed, epoch)
    views = views.to(images.device)
    if labeller.group_size is None:
        return Epoch(images, views, labeller.table, partial(_computed_logits, labeller))
    groups = [group.tolist() for group in groups_of(order, labeller.group_size)]
    return Epoch(images, views, labeller.table, EpochLogits(images, views, order, labeller), groups)


def _computed_logits(labeller: Labeller, _: Tensor, views: Tensor) -> Tensor:
    return labeller(views)


class EpochLogits:
    """A labeller's logits on a whole epoch, computed on first use.

    A labeller with batch statistics needs complete groups of images, but a student's batch can split a group.
    """

    def __init__(self, images: Tensor, views: Views, order: Tensor, labeller: Labeller) -> None:
        self._images, self._views, self._order, self._labeller = images, views, order, labeller

    def __call__(self, indices: Tensor, _: Tensor) -> Tensor:
        """Return float32 [B, K] for the images `indices`, int64 [B]."""
        return self._logits[indices.to(self._logits.device)]

    @cached_property
    def _logits(self) -> Tensor:
        batches = passes(self._order, range(len(self._images)), self._labeller.group_size, PASS)
        labels = list(label(self._labeller, self._images, self._views, batches))
        logits = torch.cat([logits for _, logits in labels])
        images = torch.cat([indices for indices, _ in labels]).to(logits.device)
        return torch.empty_like(logits).index_copy_(0, images, logits)


def sample_epoch(augment: config.Augment, images: Tensor, seed: int, epoch: int) -> tuple[Views, Tensor]:
    """Draw the views of one epoch and its visiting order, int64 [N], from (seed, epoch) alone."""
    draw = generator(seed, "relabel", epoch)
    views = sample_views(augment, len(images), (images.shape[2], images.shape[3]), draw)
    return views, torch.randperm(len(images), generator=draw)
