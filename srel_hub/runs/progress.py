"""A progress bar with rate and time left, whose line also goes to a log."""

import time
from collections.abc import Callable

from tqdm import tqdm


LOG_EVERY = 10.0  # seconds between two lines in the log


class Bar:
    """One bar.

    Args:
        hidden: not shown here, since another process of this machine shows it.
        log: takes the bar's line, every ten seconds and at the end.
    """

    def __init__(self, total: int | None, title: str, unit: str, hidden: bool, log: Callable[[str], None]) -> None:
        self._bar = tqdm(total=total, desc=title, unit=unit, dynamic_ncols=True, mininterval=0.5, disable=hidden)
        self._hidden, self._log, self._logged = hidden, log, time.monotonic()

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        if not self._hidden:
            self._log(str(self._bar))

    def skip(self, steps: int) -> None:
        """These were made before: they do not count for the rate."""
        if self._hidden or not steps:  # a hidden bar keeps nothing
            return
        self._bar.initial += steps
        self._bar.n += steps
        self._bar.refresh()

    def more(self, steps: int) -> None:
        """These are to be made after all."""
        if not self._hidden:
            self._bar.total = (self._bar.total or 0) + steps

    def forward(self) -> None:
        self._bar.update()
        if not self._hidden and time.monotonic() - self._logged > LOG_EVERY and self._bar.n != self._bar.total:
            self._logged = time.monotonic()
            self._log(str(self._bar))

    def reach(self, position: int) -> None:
        """Others may have brought it further than this process did."""
        if not self._hidden and position > self._bar.n:
            self._bar.update(position - self._bar.n)
