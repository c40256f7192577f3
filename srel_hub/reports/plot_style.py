"""One style for all pictures that are drawn: dark on white, in colors that the color-blind tell apart."""

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
    "savefig.facecolor": "white",  # a card may be shown on black
}
NAMELESS = {".png": {"Software": None}, ".svg": {"Date": None, "Creator": None}}
MOST_BYTES = 1_000_000  # of a picture; pages show many


@contextmanager
def panels(file: Path, rows: int, columns: int, width: float, height: float) -> Iterator[Any]:
    """A picture of panels [rows, columns], each so many inches, to be drawn within it; then it is written.

    Neither the time nor a version is in the file: equal pictures are equal files. It is drawn coarser where it would
    take more than MOST_BYTES.

    Raises:
        UserError: without matplotlib.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("matplotlib is missing, which draws pictures: pip install 'srel_hub[viz]'") from None
    with rc_context(STYLE):
        figure = Figure(figsize=(columns * width, rows * height), layout="constrained")
        yield figure.subplots(rows, columns, squeeze=False)
        with atomic_write(file) as temporary:
            for dpi in (150, 100, 70, 50):
                figure.savefig(temporary, format=file.suffix[1:], dpi=dpi, metadata=NAMELESS.get(file.suffix))
                if temporary.stat().st_size <= MOST_BYTES:
                    break


def log_ticks(axis: Any, unit: str | None = None) -> None:
    """Make an axis logarithmic, with ticks at 1, 2 and 5 of each decade: '0.05', or with a unit '50 kB'."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullLocator, StrMethodFormatter

    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(EngFormatter(unit) if unit else StrMethodFormatter("{x:g}"))


def legend_below(panel: Any, columns: int = 2) -> None:
    """The panel's legend, for the whole picture, below it."""
    handles, labels = panel.get_legend_handles_labels()
    panel.figure.legend(handles, labels, loc="outside lower center", ncols=min(columns, len(labels)))
