"""The table of condensed images: uint8 tensors to PNG bytes to parquet files that `load_dataset` reads, and back.

Row i of a condensed dataset is an image of class i mod K at ipc index i div K. So its first n * K rows are the dataset
of the same recipe at n images per class.
"""

import contextlib
import hashlib
import io
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet
import torch
from PIL import Image
from torch import Tensor

from srel_hub.errors import UserError, cause


ROW_GROUP_BYTES = 16_000_000  # to read one row, a reader reads its whole row group
SHARD_BYTES = 250_000_000  # of images in one file; while it is written, all of them are in memory
MOST_SHARDS = 30  # files of one split, which are then larger: the Hub recommends commits of fewer than 100 files
READ_BYTES = 1 << 20  # buffer of each file; `read_rows` has many files open at once


def encode_png(image: Tensor) -> bytes:
    """Encode uint8 [3, H, W] as the bytes of an RGB PNG."""
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(buffer, format="PNG")
    return buffer.getvalue()


def decode_image(content: bytes) -> Tensor:
    """Decode the bytes of an image file that this project wrote to RGB, uint8 [3, H, W]."""
    with Image.open(io.BytesIO(content)) as image:
        pixels = np.asarray(image.convert("RGB"))
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


def decode_untrusted(content: bytes | None, size: tuple[int, int], where: str) -> Tensor:
    """Decode bytes of unknown origin, which must be an RGB PNG of the expected size.

    Any other file is rejected before its pixels are decompressed, so a small file cannot fill the memory.

    Args:
        content: bytes of the image, or None if the row has none.
        size: the expected (height, width) in pixels.
        where: the file and row, which begin the message.

    Returns:
        uint8 [3, H, W].

    Raises:
        UserError: for anything but an RGB PNG of this size.
    """
    try:
        with Image.open(io.BytesIO(content or b""), formats=["PNG"]) as image:
            if (image.height, image.width) == size and image.mode == "RGB":
                return decode_image(content or b"")
            actual = f"a PNG of {image.width} x {image.height} pixels, mode {image.mode}"
    except Exception as error:  # damaged files make Pillow raise almost anything
        actual = f"unreadable: {cause(error)}"
    raise UserError(f"{where}: must be an RGB PNG of {size[1]} x {size[0]} pixels, but is {actual}")


def table_features(class_names: Sequence[str]) -> datasets.Features:
    """Return the columns of a condensed dataset: `image`, and `label` with the names of the classes."""
    return datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(class_names))})


def write_parquet(path: Path, images: Iterable[bytes], labels: Iterable[int], class_names: Sequence[str]) -> None:
    """Write one parquet file with small row groups that `load_dataset` reads.

    Args:
        path: path of the file.
        images: PNG bytes, row by row.
        labels: index of the class of each row.
        class_names: names of all classes.
    """
    rows: dict[str, list[Any]] = {"image": [{"bytes": png, "path": None} for png in images], "label": list(labels)}
    largest = max(len(row["bytes"]) for row in rows["image"])
    dataset = datasets.Dataset.from_dict(rows, features=table_features(class_names))
    with hide_progress_bars():  # `batch_size` is the number of rows of a row group
        dataset.to_parquet(path, batch_size=max(1, min(len(dataset), ROW_GROUP_BYTES // largest)))


@contextlib.contextmanager
def hide_progress_bars() -> Iterator[None]:
    """Hide the progress bars of `datasets` inside the `with` block.

    Use it around short work, where bars would only flicker.
    """
    enabled = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if enabled:
            datasets.enable_progress_bars()


def read_parquet(path: Path) -> Iterator[tuple[bytes, int]]:
    """Yield the PNG bytes and label of every row of a file, with 64 rows in memory at a time."""
    with pyarrow.parquet.ParquetFile(path, buffer_size=READ_BYTES) as file:
        for batch in file.iter_batches(batch_size=64, columns=["image", "label"]):
            for row in batch.to_pylist():
                yield row["image"]["bytes"], row["label"]


def read_rows_of(path: Path, rows: range) -> Iterator[tuple[bytes, int]]:
    """Yield the PNG bytes and label of some rows of a file, reading only the row groups that hold them."""
    with pyarrow.parquet.ParquetFile(path) as file:
        start = 0
        for group in range(file.num_row_groups):
            stop = start + file.metadata.row_group(group).num_rows
            first, last = max(rows.start, start), min(rows.stop, stop)
            if first < last:
                table = file.read_row_group(group, columns=["image", "label"])
                for row in table.slice(first - start, last - first).to_pylist():
                    yield row["image"]["bytes"], row["label"]
            start = stop


def read_rows(shards: Path) -> Iterator[tuple[bytes, int]]:
    """Yield the PNG bytes and label of every condensed image of a run, in row order.

    A shard `ipc-00000-class-00000.parquet` contains a block of classes, ipc index by ipc index. The shards of a
    stack of ipc indices are therefore interleaved.

    Args:
        shards: the folder `images` of a run.

    Raises:
        UserError: if the folder has no shards.
    """
    for files in _stacks(shards):
        widths = [len(set(_labels(file))) for file in files]
        readers = [read_parquet(file) for file in files]
        for _ in range(pyarrow.parquet.read_metadata(files[0]).num_rows // widths[0]):
            for reader, width in zip(readers, widths, strict=True):
                yield from itertools.islice(reader, width)


def read_labels(shards: Path) -> Tensor:
    """Return the labels of `read_rows`, int64 [N], without reading images."""
    labels = []
    for files in _stacks(shards):
        blocks = [_labels(file) for file in files]
        by_ipc = [torch.tensor(block).view(-1, len(set(block))) for block in blocks]
        labels.append(torch.cat(by_ipc, 1).flatten())
    return torch.cat(labels)


def _stacks(folder: Path) -> list[list[Path]]:
    """Return the shards of each stack of ipc indices, which share the first part of their names."""
    groups = itertools.groupby(_shards(folder), lambda file: file.name.split("-class-")[0])
    return [list(files) for _, files in groups]


def _shards(folder: Path) -> list[Path]:
    files = sorted(folder.glob("*.parquet"))
    if not files:
        raise UserError(f"{folder}: there are no condensed images yet; run `srel-hub recover` first")
    return files


def _labels(file: Path) -> list[int]:
    return pyarrow.parquet.read_table(file, columns=["label"])["label"].to_pylist()  # type: ignore[no-any-return]


def image_table_sha256(pixels: Tensor, labels: Tensor) -> str:
    """Return the sha256 of the image table: for every row its label (little-endian int32), then its H x W x 3 pixels.

    The digest covers exactly the pixels and classes that were labeled. It does not change if PNG or parquet files are
    encoded again.

    Args:
        pixels: uint8 [N, 3, H, W].
        labels: int64 [N].
    """
    digest = hashlib.sha256()
    for image, label in zip(pixels, labels.tolist(), strict=True):
        digest.update(int(label).to_bytes(4, "little"))
        digest.update(image.permute(1, 2, 0).contiguous().numpy().tobytes())
    return digest.hexdigest()


def shard_count(total: int) -> int:
    """Return in how many files a split with `total` bytes of images is written."""
    return max(1, min(-(-total // SHARD_BYTES), MOST_SHARDS))


def write_split(folder: Path, split: str, shards: Path, class_names: Sequence[str]) -> list[Path]:
    """Write the images of a run in row order as `{split}-00000-of-00001.parquet`, in at most 30 files.

    Args:
        folder: where to write, usually `data`.
        split: name of the split.
        shards: the folder `images` of the run.
        class_names: names of all classes.

    Returns:
        the files.
    """
    total = sum(file.stat().st_size for file in _shards(shards))
    images = sum(pyarrow.parquet.read_metadata(file).num_rows for file in _shards(shards))
    count = shard_count(total)
    rows, files = read_rows(shards), []
    for index in range(count):
        part = list(itertools.islice(rows, (index + 1) * images // count - index * images // count))
        files.append(folder / f"{split}-{index:05d}-of-{count:05d}.parquet")
        write_parquet(files[-1], [png for png, _ in part], [label for _, label in part], class_names)
    return files


def class_grid(rows: Iterable[tuple[bytes, int]], columns: int, count: int, width: int) -> Image.Image:
    """Draw the first `count` images of the first `columns` classes, one class per column.

    Args:
        rows: PNG bytes and label of each image; read only as far as needed.
        columns: number of classes.
        count: images per class.
        width: width of one image in the grid, in pixels. Smaller images are enlarged by the largest whole factor that
            fits.
    """
    by_class: dict[int, list[Tensor]] = {label: [] for label in range(columns)}
    for png, label in rows:
        if label < columns and len(by_class[label]) < count:
            by_class[label].append(decode_image(png))
        if all(len(column) == count for column in by_class.values()):
            break
    _, H, W = by_class[0][0].shape
    scale = width // W if width >= W else width / W
    height, width = max(1, round(H * scale)), max(1, round(W * scale))
    # White lines of 2 pixels separate the images.
    canvas = Image.new("RGB", (columns * (width + 2) + 2, count * (height + 2) + 2), "white")
    for column, images in by_class.items():
        for row, image in enumerate(images):
            left, top = 2 + column * (width + 2), 2 + row * (height + 2)
            canvas.paste(thumbnail(image, (height, width)), (left, top))
    return canvas


def thumbnail(image: Tensor, size: tuple[int, int]) -> Image.Image:
    """Resize uint8 [3, H, W] to a picture of `size` (height, width).

    To enlarge the image, pixels are repeated, so that each stays visible. To reduce it, pixels are averaged.
    """
    picture = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    rule = Image.Resampling.NEAREST if size[0] >= picture.height else Image.Resampling.BOX
    return picture.resize((size[1], size[0]), rule)
