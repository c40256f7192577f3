"""What recover leaves of its way, for pictures: the loss terms, and how the first images came about.

`history/UNIT.safetensors` holds `iterations` int32 [M], `cross_entropy` and `bn` float32 [M] each, mean over the unit;
the first unit's also `frame-00000000`, ...: uint8 [n, 3, H, W], the first image of the first n classes after so many
iterations, at the size of that stage.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from srel_hub.storage.files import atomic_write


POINTS = 200  # at most, of a unit's terms
FRAMES = 16
CLASSES = 10
TERMS = ("cross_entropy", "bn")

Look = Callable[[], Tensor]


def frame_moments(iterations: int) -> list[int]:
    """At most FRAMES iterations from 0 to the last, close together at first, where images change most."""
    last = max(iterations, 1)
    found = {round((last + 1) ** (k / (FRAMES - 1))) - 1 for k in range(FRAMES)}
    return sorted(found | {0, last})


class History:
    """Records a unit's way; it waits for the device only where it keeps a frame.

    Args:
        iterations: of the unit.
        frames: whether images are kept.
    """

    def __init__(self, iterations: int, frames: bool) -> None:
        every = -(-iterations // POINTS)
        self._moments = {*range(every, iterations + 1, every), 1, iterations}
        self._frames = set(frame_moments(iterations)) if frames else set()
        self._iterations: list[int] = []
        self._terms: list[Tensor] = []
        self._seen: dict[str, Tensor] = {}

    def see(self, iteration: int, terms: dict[str, Tensor], look: Look) -> None:
        """The state after an iteration.

        Args:
            terms: each [G]; none before the first iteration.
            look: gives the first image of the first classes, uint8 [n, 3, H, W].
        """
        if terms and iteration in self._moments:
            self._iterations.append(iteration)
            self._terms.append(torch.stack([terms[name].detach().float().mean() for name in TERMS]))
        if iteration in self._frames:
            self._seen[f"frame-{iteration:08d}"] = look().contiguous()

    def save(self, file: Path) -> None:
        """Write what was seen."""
        terms = torch.stack(self._terms).cpu()
        told = {name: terms[:, index].contiguous() for index, name in enumerate(TERMS)}
        file.parent.mkdir(exist_ok=True)
        with atomic_write(file) as temporary:
            save_file(
                {"iterations": torch.tensor(self._iterations, dtype=torch.int32), **told, **self._seen}, temporary
            )


@dataclass(frozen=True)
class Way:
    """A run's history, read back.

    Attributes:
        iterations: int [M].
        terms: by name, float32 [U, M]: of every unit.
        frames: by iteration, uint8 [n, 3, H, W]; rising, sizes may differ.
    """

    iterations: list[int]
    terms: dict[str, Tensor]
    frames: dict[int, Tensor]


def read_history(folder: Path) -> Way | None:
    """The history in a run's folder; None where there is none (a run of version 0.7 or before)."""
    found = list(_read(folder))
    if not found:
        return None
    terms = {name: torch.stack([each[name] for each in found]) for name in TERMS}
    frames = {
        int(name.removeprefix("frame-")): found[0][name] for name in sorted(found[0]) if name.startswith("frame-")
    }
    return Way(found[0]["iterations"].tolist(), terms, frames)


def _read(folder: Path) -> Iterator[dict[str, Tensor]]:
    for file in sorted(folder.glob("*.safetensors")):
        yield load_file(file)
