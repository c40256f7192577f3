"""Shared by all benchmarks: alternating timing, and results as JSON together with the machine that gave them."""

import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from srel_hub.runs.machine import machine_facts, peak_resident


RESULTS = Path(__file__).parent / "results"
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
REPEATS, WARM_UP = 5, 2


def alternate(
    works: Mapping[str, Callable[[], object]], repeats: int = REPEATS, warm_up: int = WARM_UP
) -> dict[str, list[float]]:
    """Time several functions by turns, so that a slow minute of the machine affects all of them alike.

    Args:
        works: The functions by name.
        repeats: Timed calls of each.
        warm_up: Calls of each before timing starts.

    Returns:
        The seconds of each call, sorted, by name.
    """
    for work in works.values():
        for _ in range(warm_up):
            work()
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            synchronize()
            begun = time.perf_counter()
            work()
            synchronize()
            seconds[name].append(time.perf_counter() - begun)
    return {name: sorted(calls) for name, calls in seconds.items()}


def in_true_float32(work: Callable[[], object]) -> Callable[[], object]:
    """Return the work with TF32 switched off, as a run does. PyTorch convolves in TF32 on a GPU by default."""

    def without_tf32() -> object:
        before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
        try:
            return work()
        finally:
            torch.backends.cudnn.allow_tf32 = before

    return without_tf32


def synchronize() -> None:
    """Wait until the device has finished all queued work."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def per_image(seconds: Mapping[str, list[float]], images: int) -> dict[str, dict[str, float]]:
    """Return median, least and most milliseconds per image, and images per second, by name.

    Args:
        seconds: Sorted seconds of each call, as `alternate` returns them.
        images: Number of images that each call processes.
    """
    return {
        name: {
            "ms_per_image": round(1000 * statistics.median(calls) / images, 5),
            "least": round(1000 * calls[0] / images, 5),
            "most": round(1000 * calls[-1] / images, 5),
            "images_per_second": round(images / statistics.median(calls), 1),
        }
        for name, calls in seconds.items()
    }


def matmul_rate(dtype: torch.dtype) -> float:
    """Return the FLOP/s of a large square matrix product, the best of five."""
    side = 8192 if DEVICE.type == "cuda" else 1024
    a = torch.randn(side, side, device=DEVICE).to(dtype)
    return float(2 * side**3 / alternate({"product": lambda: a @ a})["product"][0])


def peak_memory() -> int:
    """Return peak MiB since the last `reset_peak`: of the GPU, or of this process on a CPU (Linux)."""
    if DEVICE.type == "cuda":
        return round(torch.cuda.max_memory_allocated() / 2**20)
    return peak_resident() // 2**20


def reset_peak() -> None:
    """Start a new measurement of `peak_memory`."""
    if DEVICE.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # 5 resets VmHWM (man 5 proc)


def machine() -> dict[str, Any]:
    """Return device, threads, versions and commit."""
    return machine_facts(DEVICE)


def write_results(name: str, results: object, **more: object) -> None:
    """Write results and the machine to `benchmarks/results/NAME.json`."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps({**machine(), **more, "results": results}, indent=2) + "\n")


def write_and_print(name: str, results: object, **more: object) -> None:
    """Write results as `write_results` does, and print them."""
    write_results(name, results, **more)
    print(json.dumps(results, indent=2))


def run(name: str, cases: Mapping[str, Callable[[], dict[str, Any]]], budget: float = float("inf")) -> bool:
    """Measure the cases that `benchmarks/results/NAME.json` does not have yet from this machine and commit.

    Args:
        name: Name of the file of results.
        cases: Functions that measure, by case.
        budget: Seconds after which no further case is begun.

    Returns:
        Whether all cases are measured.
    """
    RESULTS.mkdir(exist_ok=True)
    file, here, begun = RESULTS / f"{name}.json", machine(), time.monotonic()
    stored = json.loads(file.read_text()) if file.is_file() else {}
    done: dict[str, Any] = stored.pop("results", {})
    if stored != here:  # numbers of two machines or commits are never mixed in one file
        done = {}
    for case, measure in cases.items():
        if case in done:
            continue
        if time.monotonic() - begun > budget:
            print(f"out of time before {case}; repeat the command to resume")
            return False
        done[case] = measure()
        print(case, json.dumps(done[case]), flush=True)
        file.write_text(json.dumps({**here, "results": done}, indent=2) + "\n")
        if DEVICE.type == "cuda":
            torch.cuda.empty_cache()
    return True
