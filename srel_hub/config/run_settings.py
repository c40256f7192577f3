"""The recipe's section `run`: where and how this run works on this machine."""

from dataclasses import dataclass
from typing import Literal

from srel_hub.config.fields import STRICT, Threads


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Where and how the run works. Not part of the published recipe.

    The run directory keeps `root`, `cpu_threads` and `compile`; the other fields apply to one command.
    """

    __pydantic_config__ = STRICT

    root: str = "runs"
    """Folder of the run directories."""

    cpu_threads: Threads | Literal["auto"] = "auto"
    """CPU threads of each process. auto: the machine's cores divided by the processes on it. Results on CPUs depend on
    this number."""

    compile: bool = False
    """Whether to compile the networks with `torch.compile`, as CUDA graphs on GPUs."""

    cooperate: bool = False
    """Whether to work on a run directory together with other launches, such as the jobs of a Slurm array."""

    overwrite: bool = False
    """Whether to redo stages whose part of the recipe changed. Their previous results are replaced."""

    check: Literal["fast", "full"] = "fast"
    """How to detect files that changed since they were written. `fast`: by size and modification time. `full`: by
    their SHA-256."""

    trackers: tuple[Literal["trackio", "tensorboard", "wandb"], ...] = ()
    """Experiment trackers to send metrics to."""
