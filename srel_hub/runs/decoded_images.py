"""Decoded images of a run, kept in its folder `cache` while stages need them. All processes map the same files.

Identical images within a split and across splits are reported when they are decoded.
"""

import sys
from collections.abc import Callable
from pathlib import Path

from torch import Tensor
from tqdm import tqdm

from srel_hub.config import fingerprint
from srel_hub.data.examined import Examined, copies_across, copies_within, load_examined, save_examined
from srel_hub.data.splits import Images, Split
from srel_hub.runs.run import Run
from srel_hub.storage.condensed_table import decode_image, read_labels, read_rows
from srel_hub.storage.decode import Frame
from srel_hub.storage.files import atomic_write
from srel_hub.storage.mapped_images import map_pixels, write_pixels


def source_images(run: Run, split: Split, frame: Frame | None, rows: Tensor | None = None) -> Images:
    """Decode real images once for all processes.

    Args:
        run: The run, after `begin`.
        split: A split of the source.
        frame: How an image is resized to the dataset's size; None leaves it unchanged.
        rows: int64, the rows of the split to decode; None for all.

    Raises:
        UserError: See `Split.images`, for example for a damaged image.
    """
    if split.fingerprint is None:  # a built-in split is in memory already
        return split.images(frame, rows)
    chosen = None if rows is None else rows.tolist()
    framing = None if frame is None else [frame.size, frame.resize, frame.resample]
    file = run.path("cache", f"source-{fingerprint([split.fingerprint, len(split.labels), framing, chosen])[:16]}")

    def decode() -> None:
        images = split.images(frame, rows, file)
        if images.examined is not None:
            _report(run, images.examined, images.size, is_whole=rows is None)

    _write_once(run, file, decode)
    return Images(map_pixels(file), split.labels if rows is None else split.labels[rows])


def _report(run: Run, examined: Examined, size: tuple[int, int], is_whole: bool) -> None:
    """Report what decoding showed, once per split: of all its images, or else of the first part that is decoded.

    Args:
        run: The run, after `begin`.
        examined: What decoding showed.
        size: (height, width) of the images. Only images of the same size are compared.
        is_whole: Whether all images of the split were decoded.
    """
    name, sized = fingerprint(examined.where)[:16], f"examined-{size[0]}-{size[1]}"
    whole, part = (run.path("cache", f"{sized}-{extent}-{name}") for extent in ("whole", "part"))
    if whole.is_file() or (part.is_file() and not is_whole):
        return
    with atomic_write(whole if is_whole else part) as temporary:
        save_examined(temporary, examined)
    remarks = [*examined.remarks, *(copies_within(examined) if is_whole else ())]
    stored = sorted(run.path("cache").glob(f"{sized}-*"))
    by_split = {file.name.rsplit("-", 1)[1]: file for file in stored}  # "whole" comes after "part"
    for other in (file for key, file in by_split.items() if key != name):
        remarks += copies_across(load_examined(other), examined)
    for remark in remarks:
        if not run.is_main:  # any process may be the one that decodes
            tqdm.write(f"warning: {remark}", file=sys.stderr)
        run.print(f"warning: {remark}")


def condensed_images(run: Run) -> Images:
    """Decode the run's condensed images from their PNG files, once for all processes."""
    shards = run.path("images")
    stamps = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in sorted(shards.glob("*.parquet"))]
    labels = read_labels(shards)
    file = run.path("cache", f"condensed-{fingerprint(stamps)[:16]}")
    _write_once(run, file, lambda: _decode(run, shards, file, len(labels)))
    return Images(map_pixels(file), labels)


def _decode(run: Run, shards: Path, file: Path, count: int) -> None:
    rows = run.progress(enumerate(read_rows(shards)), count, "decode images", "image")
    with atomic_write(file) as temporary:
        write_pixels(temporary, count, ((row, decode_image(png).permute(1, 2, 0).numpy()) for row, (png, _) in rows))


def _write_once(run: Run, file: Path, write: Callable[[], object]) -> None:
    """Write a file in one process. Its mark has no digest, because decoding again is cheaper than hashing."""
    if not run.is_done("cache", file.name):
        with run.locked(file.name):
            if not run.is_done("cache", file.name):
                write()
                run.marks.mark("cache", file.name, [file], {file.relative_to(run.folder).as_posix(): ""})


def clear(run: Run) -> None:
    """Remove decoded images and checkpoints, which no stage needs any more."""
    for name in ("cache", "units/cache", "checkpoints"):
        if run.path(name).is_dir():
            run.remove(name, "no longer needed")
