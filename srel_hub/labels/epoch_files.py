"""Writing the label files of an epoch: their names, tensors, sizes and metadata (docs/reference/label-format.md).

An epoch is one safetensors file, or several that hold consecutive rows. Files are written row by row, so that no more
than one batch of logits is ever in memory.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from srel_hub.config import canonical
from srel_hub.core.augment import Views
from srel_hub.core.encodings import Encoding, Layout, encode, layout
from srel_hub.core.seeds import blocks
from srel_hub.errors import UserError
from srel_hub.labels.manifest import FORMAT, VERSION
from srel_hub.storage.safetensors_writer import create_safetensors, file_bytes, itemsize


LARGEST_FLOAT16 = 65504.0
FILE_BYTES = 2 * 1024**3  # a larger epoch is split by rows
HEADER_BYTES = 65536  # reserved for a file's safetensors header, which takes less than 1000

VIEW_TENSORS = ("boxes", "flips", "partners", "mix_boxes", "mix_weights")  # the fields of `Views`


def epoch_parts(num_images: int, encoding: Encoding, mix: str, file_bytes: int = FILE_BYTES) -> list[range]:
    """Split the rows of an epoch into files, so that no file is larger than `file_bytes`."""
    return blocks(num_images, max(2, (file_bytes - HEADER_BYTES) // row_bytes(encoding, mix)))


def row_bytes(encoding: Encoding, mix: str) -> int:
    """Return the number of bytes that one image's labels and view take in one epoch."""
    return sum(itemsize(code) * math.prod(shape) for code, shape in epoch_layout(1, encoding, mix).values())


def epoch_file(epoch: int, part: int, parts: int) -> str:
    """Return the name of file `part` of the `parts` files of an epoch."""
    return f"epoch-{epoch:05d}.safetensors" if parts == 1 else f"epoch-{epoch:05d}-{part:05d}.safetensors"


def epoch_file_bytes(epoch: int, rows: range, encoding: Encoding, mix: str) -> int:
    """Return the size in bytes of a file that holds these rows of an epoch."""
    return file_bytes(epoch_layout(len(rows), encoding, mix), epoch_metadata(epoch, rows))


def epoch_metadata(epoch: int, rows: range) -> dict[str, str]:
    """Return the metadata of a label file.

    The metadata is one key with sorted JSON, because the order of several metadata keys in a safetensors file is
    random.
    """
    return {"srel": canonical({"format": FORMAT, "version": VERSION, "epoch": epoch, "rows": [rows.start, rows.stop]})}


def epoch_layout(rows: int, encoding: Encoding, mix: str) -> Layout:
    """Return the tensors of a label file of `rows` rows: dtype code and shape by name.

    Args:
        rows: How many images the file holds.
        encoding: How the logits are stored.
        mix: 'none', 'cutmix' or 'mixup'.
    """
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {
        "boxes": ("I16", (rows, 4)),
        "flips": ("BOOL", (rows,)),
        "order": ("I32", (rows,)),
        **layout(encoding, rows),
    }
    if mix != "none":
        tensors["partners"] = ("I32", (rows,))
    if mix == "cutmix":
        tensors["mix_boxes"] = ("I16", (rows, 4))
    if mix == "mixup":
        tensors["mix_weights"] = ("I16", (rows,))
    return tensors


@contextlib.contextmanager
def write_epoch_file(
    path: Path, epoch: int, rows: range, views: Views, order: Tensor, encoding: Encoding
) -> Iterator[Callable[[Tensor, Tensor], None]]:
    """Create one file of an epoch with its views and order, and yield a function that writes logits into it.

    The function takes images int64 [B] and their logits float32 [B, K]. It may be called with the images in any order
    until every row of the file is written, and ignores images that are not in `rows`.

    Args:
        path: The file to create.
        epoch: The number of the epoch.
        rows: The images that this file holds.
        views: The views of all images of the epoch.
        order: int64 [N], the visiting order of the epoch.
        encoding: How the logits are stored.

    Raises:
        UserError: If a logit is NaN, infinite or too large for float16. The message names the image.
        ValueError: If rows are missing when the `with` block ends.
    """
    mix = "none" if views.partners is None else "cutmix" if views.mix_boxes is not None else "mixup"
    with create_safetensors(path, epoch_layout(len(rows), encoding, mix), epoch_metadata(epoch, rows)) as put:
        chosen = slice(rows.start, rows.stop)
        for name in VIEW_TENSORS:
            if (value := getattr(views, name)) is not None:
                put(name, 0, value[chosen].numpy())
        put("order", 0, order[chosen].numpy())
        missing = torch.ones(len(rows), dtype=torch.bool)

        def write(images: Tensor, logits: Tensor) -> None:
            inside = (images >= rows.start) & (images < rows.stop)
            images, logits = images[inside], logits[inside]
            _require_float16(logits, images)
            stored = encode(logits, encoding)
            for first, last in _runs(images):
                for name, value in stored.items():
                    put(name, int(images[first]) - rows.start, value[first : last + 1].numpy())
            missing[images - rows.start] = False

        yield write
        if missing.any():
            raise ValueError(f"{path.name}: {int(missing.sum())} of {len(rows)} rows of logits were not written")


def _runs(images: Tensor) -> Iterator[tuple[int, int]]:
    """Yield the first and last position of each run of consecutive images."""
    ends = (images.diff() != 1).nonzero()[:, 0].tolist() + [len(images) - 1]
    first = 0
    for last in ends:
        if last >= first:
            yield first, last
        first = last + 1


def _require_float16(logits: Tensor, images: Tensor) -> None:
    """Reject logits that float16 cannot hold, whatever the encoding."""
    fits = logits.abs() <= LARGEST_FLOAT16  # false for NaN too
    if not fits.all():
        row = int((~fits.all(1)).nonzero()[0, 0])
        worst = logits[row][~fits[row]][0]
        raise UserError(
            f"image {int(images[row])}: the teacher's logit {float(worst)} does not fit float16 (at most "
            f"{LARGEST_FLOAT16:g}); the teacher is not usable for labels; train it again with squeeze"
        )
