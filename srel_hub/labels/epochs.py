"""labels.epochs."""

from collections.abc import Callable, Sequence
from functools import cached_property, partial

import torch
from torch import Tensor
from torch.utils.data import Dataset

from srel_hub import config
from srel_hub.core.augment import Views, normalize, render, sample_views
from srel_hub.core.metrics import prediction_batch
from srel_hub.core.seeds import generator
from srel_hub.labels.labeller import Labeller, groups_of, label, passes
from srel_hub.labels.reader import SoftLabels


Logits = Callable[[Tensor, Tensor], Tensor]
PASS = 256  # images that a teacher is asked about at a time


class Epoch(Dataset[dict[str, Tensor]]):
    """One epoch: every image in its view of this epoch, with the teacher's logits on it.

    Items are `{"pixel_values": float32 [3, H, W], "logits": float32 [K]}`; the logits are raw, so that the softmax
    temperature is the student's choice.

    Args:
        images: uint8 [N, 3, H, W].
        views: one view of each.
        table: float32 [3, 256] normalization.
        logits: gives float32 [B, K] for indices [B] and what is shown of them, uint8 [B, 3, H, W].
        groups: of images that were labeled together, by BatchNorm statistics of their own; None: each alone.

    Attributes:
        groups: the same; `DataLoader(epoch, batch_sampler=epoch.groups)` trains on them.
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
        return len(self.images)

    def shown(self, indices: Tensor) -> Tensor:
        """uint8 [B, 3, H, W]: the chosen images in their views."""
        return render(self.images, self.views, indices)

    def pixel_values(self, indices: Tensor) -> Tensor:
        """float32 [B, 3, H, W]: the chosen images in their views, normalized."""
        return normalize(self.shown(indices).to(self.table.device), self.table)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Pixel values float32 [B, 3, H, W] and logits float32 [B, K] of the chosen images."""
        shown = self.shown(indices)
        return normalize(shown.to(self.table.device), self.table), self.logits_of(indices, shown)

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Tensor]]:
        pixel_values, logits = self.batch(torch.as_tensor(indices, dtype=torch.int64))
        return [{"pixel_values": x, "logits": z} for x, z in zip(pixel_values, logits, strict=True)]

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        return self.__getitems__([index % len(self)])[0]


class KeptEpoch(Epoch):
    """An epoch whose images are shown, and labeled, once: for one that several trainings use."""

    def __init__(self, epoch: Epoch) -> None:
        super().__init__(epoch.images, epoch.views, epoch.table, epoch.logits_of, epoch.groups)
        self._kept = torch.cat([epoch.shown(part) for part in self._parts()])

    def _parts(self) -> Sequence[Tensor]:
        size = prediction_batch((self.images.shape[2], self.images.shape[3]))
        parts: tuple[Tensor, ...] = torch.arange(len(self)).split(size)
        return parts

    @cached_property
    def _answers(self) -> Tensor:
        answers = [self.logits_of(part, self.shown(part)) for part in self._parts()]
        return torch.cat(answers).to(self.table.device)

    def shown(self, indices: Tensor) -> Tensor:
        return self._kept[indices.to(self._kept.device)]

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return self.pixel_values(indices), self._answers[indices.to(self.table.device)]


def stored_epoch(images: Tensor, table: Tensor, labels: SoftLabels, epoch: int) -> Epoch:
    """An epoch replayed from stored labels."""
    size = labels.manifest.group_size
    groups = None if size is None else [group.tolist() for group in groups_of(labels.order(epoch), size)]
    logits = partial(_stored_logits, labels, epoch)
    return Epoch(images, labels.views(epoch).to(images.device), table, logits, groups)


def _stored_logits(labels: SoftLabels, epoch: int, indices: Tensor, _: Tensor) -> Tensor:
    return labels.logits(epoch, indices)


def sampled_epoch(images: Tensor, labeller: Labeller, augment: config.Augment, seed: int, epoch: int) -> Epoch:
    """An epoch whose views follow from (seed, epoch) and whose labels the labeller is asked for."""
    views, order = sample_epoch(augment, images, seed, epoch)
    views = views.to(images.device)
    if labeller.group_size is None:
        return Epoch(images, views, labeller.table, partial(_asked_logits, labeller))
    groups = [group.tolist() for group in groups_of(order, labeller.group_size)]
    return Epoch(images, views, labeller.table, Answers(images, views, order, labeller), groups)


def _asked_logits(labeller: Labeller, _: Tensor, shown: Tensor) -> Tensor:
    return labeller(shown)


class Answers:
    """A labeller's logits on a whole epoch, for it must see whole groups; asked for when the first is needed."""

    def __init__(self, images: Tensor, views: Views, order: Tensor, labeller: Labeller) -> None:
        self._asked = images, views, order, labeller

    def __call__(self, indices: Tensor, _: Tensor) -> Tensor:
        return self._all[indices.to(self._all.device)]

    @cached_property
    def _all(self) -> Tensor:
        images, views, order, labeller = self._asked
        each = passes(order, range(len(images)), labeller.group_size, PASS)
        found = list(label(labeller, images, views, each))
        logits = torch.cat([part for _, part in found])
        whose = torch.cat([indices for indices, _ in found]).to(logits.device)
        return torch.empty_like(logits).index_copy_(0, whose, logits)


def sample_epoch(augment: config.Augment, images: Tensor, seed: int, epoch: int) -> tuple[Views, Tensor]:
    """One epoch's views, and its visiting order int64 [N], from (seed, epoch) alone."""
    draw = generator(seed, "relabel", epoch)
    views = sample_views(augment, len(images), (images.shape[2], images.shape[3]), draw)
    return views, torch.randperm(len(images), generator=draw)
