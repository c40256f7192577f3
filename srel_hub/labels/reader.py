"""Reading stored labels by epoch and by row (docs/reference/label-format.md).

No more than one batch of logits is ever in memory.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from srel_hub.core.augment import Views
from srel_hub.core.encodings import TENSORS, Layout, decode, has_true_indices, layout
from srel_hub.errors import UserError, reading
from srel_hub.labels.epoch_files import VIEW_TENSORS, epoch_layout
from srel_hub.labels.manifest import LabelFile, Manifest
from srel_hub.storage.files import sha256


REPAIR = "delete it and download it again, or run relabel again"


class SoftLabels:
    """Stored labels, read by epoch and by row.

    No file of an epoch is opened before that epoch is used. On its first use a file's size, sha256, tensors and value
    ranges are checked.

    Args:
        manifest: The description of the labels.
        fetch: A function that returns the local path of a file in the folder `soft_labels`, by its name. It may be
            called from another thread.
    """

    def __init__(self, manifest: Manifest, fetch: Callable[[str], Path]) -> None:
        self.manifest = manifest
        self._fetch = fetch
        self._checked_paths: dict[str, Path] = {}  # by file name
        self._files_by_epoch: dict[int, list[LabelFile]] = {}
        for file in sorted(manifest.files, key=lambda file: file.rows):
            for epoch in range(file.epoch, file.epoch + file.epochs):
                self._files_by_epoch.setdefault(epoch, []).append(file)

    def prepare(self, epoch: int) -> None:
        """Download and check the files of an epoch.

        Raises:
            UserError: If a file differs from the manifest.
        """
        for file in self._files(epoch):
            self._path(file)

    def views(self, epoch: int) -> Views:
        """Return the crop, flip and mix of every image in this epoch.

        Raises:
            UserError: If a file differs from the manifest, or a value is out of range. The message names the image.
        """
        parts = [self._read_views(file, epoch) for file in self._files(epoch)]
        names = parts[0].keys() & set(VIEW_TENSORS)
        views = Views(**{name: torch.cat([part[name] for part in parts]) for name in names})
        _require_ranges(views, self.manifest, f"epoch {epoch}")
        return views

    def order(self, epoch: int) -> Tensor:
        """Return the visiting order of the epoch, int64 [N], a permutation of the images.

        Raises:
            UserError: If a file differs from the manifest, or the order is not a permutation.
        """
        order = torch.cat([self._read_views(file, epoch)["order"] for file in self._files(epoch)]).long()
        if not torch.equal(order.sort().values, torch.arange(len(order))):
            raise UserError(f"epoch {epoch}: the stored order is not a permutation of the images; run relabel again")
        return order

    def logits(self, epoch: int, indices: Tensor) -> Tensor:
        """Return the teacher's logits, float32 [B, K], on the views of the images `indices`, int64 [B].

        Raises:
            UserError: If a file differs from the manifest, or stored class indices are not classes.
        """
        return decode(self.stored(epoch, indices), self.manifest.coding)

    def stored(self, epoch: int, indices: Tensor) -> dict[str, Tensor]:
        """Return the tensors that encode the logits of the images `indices`, int64 [B], by name; a row per image.

        Raises:
            UserError: See `logits`.
        """
        encoding, tensors = self.manifest.coding, dict[str, Tensor]()
        for file in self._files(epoch):
            start, stop = file.rows
            inside = (indices >= start) & (indices < stop)
            if inside.any():
                with safe_open(self._path(file), framework="pt") as opened:
                    for name in layout(encoding, 1):
                        rows = opened.get_tensor(name)[first_row(file, epoch) + indices[inside] - start]
                        tensors.setdefault(name, rows.new_empty(len(indices), *rows.shape[1:]))[inside] = rows
        if not has_true_indices(tensors, encoding):
            raise UserError(
                f"epoch {epoch}: the stored class indices of an image must be classes, in increasing order; run "
                "relabel again"
            )
        return tensors

    def _files(self, epoch: int) -> Sequence[LabelFile]:
        if not 0 <= epoch < self.manifest.epochs:
            raise IndexError(f"epoch {epoch} is not stored; the dataset has {self.manifest.epochs} stored epochs")
        return self._files_by_epoch[epoch]

    def _path(self, file: LabelFile) -> Path:
        """Return the local path of a file, which is checked on its first use."""
        if file.name not in self._checked_paths:
            path = self._fetch(file.name)
            _require_file(path, file, self.manifest)
            self._checked_paths[file.name] = path
        return self._checked_paths[file.name]

    def _read_views(self, file: LabelFile, epoch: int) -> dict[str, Tensor]:
        """Read all tensors of an epoch but the logits; copied, since a mapped tensor would keep the file open."""
        start = first_row(file, epoch)
        stop = start + file.rows[1] - file.rows[0]
        with safe_open(self._path(file), framework="pt") as opened:
            names = set(opened.keys()) - set(TENSORS)
            return {name: opened.get_tensor(name)[start:stop].clone() for name in names}


def first_row(file: LabelFile, epoch: int) -> int:
    """Return where the rows of an epoch begin in the tensors of a file that holds several epochs."""
    return (epoch - file.epoch) * (file.rows[1] - file.rows[0])


def _require_file(path: Path, file: LabelFile, manifest: Manifest) -> None:
    """Reject a label file that differs from the manifest in size, sha256 or tensors."""
    size = path.stat().st_size
    if size != file.bytes:
        raise UserError(
            f"{path}: the file has {size} bytes, but the manifest says {file.bytes}; it is damaged; {REPAIR}"
        )
    if sha256(path) != file.sha256:
        raise UserError(f"{path}: its sha256 differs from the manifest's; the file was changed; {REPAIR}")
    rows = file.epochs * (file.rows[1] - file.rows[0])
    expected = epoch_layout(rows, manifest.coding, manifest.augment.mix)
    with reading(f"{path}: this is not a safetensors file"), safe_open(path, framework="pt") as opened:
        slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
        tensors = {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}
    if tensors != expected:
        raise UserError(f"{path}: the file has the tensors {_describe(tensors)}; it must have {_describe(expected)}")


def _describe(layout: Layout) -> str:
    return ", ".join(f"{name} {code} {list(shape)}" for name, (code, shape) in sorted(layout.items()))


def _require_ranges(views: Views, manifest: Manifest, where: str) -> None:
    """Reject views that no crop, flip or mix of these images can have; the message names tensor and image."""
    (H, W), P, N = manifest.image_size, manifest.padding, manifest.num_images
    checks = {"boxes": _are_boxes_inside(views.boxes, (-P, -P), (H + P, W + P))}
    if views.partners is not None:
        checks["partners"] = (views.partners >= 0) & (views.partners < N)
    if views.mix_boxes is not None:
        unmixed = (views.mix_boxes == 0).all(1)
        checks["mix_boxes"] = unmixed | _are_boxes_inside(views.mix_boxes, (0, 0), (H, W))
    if views.mix_weights is not None:
        checks["mix_weights"] = (views.mix_weights >= 0) & (views.mix_weights <= 256)
    for name, valid in checks.items():
        if not valid.all():
            row = int((~valid).nonzero()[0, 0])
            raise UserError(f"{where}: {name} of image {row} is {getattr(views, name)[row].tolist()}, out of range")


def _are_boxes_inside(boxes: Tensor, low: tuple[int, int], high: tuple[int, int]) -> Tensor:
    """Return bool [N], whether each box (top, left, height, width) has a pixel and is inside [low, high)."""
    top, left, height, width = boxes.long().unbind(1)  # int64, since int16 sums overflow
    inside = (top >= low[0]) & (left >= low[1]) & (top + height <= high[0]) & (left + width <= high[1])
    return inside & (height >= 1) & (width >= 1)
