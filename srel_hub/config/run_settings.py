"""The recipe's section `run`: where and how this run works on this machine."""

import re
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from srel_hub.config.fields import MODULE, SPARSE, STRICT, Threads


def _check_module(name: str) -> str:
    """Reject a name that `import` does not accept, and explain what users write instead."""
    if not re.fullmatch(MODULE, name):
        stem = re.sub(r"\.py$", "", name).split("/")[-1]
        hint = f"; write {stem}" if re.fullmatch(MODULE, stem) else ""
        raise ValueError(f"must be the name of a module in one file, such as my_net{hint}, got {name!r}")
    return name


Module = Annotated[str, AfterValidator(_check_module), Field(json_schema_extra={"pattern": MODULE})]


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Where and how the run works. Not part of the published recipe.

    The run directory keeps `root`, `imports`, `cpu_threads` and `compile`; the other fields apply to one command.
    """

    __pydantic_config__ = STRICT

    root: str = "runs"
    """Folder of the run directories."""

    imports: tuple[Module, ...] = field(default=(), metadata=SPARSE)
    """Modules with your own networks, such as `my_net` for the file my_net.py in the current folder. They are imported,
    which runs their code. Required by `factory` of a network, and by teachers that `save_teacher` wrote."""

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
