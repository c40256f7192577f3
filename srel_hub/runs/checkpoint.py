"""A training's state on disk, so that it goes on after a kill with the bits it would have had."""

import hashlib
import io
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from srel_hub.core.seeds import derive_seed
from srel_hub.storage.files import atomic_write


EVERY = 10.0  # seconds between two checkpoints: a kill costs the epoch at hand, or as much of shorter ones


class Checkpoint:
    """Network, optimizer and curve after an epoch. Nothing else decides the rest: an epoch's random state is its seed.

    Args:
        file: begins with the sha256 of what follows, so that a damaged one is not used.
        model, optimizer: to be saved, and to be restored.
    """

    def __init__(self, file: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self._file, self._model, self.optimizer = file, model, optimizer
        self._saved = time.monotonic()
        self.curve: list[dict[str, Any]] = []

    @property
    def epochs(self) -> int:
        """How many are behind."""
        return len(self.curve)

    def restore(self) -> None:
        """Go back to the last checkpoint, if there is one that is whole."""
        if not self._file.is_file():
            return
        content = self._file.read_bytes()
        digest, state = content[:32], content[32:]
        if hashlib.sha256(state).digest() != digest:
            return
        kept = torch.load(io.BytesIO(state), weights_only=True, map_location="cpu")  # loading moves what must be moved
        self._model.load_state_dict(kept["model"])
        self.optimizer.load_state_dict(kept["optimizer"])
        self.curve = kept["curve"]

    def add(self, writes: bool, **point: Any) -> None:
        """An epoch is over; `point` is what the curve tells of it."""
        self.curve.append(point)
        if writes and time.monotonic() - self._saved > EVERY:
            self._write()
            self._saved = time.monotonic()

    def _write(self) -> None:
        buffer = io.BytesIO()
        state = {"model": self._model.state_dict(), "optimizer": self.optimizer.state_dict(), "curve": self.curve}
        torch.save(state, buffer)
        with atomic_write(self._file) as temporary, temporary.open("wb") as file:
            file.write(hashlib.sha256(buffer.getbuffer()).digest())
            file.write(buffer.getbuffer())

    def remove(self) -> None:
        self._file.unlink(missing_ok=True)


def seed_epoch(seed: int, epoch: int, rank: int = 0) -> None:
    """Give torch's own generator, which dropout draws from, the state that this epoch always begins with."""
    torch.manual_seed(derive_seed(seed, "epoch", epoch, rank))
