"""This process and the others of its launch: the Accelerator, cores, memory, and the launcher's silent traps."""

import os
from collections.abc import Sequence
from datetime import timedelta
from importlib import import_module

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

from srel_hub.errors import UserError
from srel_hub.runs.machine import local_processes


LINE = "accelerate launch --multi_gpu --num_processes {count} -m srel_hub.condense RECIPE"
PATIENCE = timedelta(days=30)  # a process may wait for another's training; a dead one is the launcher's business


def make_accelerator(trackers: Sequence[str] = (), place: str = ".") -> Accelerator:
    """The one place where the Accelerator is built.

    Raises:
        UserError: where the launcher dropped processes, started more than there are devices, or a tracker's package
            is missing.
    """
    _require_launch(os.environ)
    _require_trackers(trackers)
    torch.backends.cudnn.allow_tf32 = False  # float32 is what it says
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),
        log_with=list(trackers) or None,
        project_dir=place,
        kwargs_handlers=[
            InitProcessGroupKwargs(timeout=PATIENCE),
            # Running statistics are averaged, not the first process's; see squeeze.
            DistributedDataParallelKwargs(
                broadcast_buffers=False,
                # Else gradients are bucketed anew after a process's first step, and a resumed training would sum them
                # in another order: on CPUs, where bits are promised, they are not.
                find_unused_parameters=not torch.cuda.is_available(),
            ),
        ],
    )
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world != accelerator.num_processes:
        raise UserError(
            f"WORLD_SIZE={world}, but Accelerate sees {accelerator.num_processes}: every process would take itself "
            f"for the only one; start them with: {LINE.format(count=world)}"
        )
    return accelerator


def _require_launch(environment: "os._Environ[str]") -> None:
    if "MASTER_PORT" in environment and "WORLD_SIZE" not in environment:
        raise UserError(
            "MASTER_PORT is set, WORLD_SIZE is not: the launcher was asked for several processes and started one "
            "(`accelerate launch --cpu --num_processes N` does that). With or without GPUs, start N with: "
            f"{LINE.format(count='N')}; one with --num_processes 1; else unset MASTER_PORT"
        )
    for name, wrong in (("ACCELERATE_MIXED_PRECISION", "no"), ("ACCELERATE_DYNAMO_BACKEND", "no")):
        if environment.get(name, wrong).lower() != wrong:
            option = name.removeprefix("ACCELERATE_").lower()
            raise UserError(
                f"--{option} {environment[name].lower()}: how to compute is the recipe's; start with --{option} no"
            )
    local = local_processes()
    if torch.cuda.is_available() and local > torch.cuda.device_count():
        raise UserError(
            f"{local} processes on this machine, which has {torch.cuda.device_count()} GPUs; start one for each: "
            + LINE.format(count=torch.cuda.device_count())
        )


def _require_trackers(trackers: Sequence[str]) -> None:
    for name in trackers:
        try:
            import_module(name)
        except ImportError as error:  # Accelerate would go on without it
            raise UserError(f"run.trackers={name}: cannot be imported ({error}): pip install {name}") from None
