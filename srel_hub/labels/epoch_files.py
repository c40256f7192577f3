"""labels.epoch_files."""

import contextlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from srel_hub.config import canonical
from srel_hub.core.augment import Views
from srel_hub.core.encodings import Encoding, encode, layout
from srel_hub.core.seeds import blocks
from srel_hub.errors import UserError
from srel_hub.labels.manifest import FORMAT, VERSION
from srel_hub.storage.safetensors_writer import create_safetensors, file_bytes, itemsize


LARGEST_FLOAT16 = 65504.0
FILE_BYTES = 2 * 1024**3  # a larger epoch is split by rows

_VIEW_DTYPES = {"boxes": "I16", "flips": "BOOL", "partners": "I32", "mix_boxes": "I16", "mix_weights": "I16"}


def epoch_parts(num_images: int, encoding: Encoding, mix: str, file_bytes: int = FILE_BYTES) -> list[range]:
    """The rows of each of an epoch's files: all of them, or runs that keep every file under `file_bytes`."""
    return blocks(num_images, max(2, (file_bytes - 65536) // row_bytes(encoding, mix)))


def row_bytes(encoding: Encoding, mix: str) -> int:
    """Bytes of one image's labels and view in one epoch."""
    return sum(itemsize(code) * math.prod(shape) for code, shape in _layout(1, encoding, mix).values())


def epoch_file(epoch: int, part: int, parts: int) -> str:
    return f"epoch-{epoch:05d}.safetensors" if parts == 1 else f"epoch-{epoch:05d}-{part:05d}.safetensors"


def epoch_file_bytes(epoch: int, rows: range, encoding: Encoding, mix: str) -> int:
    """Size of one file of an epoch."""
    return file_bytes(_layout(len(rows), encoding, mix), _metadata(epoch, rows))


def _metadata(epoch: int, rows: range) -> dict[str, str]:
    told = canonical({"format": FORMAT, "version": VERSION, "epoch": epoch, "rows": [rows.start, rows.stop]})
    return {"srel": told}


def _layout(rows: int, encoding: Encoding, mix: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    found: dict[str, tuple[str, tuple[int, ...]]] = {
        "boxes": ("I16", (rows, 4)),
        "flips": ("BOOL", (rows,)),
        "order": ("I32", (rows,)),
        **layout(encoding, rows),
    }
    if mix != "none":
        found["partners"] = ("I32", (rows,))
    if mix == "cutmix":
        found["mix_boxes"] = ("I16", (rows, 4))
    if mix == "mixup":
        found["mix_weights"] = ("I16", (rows,))
    return found


@contextlib.contextmanager
def write_epoch_file(
    path: Path, epoch: int, rows: range, views: Views, order: Tensor, encoding: Encoding
) -> Iterator[Callable[[Tensor, Tensor], None]]:
    """Write one file of an epoch: its views and order at once, its logits by the callable given.

    That takes images int64 [B] and their logits [B, K], in any order, until every row was given; what is of other
    rows is left out.

    Raises:
        UserError: if a logit is NaN, infinite or beyond float16, naming the image.
    """
    mix = "none" if views.partners is None else "cutmix" if views.mix_boxes is not None else "mixup"
    with create_safetensors(path, _layout(len(rows), encoding, mix), _metadata(epoch, rows)) as put:
        chosen = slice(rows.start, rows.stop)
        for name in _VIEW_DTYPES:
            if (value := getattr(views, name)) is not None:
                put(name, 0, value[chosen].numpy())
        put("order", 0, order[chosen].numpy())
        missing = torch.ones(len(rows), dtype=torch.bool)

        def write(images: Tensor, logits: Tensor) -> None:
            inside = (images >= rows.start) & (images < rows.stop)
            images, logits = images[inside], logits[inside]
            _check_finite(logits, images)
            stored = encode(logits, encoding)
            for first, last in _runs(images):
                for name, value in stored.items():
                    put(name, int(images[first]) - rows.start, value[first : last + 1].numpy())
            missing[images - rows.start] = False

        yield write
        if missing.any():
            raise ValueError(f"{path.name}: {int(missing.sum())} of {len(rows)} rows of logits were not written")


def _runs(images: Tensor) -> Iterator[tuple[int, int]]:
    """The first and last position of each run of consecutive images."""
    ends = (images.diff() != 1).nonzero()[:, 0].tolist() + [len(images) - 1]
    first = 0
    for last in ends:
        if last >= first:
            yield first, last
        first = last + 1


def _check_finite(logits: Tensor, images: Tensor) -> None:
    bad = ~(logits.abs() <= LARGEST_FLOAT16).all(1)
    if bad.any():
        row = int(bad.nonzero()[0, 0])
        worst = logits[row][~(logits[row].abs() <= LARGEST_FLOAT16)][0]
        raise UserError(
            f"image {int(images[row])}: the teacher's logit {float(worst)} does not fit float16 (at most "
            f"{LARGEST_FLOAT16:g}); the teacher is not usable for labels, squeeze it anew"
        )
