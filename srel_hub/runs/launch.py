"""The Accelerator of a launch, and checks against options that launchers silently ignore."""

import os
from collections.abc import Mapping, Sequence
from datetime import timedelta
from importlib import import_module

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

from srel_hub.errors import ErrorCollector, UserError
from srel_hub.runs.machine import local_processes


COMMAND = "accelerate launch --multi_gpu --num_processes {count} -m srel_hub.condense RECIPE"
# Ways to divide a network among processes, by the variable with which accelerate's launcher requests them.
SHARDING = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism config (tensor, context or sequence parallelism)",
}
OFF = ("", "0", "false", "no", "off")
# A process may wait for another one's whole training. The default of 30 minutes would kill it; a process that died is
# the launcher's business.
COLLECTIVE_TIMEOUT = timedelta(days=30)


def make_accelerator(trackers: Sequence[str] = (), place: str = ".") -> Accelerator:
    """Build the Accelerator of this process. This is the only place that builds one.

    Args:
        trackers: Names of experiment trackers.
        place: Folder for the trackers' files.

    Raises:
        UserError: If the launcher dropped processes, started more processes than devices, or received options that are
            set in the recipe; or if a tracker's package is missing.
    """
    _require_launch(os.environ)
    require_trackers(trackers)
    torch.backends.cudnn.allow_tf32 = False  # convolutions in float32 really are; TF32 keeps 10 bits of 23
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),
        log_with=list(trackers) or None,
        project_dir=place,
        kwargs_handlers=[
            InitProcessGroupKwargs(timeout=COLLECTIVE_TIMEOUT),
            # Running statistics are averaged over processes by squeeze, not copied from the first one.
            DistributedDataParallelKwargs(
                broadcast_buffers=False,
                # By default DDP regroups its gradient buckets after the first step, so a resumed training would sum in
                # another order. On CPUs, where results are promised bit for bit, this option prevents that.
                find_unused_parameters=not torch.cuda.is_available(),
            ),
        ],
    )
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world != accelerator.num_processes:
        raise UserError(
            f"WORLD_SIZE={world}, but Accelerate sees {accelerator.num_processes}: each process would run as if it "
            f"were alone; start the processes with: {COMMAND.format(count=world)}"
        )
    return accelerator


def _require_launch(environment: Mapping[str, str]) -> None:
    """Raise one error with everything in the launcher's settings that this program does not support."""
    errors = ErrorCollector()
    if "MASTER_PORT" in environment and "WORLD_SIZE" not in environment:
        errors.messages.append(
            "MASTER_PORT is set but WORLD_SIZE is not: several processes were requested and only one was started "
            "(`accelerate launch --cpu --num_processes N` does that). Start N processes, with or without GPUs, with: "
            f"{COMMAND.format(count='N')}. Start one with --num_processes 1. Otherwise unset MASTER_PORT."
        )
    for name, setting in (("ACCELERATE_MIXED_PRECISION", "precision"), ("ACCELERATE_DYNAMO_BACKEND", "compilation")):
        if environment.get(name, "no").lower() != "no":
            option = name.removeprefix("ACCELERATE_").lower()
            errors.messages.append(
                f"--{option} {environment[name].lower()}: {setting} is set in the recipe; pass --{option} no"
            )
    for name, method in SHARDING.items():
        if environment.get(name, "").lower() not in OFF:
            errors.messages.append(
                f"{name}={environment[name]}: {method} is not supported, because every process has whole networks; "
                "it comes from accelerate's default config, a --config_file or an option. Start one process with "
                f"`srel-hub condense RECIPE`, or several with: {COMMAND.format(count='N')}"
            )
    local = local_processes()
    if torch.cuda.is_available() and local > torch.cuda.device_count():
        errors.messages.append(
            f"{local} processes run on this machine, which has {torch.cuda.device_count()} GPUs; start one process "
            "per GPU: " + COMMAND.format(count=torch.cuda.device_count())
        )
    errors.raise_all()


def require_trackers(trackers: Sequence[str]) -> None:
    """Check that the packages of experiment trackers can be imported.

    Raises:
        UserError: If one cannot. The message says how to install it.
    """
    for name in trackers:
        try:
            import_module(name)
        except ImportError as error:  # Accelerate itself would silently continue without it
            raise UserError(
                f"run.trackers={name}: the package {name} cannot be imported ({error}); run `pip install {name}`"
            ) from None
