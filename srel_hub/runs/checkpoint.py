"""The state of a training on disk, so that a killed training resumes and gives the same bits."""

import hashlib
import io
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from srel_hub.core.seeds import derive_seed
from srel_hub.runs.saved_epochs import epochs_file, write_epochs
from srel_hub.storage.files import atomic_write


EVERY = 10.0  # seconds between two checkpoints; a kill costs one epoch, or this many seconds of shorter ones


class Checkpoint:
    """Network, optimizer and learning curve after an epoch.

    This is the complete state of a training, because the random state of an epoch follows from its seed.

    Args:
        file: The file of the checkpoint. It begins with the sha256 of the remaining bytes, so that a damaged file is
            not used. A small JSON file beside it has the number of epochs, for `srel-hub status`.
        model: The network, which is restored in place.
        optimizer: The optimizer, which is restored in place.

    Attributes:
        curve: One entry for every finished epoch.
    """

    def __init__(self, file: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self._file, self._model, self.optimizer = file, model, optimizer
        self._saved = time.monotonic()
        self.curve: list[dict[str, Any]] = []

    @property
    def epochs(self) -> int:
        """Number of finished epochs."""
        return len(self.curve)

    def restore(self) -> None:
        """Load the last checkpoint, if it exists and is intact."""
        if not self._file.is_file():
            return
        content = self._file.read_bytes()
        digest, state = content[:32], content[32:]
        if hashlib.sha256(state).digest() != digest:
            return
        stored = torch.load(io.BytesIO(state), weights_only=True, map_location="cpu")  # load_state_dict moves it
        self._model.load_state_dict(stored["model"])
        self.optimizer.load_state_dict(stored["optimizer"])
        self.curve = stored["curve"]

    def add(self, writes: bool, **point: Any) -> None:
        """Add a finished epoch to the curve, and save if the last save was long enough ago.

        Args:
            writes: Whether this process writes the file.
            point: Values of the curve at this epoch.
        """
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
        write_epochs(self._file, self.epochs)

    def remove(self) -> None:
        """Delete the checkpoint; the training is complete."""
        remove_checkpoint(self._file)


def remove_checkpoint(file: Path) -> None:
    """Delete the checkpoint of a complete training."""
    for part in (file, epochs_file(file)):
        part.unlink(missing_ok=True)


def seed_epoch(seed: int, epoch: int, rank: int = 0) -> None:
    """Seed torch's global generator, which dropout uses, for one epoch and process."""
    torch.manual_seed(derive_seed(seed, "epoch", epoch, rank))
