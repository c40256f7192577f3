"""The soft-label format, version 1: manifest.json and one safetensors file per epoch (docs/format.md).

Files are written and read by rows: no more than one batch of logits is ever held in memory.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from srel_hub.core.augment import Views
from srel_hub.core.encodings import TENSORS, Layout, decode, has_true_indices, layout
from srel_hub.errors import UserError
from srel_hub.labels.epoch_files import _VIEW_DTYPES, _layout
from srel_hub.labels.manifest import LabelFile, Manifest
from srel_hub.storage.files import sha256


class SoftLabels:
    """Stored labels, read by epoch and by row. Nothing of an epoch is opened before that epoch is asked for.

    A file's size, sha256, tensors and ranges are checked when it is first used.

    Args:
        manifest: what is stored.
        fetch: gives the local path of a file of the `soft_labels` folder by its name; may be called by a thread.
    """

    def __init__(self, manifest: Manifest, fetch: Callable[[str], Path]) -> None:
        self.manifest = manifest
        self._fetch = fetch
        self._paths: dict[str, Path] = {}  # of files that were checked
        self._of_epoch: dict[int, list[LabelFile]] = {}
        for file in sorted(manifest.files, key=lambda file: file.rows):
            self._of_epoch.setdefault(file.epoch, []).append(file)

    def prepare(self, epoch: int) -> None:
        """Have an epoch's files here and checked.

        Raises:
            UserError: for a file that is not what the manifest says.
        """
        for file in self._files(epoch):
            self._path(file)

    def views(self, epoch: int) -> Views:
        """How every image is shown in this epoch."""
        parts = [self._read(file) for file in self._files(epoch)]
        names = parts[0].keys() & _VIEW_DTYPES.keys()
        views = Views(**{name: torch.cat([part[name] for part in parts]) for name in names})
        _require_ranges(views, self.manifest, f"epoch {epoch}")
        return views

    def order(self, epoch: int) -> Tensor:
        """int64 [N]: the epoch's visiting order, a permutation of the images."""
        order = torch.cat([self._read(file)["order"] for file in self._files(epoch)]).long()
        if not torch.equal(order.sort().values, torch.arange(len(order))):
            raise UserError(f"epoch {epoch}: its order is no permutation of the images")
        return order

    def logits(self, epoch: int, indices: Tensor) -> Tensor:
        """float32 [B, K]: the teacher's raw logits on the chosen images' views of this epoch, as they are stored.

        Raises:
            UserError: for indices that are no classes.
        """
        return decode(self.stored(epoch, indices), self.manifest.coding)

    def stored(self, epoch: int, indices: Tensor) -> dict[str, Tensor]:
        """The tensors that hold those logits, by name, a row an image."""
        coding, found = self.manifest.coding, dict[str, Tensor]()
        for file in self._files(epoch):
            start, stop = file.rows
            inside = (indices >= start) & (indices < stop)
            if inside.any():
                with safe_open(self._path(file), framework="pt") as tensors:
                    for name in layout(coding, 1):
                        rows = tensors.get_tensor(name)[indices[inside] - start]
                        found.setdefault(name, rows.new_empty(len(indices), *rows.shape[1:]))[inside] = rows
        if not has_true_indices(found, coding):
            raise UserError(f"epoch {epoch}: indices of labels must be classes, increasing in each row")
        return found

    def _files(self, epoch: int) -> Sequence[LabelFile]:
        if not 0 <= epoch < self.manifest.epochs:
            raise IndexError(f"epoch {epoch} is not stored; there are {self.manifest.epochs}")
        return self._of_epoch[epoch]

    def _path(self, file: LabelFile) -> Path:
        """The local file, checked at its first use."""
        if file.name not in self._paths:
            path = self._fetch(file.name)
            _require_file(path, file, self.manifest)
            self._paths[file.name] = path
        return self._paths[file.name]

    def _read(self, file: LabelFile) -> dict[str, Tensor]:
        with safe_open(self._path(file), framework="pt") as tensors:
            names = set(tensors.keys()) - set(TENSORS)
            return {name: tensors.get_tensor(name).clone() for name in names}


def _require_file(path: Path, file: LabelFile, manifest: Manifest) -> None:
    """Refuse a label file that is not the one the manifest names, or does not hold what the manifest says.

    Raises:
        UserError: saying what is wrong with it.
    """
    size = path.stat().st_size
    if size != file.bytes:
        raise UserError(f"{path}: {size} bytes, the manifest says {file.bytes}: it is damaged")
    if sha256(path) != file.sha256:
        raise UserError(f"{path}: its sha256 is not the manifest's: it was altered")
    expected = _layout(file.rows[1] - file.rows[0], manifest.coding, manifest.augment.mix)
    try:
        with safe_open(path, framework="pt") as tensors:
            slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118
            found = {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}
    except SafetensorError as error:
        raise UserError(f"{path}: not a safetensors file: {error}") from None
    if found != expected:
        raise UserError(f"{path}: holds {_told(found)}; must hold {_told(expected)}")


def _told(layout: Layout) -> str:
    return ", ".join(f"{name} {code} {list(shape)}" for name, (code, shape) in sorted(layout.items()))


def _require_ranges(views: Views, manifest: Manifest, where: str) -> None:
    """Refuse views that no crop, flip or mix of these images gives; an image that shows it is named.

    Raises:
        UserError: naming the first tensor and image out of range.
    """
    (H, W), P, N = manifest.image_size, manifest.padding, manifest.num_images
    checks = {"boxes": _box_in_range(views.boxes, (-P, -P), (H + P, W + P))}
    if views.partners is not None:
        checks["partners"] = (views.partners >= 0) & (views.partners < N)
    if views.mix_boxes is not None:
        unmixed = (views.mix_boxes == 0).all(1)
        checks["mix_boxes"] = unmixed | _box_in_range(views.mix_boxes, (0, 0), (H, W))
    if views.mix_weights is not None:
        checks["mix_weights"] = (views.mix_weights >= 0) & (views.mix_weights <= 256)
    for name, right in checks.items():
        if not right.all():
            row = int((~right).nonzero()[0, 0])
            raise UserError(f"{where}: {name} of image {row} is {getattr(views, name)[row].tolist()}: out of range")


def _box_in_range(boxes: Tensor, low: tuple[int, int], high: tuple[int, int]) -> Tensor:
    """Bool [N]: which boxes (top, left, height, width) hold a pixel or more and lie in [low, high)."""
    top, left, height, width = boxes.long().unbind(1)
    inside = (top >= low[0]) & (left >= low[1]) & (top + height <= high[0]) & (left + width <= high[1])
    return inside & (height >= 1) & (width >= 1)
