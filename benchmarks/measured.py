"""What the benchmarks share: timing in alternation, and results as JSON with the machine that gave them."""

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
    """Seconds of each call, sorted; all take turns, after calls that warm up."""
    for work in works.values():
        for _ in range(warm_up):
            work()
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            wait()
            begun = time.perf_counter()
            work()
            wait()
            found[name].append(time.perf_counter() - begun)
    return {name: sorted(seconds) for name, seconds in found.items()}


def wait() -> None:
    """Until the device has done what it was told."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def told(seconds: Mapping[str, list[float]], images: int) -> dict[str, dict[str, float]]:
    """Of each work on so many images: median and spread in ms an image, images a second."""
    return {
        name: {
            "ms_per_image": round(1000 * statistics.median(each) / images, 5),
            "least": round(1000 * each[0] / images, 5),
            "most": round(1000 * each[-1] / images, 5),
            "images_per_second": round(images / statistics.median(each), 1),
        }
        for name, each in seconds.items()
    }


def matmul_rate(dtype: torch.dtype) -> float:
    """FLOP/s of a large square matrix product, the best of five."""
    side = 8192 if DEVICE.type == "cuda" else 1024
    a = torch.randn(side, side, device=DEVICE).to(dtype)
    return float(2 * side**3 / alternate({"product": lambda: a @ a})["product"][0])


def peak_memory() -> int:
    """MiB: of the device since the last `forget_peak`, of the process on a CPU (Linux)."""
    if DEVICE.type == "cuda":
        return round(torch.cuda.max_memory_allocated() / 2**20)
    return peak_resident() // 2**20


def forget_peak() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")


def machine() -> dict[str, Any]:
    """Device, threads, versions and commit."""
    return machine_facts(DEVICE)


def keep(name: str, results: object, **more: object) -> None:
    """Results as benchmarks/results/NAME.json."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps({**machine(), **more, "results": results}, indent=2) + "\n")


def write(name: str, results: object, **more: object) -> None:
    """As `keep`, and print them."""
    keep(name, results, **more)
    print(json.dumps(results, indent=2))


def run(name: str, cases: Mapping[str, Callable[[], dict[str, Any]]], budget: float = float("inf")) -> bool:
    """Measure each case that benchmarks/results/NAME.json does not have of this machine and commit.

    Args:
        budget: seconds after which no further case is begun.

    Returns:
        whether all are there.
    """
    RESULTS.mkdir(exist_ok=True)
    file, here, begun = RESULTS / f"{name}.json", machine(), time.monotonic()
    kept = json.loads(file.read_text()) if file.is_file() else {}
    done: dict[str, Any] = kept.pop("results", {})
    if kept != here:
        done = {}
    for case, measure in cases.items():
        if case in done:
            continue
        if time.monotonic() - begun > budget:
            print(f"out of time before {case}; the same command goes on from here")
            return False
        done[case] = measure()
        print(case, json.dumps(done[case]), flush=True)
        file.write_text(json.dumps({**here, "results": done}, indent=2) + "\n")
        if DEVICE.type == "cuda":
            torch.cuda.empty_cache()
    return True
