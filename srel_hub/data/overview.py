"""The table of a dataset: splits, classes, counts, sizes and modes. Only the headers of images are read."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import datasets

from srel_hub import config
from srel_hub.data.selected_split import rows_of_whole
from srel_hub.data.sources import Source
from srel_hub.data.split_folders import find_split, listed
from srel_hub.data.splits import DecodedSplit, Progress, Split, TableSplit
from srel_hub.data.tree import shown
from srel_hub.errors import UserError
from srel_hub.storage.decode import read_header


SAMPLED = 1000  # images of a split whose headers are read, in about 0.2 s
CLASSES_AT_START, CLASSES_AT_END = 12, 3  # of a longer list
MODES = 4  # image modes that the table lists


@dataclass
class Headers:
    """What the headers of images say.

    Attributes:
        sizes: number of images by (width, height).
        modes: number of images by Pillow's mode.
        unreadable: messages about images whose header cannot be read.
    """

    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    unreadable: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Return the number of images that were looked at."""
        return self.sizes.total() + len(self.unreadable)


@dataclass(frozen=True)
class SplitView:
    """What the table says about one split.

    Attributes:
        name: the name of the split.
        counts: number of images of each class.
        headers: sizes and modes of some or all of its images.
    """

    name: str
    counts: tuple[int, ...]
    headers: Headers


@dataclass(frozen=True)
class Overview:
    """What the table says about a dataset.

    Attributes:
        title: its path or name.
        source: the opened dataset.
        splits: the splits that are opened.
    """

    title: str
    source: Source
    splits: tuple[SplitView, ...]

    @property
    def unreadable(self) -> list[str]:
        """Return messages about images whose header cannot be read."""
        return [message for split in self.splits for message in split.headers.unreadable]


def look_at(source: Source, spec: config.Source, progress: Progress, every: bool = False) -> Overview:
    """Count the images of each class and read the headers of images.

    Args:
        source: the opened dataset.
        spec: the recipe's section, which names its splits.
        progress: shown while headers are read.
        every: whether to read the header of every image; otherwise of SAMPLED images per split.
    """
    views = []
    for name, split in ((spec.train_split, source.train), (spec.eval_split, source.eval)):
        if split is not None:
            assert source.class_names is not None, "a split that is open has class names"
            counts = split.labels.bincount(minlength=len(source.class_names)).tolist()
            views.append(SplitView(str(name), tuple(counts), _read_headers(split, progress, every)))
    return Overview(str(spec.path or spec.builtin), source, tuple(views))


def _read_headers(split: Split, progress: Progress, every: bool) -> Headers:
    """Read the headers of a split: all, or SAMPLED from the whole split (the first ones of a stream)."""
    headers = Headers()
    whole, chosen = rows_of_whole(split)
    if isinstance(whole, DecodedSplit):
        height, width = whole.size
        headers.sizes[width, height], headers.modes["RGB"] = (len(chosen),) * 2
        return headers
    assert isinstance(whole, TableSplit), "a split is decoded or a table"
    split, count = whole, len(chosen)
    total = count if every else min(SAMPLED, count)
    is_stream = not isinstance(split.table, datasets.Dataset)
    rows = [int(chosen[number if is_stream else count * number // total]) for number in range(total)]
    numbered = zip(rows, split.encoded(rows), strict=True)
    for row, value in progress(numbered, total, f"headers of {split.where}", "image"):
        try:
            size, mode = read_header(value, f"{split.where}: row {row}")
        except UserError as error:
            headers.unreadable.append(str(error))
        else:
            headers.sizes[size] += 1
            headers.modes[mode] += 1
    return headers


def overview_lines(overview: Overview, all_classes: bool = False) -> list[str]:
    """Return the table as lines of text.

    Args:
        overview: the facts.
        all_classes: whether to list every class; otherwise a long list is abbreviated.
    """
    source, views = overview.source, overview.splits
    names = source.class_names or ()
    title = f"data: {shown(overview.title)} ({source.layout})"
    if not views:
        return [f"{title}: no split is opened"]
    rows: list[tuple[str, ...]] = [
        ("split", "images", "classes", "smallest class", "largest class", "width x height", "mode")
    ]
    rows += [_row(view, names) for view in views]
    opened = {find_split(source.splits, view.name) for view in views}
    others = [name for name in source.splits if name not in opened]
    return [
        title,
        *_aligned(rows),
        *([f"  other splits, not opened: {', '.join(others)}"] if others else []),
        *_class_lines(views, names, all_classes),
        *_sample_line(views),
        *(f"  not read: {reason}: {listed(paths)}" for reason, paths in source.unread.items()),
        *_unreadable_lines(overview),
        *(f"  note: {remark}" for remark in source.remarks),
    ]


def _row(view: SplitView, names: Sequence[str]) -> tuple[str, ...]:
    present = [(count, index) for index, count in enumerate(view.counts) if count]
    smallest = min(present, default=None)
    largest = max(present, key=lambda pair: (pair[0], -pair[1]), default=None)
    extremes: tuple[str, ...]
    if smallest is None or largest is None:
        extremes = ("-", "-")
    elif smallest[0] == largest[0]:
        extremes = (f"{smallest[0]:,} each",) * 2
    else:
        extremes = tuple(f"{_name(names[index])} ({count:,})" for count, index in (smallest, largest))
    return (
        view.name,
        f"{sum(view.counts):,}",
        f"{len(present):,}",
        *extremes,
        _sizes(view.headers.sizes),
        _modes(view.headers.modes),
    )


def _modes(modes: Counter[str]) -> str:
    """Return the most frequent modes, and how many others there are."""
    listed = [mode for mode, _ in modes.most_common(MODES)]
    others = [f"{len(modes) - MODES} more"] if len(modes) > MODES else []
    return ", ".join(listed + others) or "-"


def _name(name: str) -> str:
    """Return a class name up to the first comma: ImageNet's names list synonyms."""
    return shown(name.split(",")[0])


def _sizes(sizes: Counter[tuple[int, int]]) -> str:
    if not sizes:
        return "-"
    if len(sizes) == 1:
        width, height = next(iter(sizes))
        return f"{width} x {height}"
    widths, heights = zip(*sizes, strict=True)
    return " x ".join(
        f"{min(sides)} to {max(sides)}" if len(set(sides)) > 1 else f"{sides[0]}" for sides in (widths, heights)
    )


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a table whose numbers, in the second and third column, are aligned to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  "
        + "  ".join(
            cell.rjust(width) if column in (1, 2) else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _class_lines(views: Sequence[SplitView], names: Sequence[str], all_classes: bool) -> list[str]:
    """Return the images of each class, one number per split."""
    counts = [" + ".join(f"{view.counts[index]:,}" for view in views) for index in range(len(names))]
    texts = [f"{_name(name)} {count}" for name, count in zip(names, counts, strict=True)]
    if not all_classes and len(texts) > CLASSES_AT_START + CLASSES_AT_END + 1:
        others = len(texts) - CLASSES_AT_START - CLASSES_AT_END
        texts = [*texts[:CLASSES_AT_START], f"... {others:,} more ...", *texts[-CLASSES_AT_END:]]
    title = f"  images per class ({' + '.join(view.name for view in views)}):"
    if all_classes:
        return [title, *(f"    {text}" for text in texts)]
    return [f"{title} {', '.join(texts)}"]


def _sample_line(views: Sequence[SplitView]) -> list[str]:
    sampled = [view for view in views if view.headers.count < sum(view.counts)]
    if not sampled:
        return []
    counts = ", ".join(f"{view.headers.count:,} of {sum(view.counts):,} images of {view.name}" for view in sampled)
    return [f"  sizes and modes are those of {counts}"]


def _unreadable_lines(overview: Overview) -> list[str]:
    messages = overview.unreadable
    if not messages:
        return []
    looked_at = sum(view.headers.count for view in overview.splits)
    return [
        f"  cannot be read: {len(messages):,} of {looked_at:,} images that were looked at:",
        *(f"    {message}" for message in messages[:3]),
        *([f"    ... and {len(messages) - 3:,} more"] if len(messages) > 3 else []),
    ]
