"""Condensed images: uint8 tensors to PNG bytes to parquet to a `DatasetDict`, and back.

Row i of a condensed dataset shows class i mod K at ipc index i div K, so that its first n * K rows are the images of
the same recipe at n images per class.
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

from srel_hub.errors import UserError, first_line


ROW_GROUP_BYTES = 16_000_000  # one random row costs a reader its whole row group
SHARD_BYTES = 250_000_000  # of images in one file, all of which are in memory while it is written
READ_BYTES = 1 << 20  # of each of many files that are read side by side


def encode_png(image: Tensor) -> bytes:
    """uint8 [3, H, W] to the bytes of an RGB PNG."""
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(buffer, format="PNG")
    return buffer.getvalue()


def decode_image(content: bytes) -> Tensor:
    """The bytes of an RGB image file to uint8 [3, H, W]."""
    with Image.open(io.BytesIO(content)) as image:
        pixels = np.asarray(image.convert("RGB"))
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


def decode_untrusted(content: bytes | None, size: tuple[int, int], where: str) -> Tensor:
    """As `decode`, of bytes from whomever: only an RGB PNG of `size` (height, width) is unpacked.

    Raises:
        UserError: for anything else, before its pixels are unpacked.
    """
    try:
        with Image.open(io.BytesIO(content or b""), formats=["PNG"]) as image:
            if (image.height, image.width) == size and image.mode == "RGB":
                return decode_image(content or b"")
            told = f"a PNG of {image.width} x {image.height} pixels, mode {image.mode}"
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        told = f"no PNG that can be read: {first_line(error)}"
    raise UserError(f"{where}: must be an RGB PNG of {size[1]} x {size[0]} pixels, is {told}")


def table_features(class_names: Sequence[str]) -> datasets.Features:
    return datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(class_names))})


def write_parquet(path: Path, images: Iterable[bytes], labels: Iterable[int], class_names: Sequence[str]) -> None:
    """Write PNG bytes and labels as one parquet file with small row groups, readable by `load_dataset`."""
    rows: dict[str, list[Any]] = {"image": [{"bytes": png, "path": None} for png in images], "label": list(labels)}
    largest = max(len(row["bytes"]) for row in rows["image"])
    dataset = datasets.Dataset.from_dict(rows, features=table_features(class_names))
    with hide_progress_bars():
        dataset.to_parquet(path, batch_size=max(1, min(len(dataset), ROW_GROUP_BYTES // largest)))


@contextlib.contextmanager
def hide_progress_bars() -> Iterator[None]:
    """No progress bar of `datasets`, for work that takes a moment."""
    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


def read_parquet(path: Path) -> Iterator[tuple[bytes, int]]:
    """The PNG bytes and label of every row, a few at a time."""
    with pyarrow.parquet.ParquetFile(path, buffer_size=READ_BYTES) as file:
        for batch in file.iter_batches(batch_size=64, columns=["image", "label"]):
            for row in batch.to_pylist():
                yield row["image"]["bytes"], row["label"]


def read_rows(shards: Path) -> Iterator[tuple[bytes, int]]:
    """The PNG bytes and label of every image in a folder of a run's shards, in row order.

    The shards of one stack of ipc indices, which share the first part of their names, are read side by side: each
    holds a block of classes, ipc index by ipc index.

    Raises:
        UserError: where there are none.
    """
    for _, group in itertools.groupby(_shards(shards), lambda file: file.name.split("-class-")[0]):
        files = list(group)
        widths = [len(set(_labels(file))) for file in files]
        readers = [read_parquet(file) for file in files]
        for _ in range(pyarrow.parquet.read_metadata(files[0]).num_rows // widths[0]):
            for reader, width in zip(readers, widths, strict=True):
                yield from itertools.islice(reader, width)


def read_labels(shards: Path) -> Tensor:
    """int64 [N]: the labels of `read_rows`; no image is read for them."""
    groups = itertools.groupby(_shards(shards), lambda file: file.name.split("-class-")[0])
    labels = []
    for _, group in groups:
        blocks = [_labels(file) for file in group]
        rounds = [torch.tensor(block).view(-1, len(set(block))) for block in blocks]
        labels.append(torch.cat(rounds, 1).flatten())
    return torch.cat(labels)


def _shards(folder: Path) -> list[Path]:
    files = sorted(folder.glob("*.parquet"))
    if not files:
        raise UserError(f"{folder}: there are no condensed images yet; run recover first")
    return files


def _labels(file: Path) -> list[int]:
    return pyarrow.parquet.read_table(file, columns=["label"])["label"].to_pylist()  # type: ignore[no-any-return]


def image_table_sha256(pixels: Tensor, labels: Tensor) -> str:
    """sha256 of the image table: for every row its label (little-endian int32), then its H x W x 3 pixel bytes.

    It covers what the soft labels are bound to, and survives a re-encoding of PNG or parquet.
    """
    digest = hashlib.sha256()
    for image, label in zip(pixels, labels.tolist(), strict=True):
        digest.update(int(label).to_bytes(4, "little"))
        digest.update(image.permute(1, 2, 0).contiguous().numpy().tobytes())
    return digest.hexdigest()


def write_split(folder: Path, split: str, shards: Path, class_names: Sequence[str]) -> list[Path]:
    """Write a run's shards as `data/{split}-00000-of-00001.parquet`, in as many files as their bytes ask for."""
    total = sum(file.stat().st_size for file in _shards(shards))
    images = sum(pyarrow.parquet.read_metadata(file).num_rows for file in _shards(shards))
    count = max(1, -(-total // SHARD_BYTES))
    rows, files = read_rows(shards), []
    for index in range(count):
        part = list(itertools.islice(rows, (index + 1) * images // count - index * images // count))
        files.append(folder / f"{split}-{index:05d}-of-{count:05d}.parquet")
        write_parquet(files[-1], [png for png, _ in part], [label for _, label in part], class_names)
    return files


def class_grid(rows: Iterable[tuple[bytes, int]], columns: int, count: int, width: int) -> Image.Image:
    """A picture of the first `count` images of the first `columns` classes, a class a column.

    Each is about `width` pixels wide: its pixels enlarged by a whole number, or it is made smaller.
    """
    shown: dict[int, list[Tensor]] = {label: [] for label in range(columns)}
    for png, label in rows:
        if label < columns and len(shown[label]) < count:
            shown[label].append(decode_image(png))
        if all(len(column) == count for column in shown.values()):
            break
    _, H, W = shown[0][0].shape
    scale = width // W if width >= W else width / W
    height, width = max(1, round(H * scale)), max(1, round(W * scale))
    canvas = Image.new("RGB", (columns * (width + 2) + 2, count * (height + 2) + 2), "white")
    for column, images in shown.items():
        for row, image in enumerate(images):
            place = 2 + column * (width + 2), 2 + row * (height + 2)
            canvas.paste(thumbnail(image, (height, width)), place)
    return canvas


def thumbnail(image: Tensor, size: tuple[int, int]) -> Image.Image:
    """uint8 [3, H, W] as a picture of `size` (height, width): its pixels enlarged, or averaged where it is smaller."""
    picture = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    rule = Image.Resampling.NEAREST if size[0] >= picture.height else Image.Resampling.BOX
    return picture.resize((size[1], size[0]), rule)
