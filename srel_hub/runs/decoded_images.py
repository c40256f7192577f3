"""Decoded images of a run, kept in its folder `cache` while stages need them; all processes map the same files."""

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from srel_hub.config import fingerprint
from srel_hub.data.splits import Images, Split
from srel_hub.runs.run import Run
from srel_hub.storage.condensed_table import decode_image, read_labels, read_rows
from srel_hub.storage.decode import Frame
from srel_hub.storage.files import atomic_write
from srel_hub.storage.mapped_images import map_pixels, write_pixels


def source_images(run: Run, split: Split, frame: Frame | None, rows: Tensor | None = None) -> Images:
    """These rows of a split (None: all), decoded once for all processes.

    Raises:
        UserError: as `Split.images`.
    """
    if split.fingerprint is None:
        return split.images(frame, rows)
    chosen = None if rows is None else rows.tolist()
    shown = None if frame is None else [frame.size, frame.resize, frame.resample]
    file = run.path("cache", f"source-{fingerprint([split.fingerprint, len(split.labels), shown, chosen])[:16]}")
    _once(run, file, lambda: split.images(frame, rows, file))
    return Images(map_pixels(file), split.labels if rows is None else split.labels[rows])


def condensed_images(run: Run) -> Images:
    """The run's condensed images, as their PNG files have them."""
    shards = run.path("images")
    stamps = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in sorted(shards.glob("*.parquet"))]
    labels = read_labels(shards)
    file = run.path("cache", f"condensed-{fingerprint(stamps)[:16]}")
    _once(run, file, lambda: _decode(run, shards, file, len(labels)))
    return Images(map_pixels(file), labels)


def _decode(run: Run, shards: Path, file: Path, count: int) -> None:
    rows = run.progress(enumerate(read_rows(shards)), count, "decode images", "image")
    with atomic_write(file) as temporary:
        write_pixels(temporary, count, ((row, decode_image(png).permute(1, 2, 0).numpy()) for row, (png, _) in rows))


def _once(run: Run, file: Path, write: Callable[[], object]) -> None:
    """Have a file written, by this process or another. Marked without a digest: in doubt it is written again."""
    if not run.is_done("cache", file.name):
        with run.locked(file.name):
            if not run.is_done("cache", file.name):
                write()
                run.marks.mark("cache", file.name, [file], {file.relative_to(run.folder).as_posix(): ""})


def clear(run: Run) -> None:
    """Remove what no stage needs any more."""
    for name in ("cache", "units/cache", "checkpoints"):
        if run.path(name).is_dir():
            run.remove(name, "no longer needed")
