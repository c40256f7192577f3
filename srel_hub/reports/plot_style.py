"""Provide one style for all plots: dark on white, in colors that color-blind readers can distinguish."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from srel_hub.errors import UserError
from srel_hub.storage.files import atomic_write


COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe and Ito (2008)
MARKERS = "osD^vPX"
STYLE = {
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "legend.fontsize": 7,
    "lines.markersize": 4,
    "svg.hashsalt": "srel_hub",  # the ids in an SVG file are random otherwise
    "savefig.facecolor": "white",  # a card may be shown on a dark page
}
# By default matplotlib writes its version or the time into these fields, so that equal plots would differ.
NO_METADATA = {
    ".png": {"Software": None},
    ".svg": {"Date": None, "Creator": None},
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
SUFFIXES = (".png", ".svg", ".pdf", ".jpg", ".webp")  # of the formats that plots are written in
MOST_BYTES = 1_000_000  # per picture; a card shows up to eight


def require_matplotlib() -> None:
    """Check that matplotlib is installed.

    Raises:
        UserError: If it is missing.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UserError(
            "matplotlib is not installed, so plots cannot be drawn; run pip install 'srel_hub[viz]'"
        ) from None


@contextmanager
def panels(file: Path, rows: int, columns: int, width: float, height: float) -> Iterator[Any]:
    """Create a figure with [rows, columns] panels, and write it to `file` when the `with` block ends.

    Equal plots are equal files, because neither the time nor a version is stored. The resolution is 150 dpi, or less
    if the file would exceed MOST_BYTES.

    Args:
        file: Where to write the picture; its suffix, one of SUFFIXES, sets the format.
        rows: Rows of panels.
        columns: Columns of panels.
        width: Width of a panel in inches.
        height: Height of a panel in inches.

    Yields:
        The panels, a NumPy array of matplotlib axes [rows, columns].

    Raises:
        UserError: If matplotlib is missing.
    """
    require_matplotlib()
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    suffix = file.suffix.lower()
    with rc_context(STYLE):
        figure = Figure(figsize=(columns * width, rows * height), layout="constrained")
        yield figure.subplots(rows, columns, squeeze=False)
        with atomic_write(file) as temporary:
            for dpi in (150, 100, 70, 50):
                figure.savefig(temporary, format=suffix[1:], dpi=dpi, metadata=NO_METADATA.get(suffix))
                if temporary.stat().st_size <= MOST_BYTES:
                    break


def log_ticks(axis: Any, unit: str | None = None) -> None:
    """Make an axis logarithmic, with ticks at 1, 2 and 5 of each decade, such as '0.05', or '50 kB' with a unit."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullLocator, StrMethodFormatter

    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(EngFormatter(unit) if unit else StrMethodFormatter("{x:g}"))


def legend_below(panel: Any, columns: int = 2) -> None:
    """Add the legend of one panel below the whole figure."""
    handles, labels = panel.get_legend_handles_labels()
    panel.figure.legend(handles, labels, loc="outside lower center", ncols=min(columns, len(labels)))
