"""The machine that a process runs on: cores, memory, processor, library versions."""

import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch

from srel_hub import __version__
from srel_hub.config.resources import CHECKOUT


LIBRARIES = ("torch", "transformers", "accelerate", "datasets", "pillow")


def local_processes() -> int:
    """Return the number of processes of this launch on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def fair_threads() -> int:
    """Return the number of threads for each process of this machine, so that they fill its cores."""
    return max(1, cores() // local_processes())


def total_memory() -> int:
    """Return the bytes of memory of the machine."""
    return int(psutil.virtual_memory().total)


def peak_resident() -> int:
    """Return the peak memory of this process in bytes."""
    status = Path("/proc/self/status")
    if status.is_file():  # Linux starts a process's ru_maxrss at that of its parent
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return 1024 * int(line.split()[1])
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource  # which Windows does not have

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def library_versions() -> dict[str, str]:
    """Return the library versions that cards list."""
    return {"srel_hub": __version__} | {name: version(name) for name in LIBRARIES}


def machine_facts(device: torch.device) -> dict[str, Any]:
    """Return the conditions of a measurement: device, cores, threads, versions and commit."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "versions": library_versions(),
        "commit": commit(),
    }


def processor() -> str:
    """Return the processor's name and its instruction sets that matter for speed."""
    known = Path("/proc/cpuinfo")
    if not known.is_file():
        return platform.processor()
    lines = dict(line.split(":", 1) for line in known.read_text().splitlines() if ":" in line)
    facts = {key.strip(): value.strip() for key, value in lines.items()}
    has = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in facts.get("flags", "").split()]
    return f"{facts.get('model name', platform.machine())} ({', '.join(has)})"


def commit() -> str | None:
    """Return the commit of the checkout that contains this package; None if the package is not in a git checkout."""
    if not (CHECKOUT / ".git").exists():  # git would answer for an unrelated repository further up
        return None
    command = ["git", "-C", str(CHECKOUT), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip() or None
    except OSError:  # no git here
        return None
