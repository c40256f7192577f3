"""Loss curves and snapshots recorded during recover, for pictures.

`history/UNIT.safetensors` holds `iterations` int32 [M], and `cross_entropy` and `bn`, float32 [M] each, the mean over
the unit. The first unit also has `frame-00000000`, ...: uint8 [n, 3, H, W], the first image of the first n classes
after that many iterations, at the size of that stage.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from srel_hub.storage.files import atomic_write


POINTS = 200  # of a unit's curves at most; more than a plot's pixels would show
FRAMES = 16
CLASSES = 10
TERMS = ("cross_entropy", "bn")


def frame_iterations(iterations: int) -> list[int]:
    """Return at most FRAMES iterations from 0 to the last, denser at first, where images change most."""
    last = max(iterations, 1)
    spaced = {round((last + 1) ** (k / (FRAMES - 1))) - 1 for k in range(FRAMES)}
    return sorted(spaced | {0, last})


class Trace:
    """The trace of one unit's optimization. It waits for the device only when it records a frame.

    Args:
        iterations: Number of iterations of the unit.
        frames: Whether to record images.
    """

    def __init__(self, iterations: int, frames: bool) -> None:
        every = -(-iterations // POINTS)
        self._recorded = {*range(every, iterations + 1, every), 1, iterations}
        self._framed = set(frame_iterations(iterations)) if frames else set()
        self._iterations: list[int] = []
        self._terms: list[Tensor] = []
        self._frames: dict[str, Tensor] = {}

    def record(self, iteration: int, terms: Mapping[str, Tensor], image: Callable[[], Tensor]) -> None:
        """Record the state after an iteration, if this iteration is to be recorded.

        Args:
            iteration: Number of iterations made.
            terms: The loss terms, each [G]; empty before the first iteration.
            image: A function that returns the first image of the first classes, uint8 [n, 3, H, W].
        """
        if terms and iteration in self._recorded:
            self._iterations.append(iteration)
            self._terms.append(torch.stack([terms[name].detach().float().mean() for name in TERMS]))
        if iteration in self._framed:
            self._frames[f"frame-{iteration:08d}"] = image().contiguous()

    def save(self, file: Path) -> None:
        """Write the recorded terms and frames."""
        terms = torch.stack(self._terms).cpu()
        curves = {name: terms[:, index].contiguous() for index, name in enumerate(TERMS)}
        file.parent.mkdir(exist_ok=True)
        with atomic_write(file) as temporary:
            save_file(
                {"iterations": torch.tensor(self._iterations, dtype=torch.int32), **curves, **self._frames}, temporary
            )


@dataclass(frozen=True)
class History:
    """The traces of a run's units.

    Attributes:
        iterations: The M recorded iterations.
        terms: By name, float32 [U, M], a row for every unit.
        frames: By iteration, uint8 [n, 3, H, W]; sizes may differ between stages.
    """

    iterations: list[int]
    terms: dict[str, Tensor]
    frames: dict[int, Tensor]


def read_history(folder: Path) -> History | None:
    """Read the traces in a run's folder; return None if there are no traces, as in a run with given images."""
    units = [load_file(file) for file in sorted(folder.glob("*.safetensors"))]
    if not units:
        return None
    terms = {name: torch.stack([unit[name] for unit in units]) for name in TERMS}
    frames = {
        int(name.removeprefix("frame-")): units[0][name] for name in sorted(units[0]) if name.startswith("frame-")
    }
    return History(units[0]["iterations"].tolist(), terms, frames)
