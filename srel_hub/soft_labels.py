"""The soft-label format, version 1: manifest.json and one safetensors file per epoch (docs/format.md).

Files are written and read by rows: no more than one batch of logits is ever held in memory.
"""

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from safetensors import safe_open
from torch import Tensor

from srel_hub.augment import Views
from srel_hub.faults import UserError, told
from srel_hub.recipe import Augment, canonical
from srel_hub.run import blocks


FORMAT = "srel-soft-labels"
VERSION = 1
ENCODINGS = ("float16",)
LARGEST_FLOAT16 = 65504.0
FILE_BYTES = 2 * 1024**3  # a larger epoch is split by rows

Layout = Mapping[str, tuple[str, tuple[int, ...]]]
_DTYPES = {"F16": np.float16, "I32": np.int32, "I16": np.int16, "BOOL": np.bool_}
_VIEW_DTYPES = {"boxes": "I16", "flips": "BOOL", "partners": "I32", "mix_boxes": "I16", "mix_weights": "I16"}


@dataclass(frozen=True, kw_only=True)
class TeacherFacts:
    """Which teacher labelled. `sha256` has one entry per file; `accuracy` is top-1 on the full stored images."""

    repo_id: str | None
    tag: str | None
    sha256: dict[str, str]
    accuracy: float


@dataclass(frozen=True, kw_only=True)
class LabelFile:
    """One safetensors file: which epoch, which rows [start, stop), its size and sha256."""

    name: str
    epoch: int
    rows: tuple[int, int]
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """soft_labels/manifest.json. `group_size` is None where the teacher labelled in eval mode."""

    num_images: int
    num_classes: int
    epochs: int
    image_size: tuple[int, int]
    padding: int
    augment: Augment
    seed: int
    encoding: str
    group_size: int | None
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    class_names: tuple[str, ...]
    teacher: TeacherFacts
    precision: str
    device: str
    torch: str
    image_table_sha256: str
    files: tuple[LabelFile, ...]
    format: str = FORMAT
    version: int = VERSION


def read_manifest(path: Path) -> Manifest:
    """Read and check a manifest.

    Raises:
        UserError: for another format, an unknown version or encoding (by name), or a field of the wrong type.
    """
    mapping = json.loads(path.read_text(encoding="utf-8"))
    known = {"format": (FORMAT,), "version": (VERSION,), "encoding": ENCODINGS}
    for key, allowed in known.items():
        if mapping.get(key) not in allowed:
            choices = ", ".join(str(value) for value in allowed)
            raise UserError(f"{path}: {key} {mapping.get(key)!r} is unknown here (known: {choices}); update srel_hub")
    try:
        return TypeAdapter(Manifest).validate_python(mapping)
    except ValidationError as error:
        raise UserError("\n".join([f"{path}: not a valid manifest", *told(error, Manifest)])) from None


def epoch_parts(num_images: int, num_classes: int, mix: str, file_bytes: int = FILE_BYTES) -> list[range]:
    """The rows of each of an epoch's files: all of them, or runs that keep every file under `file_bytes`."""
    return blocks(num_images, max(2, (file_bytes - 65536) // row_bytes(num_classes, mix)))


def row_bytes(num_classes: int, mix: str) -> int:
    """Bytes of one image's labels and view in one epoch."""
    return sum(_itemsize(code) * math.prod(shape) for code, shape in _layout(1, num_classes, mix).values())


def epoch_file(epoch: int, part: int, parts: int) -> str:
    return f"epoch-{epoch:05d}.safetensors" if parts == 1 else f"epoch-{epoch:05d}-{part:05d}.safetensors"


def _layout(rows: int, num_classes: int, mix: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    layout: dict[str, tuple[str, tuple[int, ...]]] = {
        "boxes": ("I16", (rows, 4)),
        "flips": ("BOOL", (rows,)),
        "order": ("I32", (rows,)),
        "logits": ("F16", (rows, num_classes)),
    }
    if mix != "none":
        layout["partners"] = ("I32", (rows,))
    if mix == "cutmix":
        layout["mix_boxes"] = ("I16", (rows, 4))
    if mix == "mixup":
        layout["mix_weights"] = ("I16", (rows,))
    return layout


def _itemsize(code: str) -> int:
    return np.dtype(_DTYPES[code]).itemsize


@contextlib.contextmanager
def create_safetensors(path: Path, layout: Layout, metadata: str) -> Iterator[dict[str, NDArray[Any]]]:
    """Create a safetensors file of the given layout and give its tensors as arrays mapped to disk, to be filled.

    The library's own save_file wants every tensor whole in memory. The bytes are those that it would write: tensors
    by falling alignment, then name; one metadata key `srel`, for with several the library's order is random.
    """
    entries: dict[str, Any] = {"__metadata__": {"srel": metadata}}
    offset = 0
    for name, (code, shape) in sorted(layout.items(), key=lambda item: (-_itemsize(item[1][0]), item[1][0], item[0])):
        stop = offset + _itemsize(code) * math.prod(shape)
        entries[name] = {"dtype": code, "shape": list(shape), "data_offsets": [offset, stop]}
        offset = stop
    header = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + offset)
    arrays: dict[str, Any] = {}
    for name, (code, shape) in layout.items():
        start = 8 + len(header) + entries[name]["data_offsets"][0]
        arrays[name] = np.memmap(path, dtype=_DTYPES[code], mode="r+", offset=start, shape=shape)
    yield arrays
    for array in arrays.values():
        array.flush()


@contextlib.contextmanager
def write_epoch_file(
    path: Path, epoch: int, rows: range, views: Views, order: Tensor, num_classes: int
) -> Iterator[Callable[[Tensor], None]]:
    """Write one file of an epoch: its views and order at once, its logits by the callable given, in row order.

    Raises:
        UserError: if a logit is NaN, infinite or beyond float16, naming the image.
    """
    mix = "none" if views.partners is None else "cutmix" if views.mix_boxes is not None else "mixup"
    metadata = canonical({"format": FORMAT, "version": VERSION, "epoch": epoch, "rows": [rows.start, rows.stop]})
    layout = _layout(len(rows), num_classes, mix)
    with create_safetensors(path, layout, metadata) as arrays:
        chosen = slice(rows.start, rows.stop)
        for name in layout.keys() & _VIEW_DTYPES.keys():
            arrays[name][:] = getattr(views, name)[chosen].numpy()
        arrays["order"][:] = order[chosen].numpy()
        written = 0

        def write(logits: Tensor) -> None:
            nonlocal written
            _check_finite(logits, rows.start + written)
            arrays["logits"][written : written + len(logits)] = logits.half().numpy()
            written += len(logits)

        yield write
        if written != len(rows):
            raise ValueError(f"{path.name}: {written} of {len(rows)} rows of logits were written")


def _check_finite(logits: Tensor, first_image: int) -> None:
    bad = ~(logits.abs() <= LARGEST_FLOAT16).all(1)
    if bad.any():
        row = int(bad.nonzero()[0, 0])
        worst = logits[row][~(logits[row].abs() <= LARGEST_FLOAT16)][0]
        raise UserError(
            f"image {first_image + row}: the teacher's logit {float(worst)} does not fit float16 (at most "
            f"{LARGEST_FLOAT16:g}); the teacher is not usable for labels, squeeze it anew"
        )


class SoftLabels:
    """Stored labels, read by epoch and by row. Nothing of an epoch is opened before that epoch is asked for.

    Args:
        manifest: what is stored.
        fetch: gives the local path of a file of the `soft_labels` folder by its name.
    """

    def __init__(self, manifest: Manifest, fetch: Callable[[str], Path]) -> None:
        self.manifest = manifest
        self._fetch = fetch

    def views(self, epoch: int) -> Views:
        """How every image is shown in this epoch."""
        parts = [self._read(file) for file in self._files(epoch)]
        names = parts[0].keys() & _VIEW_DTYPES.keys()
        return Views(**{name: torch.cat([part[name] for part in parts]) for name in names})

    def order(self, epoch: int) -> Tensor:
        """int64 [N]: the epoch's visiting order, a permutation of the images."""
        return torch.cat([self._read(file)["order"] for file in self._files(epoch)]).long()

    def logits(self, epoch: int, indices: Tensor) -> Tensor:
        """float32 [B, K]: the teacher's raw logits on the chosen images' views of this epoch."""
        result = torch.empty(len(indices), self.manifest.num_classes)
        for file in self._files(epoch):
            start, stop = file.rows
            inside = (indices >= start) & (indices < stop)
            if inside.any():
                with safe_open(self._fetch(file.name), framework="pt") as tensors:
                    result[inside] = tensors.get_tensor("logits")[indices[inside] - start].float()
        return result

    def _files(self, epoch: int) -> Sequence[LabelFile]:
        if not 0 <= epoch < self.manifest.epochs:
            raise IndexError(f"epoch {epoch} is not stored; there are {self.manifest.epochs}")
        files = [file for file in self.manifest.files if file.epoch == epoch]
        return sorted(files, key=lambda file: file.rows)

    def _read(self, file: LabelFile) -> dict[str, Tensor]:
        path = self._fetch(file.name)
        if path.stat().st_size != file.bytes:
            raise UserError(f"{path}: {path.stat().st_size} bytes, the manifest says {file.bytes}: download it again")
        with safe_open(path, framework="pt") as tensors:
            names = set(tensors.keys()) - {"logits"}
            return {name: tensors.get_tensor(name).clone() for name in names}
