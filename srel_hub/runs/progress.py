"""Progress bars that also go to the log."""

import time
from collections.abc import Callable

from tqdm import tqdm


LOG_EVERY = 10.0  # seconds between two lines in the log


class Bar:
    """A progress bar with rate and remaining time.

    Args:
        total: Number of steps; None if it is not known.
        title: Text before the bar.
        unit: The name of a step, such as 'it'.
        hidden: Whether to hide the bar, because another process of this machine shows it.
        log: Called with the bar's text every ten seconds and at the end.
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
        """Advance by steps that were made earlier and do not count for the rate."""
        if self._hidden or not steps:  # a disabled tqdm has no counters
            return
        self._bar.initial += steps
        self._bar.n += steps
        self._bar.refresh()

    def extend(self, steps: int) -> None:
        """Add steps to the total, because finished work has to be redone."""
        if not self._hidden:
            self._bar.total = (self._bar.total or 0) + steps

    def forward(self) -> None:
        """Advance by one step."""
        self._bar.update()
        if not self._hidden and time.monotonic() - self._logged > LOG_EVERY and self._bar.n != self._bar.total:
            self._logged = time.monotonic()
            self._log(str(self._bar))

    def reach(self, position: int) -> None:
        """Advance to a position that other processes may have reached."""
        if not self._hidden and position > self._bar.n:
            self._bar.update(position - self._bar.n)
