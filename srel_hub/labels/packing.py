"""Packing the label files of many epochs into fewer files, for the Hub (docs/reference/label-format.md).

The Hub recommends commits of less than 100 files, and a run may store 300 epochs. So a dataset with more than
MOST_FILES label files gets files of several consecutive epochs, whose tensors are those of the epochs one after the
other. Version 1 of the format allows one epoch per file, so such a dataset has version 2.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from safetensors import safe_open

from srel_hub.config import canonical
from srel_hub.labels.epoch_files import epoch_layout
from srel_hub.labels.manifest import FORMAT, PACKED_VERSION, LabelFile, Manifest, manifest_values
from srel_hub.storage.files import sha256, write_json
from srel_hub.storage.safetensors_writer import create_safetensors


MOST_FILES = 64  # of labels in a dataset; images, pictures and tables are about 20 more
COPIED_BYTES = 32 * 1024**2  # that are in memory at once

Group = Sequence[LabelFile]  # the same rows of consecutive epochs


def epochs_per_file(epochs: int, parts: int) -> int:
    """Return how many epochs each label file of a dataset holds; 1 if the files are not packed.

    Args:
        epochs: Stored epochs.
        parts: Files of one epoch in the run directory.
    """
    return 1 if epochs * parts <= MOST_FILES else math.ceil(epochs / max(1, MOST_FILES // parts))


def groups(manifest: Manifest) -> list[Group]:
    """Return the label files that are packed into each file, in order; none if the dataset has few label files."""
    spans = sorted({file.rows for file in manifest.files})
    size = epochs_per_file(manifest.epochs, len(spans))
    if size == 1:
        return []
    by_place = {(file.epoch, file.rows): file for file in manifest.files}
    starts = range(0, manifest.epochs, size)
    return [
        [by_place[epoch, rows] for epoch in range(start, min(start + size, manifest.epochs))]
        for start in starts
        for rows in spans
    ]


def pack(folder: Path, manifest: Manifest, target: Path, bar: Iterable[Group]) -> Manifest:
    """Write the packed files and their manifest.

    Args:
        folder: The folder with the label files of the manifest.
        manifest: The manifest, whose files have one epoch each.
        target: The folder to write to.
        bar: The groups of files, under a progress bar.

    Returns:
        The manifest of the packed files.
    """
    files = tuple(_pack_group(folder, manifest, group, target) for group in bar)
    packed = replace(manifest, files=files, version=PACKED_VERSION)
    write_json(target / "manifest.json", manifest_values(packed))
    return packed


def _pack_group(folder: Path, manifest: Manifest, group: Group, target: Path) -> LabelFile:
    first, (start, stop) = group[0], group[0].rows
    epochs, rows = len(group), stop - start
    suffix = "" if rows == manifest.num_images else f"-{start:010d}"
    path = target / f"epochs-{first.epoch:05d}-{first.epoch + epochs - 1:05d}{suffix}.safetensors"
    about = {"format": FORMAT, "version": PACKED_VERSION, "epoch": first.epoch, "epochs": epochs, "rows": [start, stop]}
    layout = epoch_layout(epochs * rows, manifest.coding, manifest.augment.mix)
    with create_safetensors(path, layout, {"srel": canonical(about)}) as put:
        for index, file in enumerate(group):
            with safe_open(folder / file.name, framework="np") as opened:
                for name in layout:
                    part = opened.get_slice(name)
                    for begin, end in _steps(rows, file.bytes):
                        put(name, index * rows + begin, part[begin:end])
    return LabelFile(
        name=path.name,
        epoch=first.epoch,
        epochs=epochs,
        rows=(start, stop),
        bytes=path.stat().st_size,
        sha256=sha256(path),
    )


def _steps(rows: int, size: int) -> Iterator[tuple[int, int]]:
    """Divide the rows of a file of `size` bytes, so that no step needs more than COPIED_BYTES."""
    step = max(1, COPIED_BYTES * rows // max(1, size))
    for begin in range(0, rows, step):
        yield begin, min(begin + step, rows)
