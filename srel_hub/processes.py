"""This process and the others of its launch: the Accelerator, cores, memory, and the launcher's silent traps."""

import os
import platform
import resource
import subprocess
import sys
from collections.abc import Sequence
from datetime import timedelta
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

from srel_hub import __version__
from srel_hub.faults import UserError


LIBRARIES = ("torch", "transformers", "accelerate", "datasets", "pillow")
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


def local_processes() -> int:
    """Processes of this launch on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def fair_threads() -> int:
    """Threads for each of this machine's processes."""
    return max(1, cores() // local_processes())


def total_memory() -> int:
    """Bytes of the machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def peak_resident() -> int:
    """Bytes that this process had in memory at most."""
    status = Path("/proc/self/status")
    if status.is_file():  # Linux begins a process's ru_maxrss at its parent's
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return 1024 * int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def library_versions() -> dict[str, str]:
    """What runs here, for the cards."""
    return {"srel_hub": __version__} | {name: version(name) for name in LIBRARIES}


def machine_facts(device: torch.device) -> dict[str, Any]:
    """What a measurement was taken on: device, threads, versions and commit."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "versions": library_versions(),
        "commit": commit(),
    }


def processor() -> str:
    """Its name, and which of the instructions that decide speed it has."""
    known = Path("/proc/cpuinfo")
    if not known.is_file():
        return platform.processor()
    lines = dict(line.split(":", 1) for line in known.read_text().splitlines() if ":" in line)
    facts = {key.strip(): value.strip() for key, value in lines.items()}
    has = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in facts.get("flags", "").split()]
    return f"{facts.get('model name', platform.machine())} ({', '.join(has)})"


def commit() -> str | None:
    """Of the checkout that this package lies in; None where it was installed without one."""
    checkout = Path(__file__).parent.parent
    if not (checkout / ".git").exists():  # git would tell of a repository further up, which is another's
        return None
    command = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip() or None
    except OSError:  # no git here
        return None
