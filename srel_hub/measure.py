"""What an iteration of recover costs on this machine, architecture by architecture (SRe2L, Table 1).

    python -m srel_hub.measure
    python -m srel_hub.measure resnet18 convnet:0.5 bn_vit_tiny --size 32 --batch 50 --json cost.json

A network is a name that recipes know, with a width after a colon, or a Hub id or folder. Each has random weights and a
process of its own, so that peaks of memory do not mix, and does what recover does, whole iterations of it.
"""

import argparse
import json
import multiprocessing
import platform
import resource
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from tqdm import tqdm

from srel_hub import networks
from srel_hub.cli import status_of
from srel_hub.costs import build_on_meta
from srel_hub.engine import Engine, Precision, best_precision
from srel_hub.faults import Faults, UserError, told
from srel_hub.files import in_bytes, write_text
from srel_hub.networks import require_usable
from srel_hub.objective import Objective
from srel_hub.pretrained import require_batchnorm
from srel_hub.processes import cores, library_versions
from srel_hub.recipe import Network, Recover
from srel_hub.recover import Unit, synthesise
from srel_hub.teacher import Classifier


WARM_UP = 2  # iterations
DEFAULT = ("convnet", "resnet18", "resnet50")
PAPER = {  # SRe2L, Table 1 (Tiny-ImageNet, 64 pixels): ms an iteration and image, GB at the peak
    "convnet x 1": (0.24, 4.2),
    "resnet18 x 1": (0.75, 7.6),
    "resnet50 x 1": (2.75, 33.8),
}
PAPER_MTT = (12.6, 48.9)  # MTT with the same ConvNet
PAPER_SIZE, PAPER_BATCH = 64, 100


@dataclass(frozen=True)
class Setting:
    """What is measured.

    Attributes:
        size: pixels a side.
        batch: images at a time, of as many classes.
        classes: of the network.
        iterations: that are timed.
    """

    size: int
    batch: int
    classes: int
    iterations: int
    precision: Precision
    compiled: bool


@dataclass(frozen=True)
class Cost:
    """Of one network.

    Attributes:
        ms: an iteration and image, median.
        peak_bytes: on a GPU, what torch had allocated there at most; on a CPU, by how much the process grew.
    """

    network: str
    parameters: int
    ms: float
    peak_bytes: int


def measure(network: Network, setting: Setting) -> Cost:
    """Time whole iterations of recover. Memory is right only in a process that did nothing else before."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    before = _peak(device)
    names, side = tuple(map(str, range(setting.classes))), (setting.size, setting.size)
    model = networks.build(network, names, side, seed=0).to(device).eval().requires_grad_(False)
    classifier = Classifier(model, (0.5,) * 3, (0.25,) * 3, names, side)
    spec = Recover(ipc=1, iterations=WARM_UP + setting.iterations)
    seconds: list[float] = []
    with Objective([classifier], spec, Engine(setting.precision, setting.compiled)) as objective:
        steps = synthesise(objective, Unit(range(1), range(setting.batch)), seed=0)
        next(steps)  # what it begins with
        for _ in tqdm(range(spec.iterations), network.title, unit="it", leave=False):
            begun = time.perf_counter()
            next(steps)
            _wait(device)
            seconds.append(time.perf_counter() - begun)
    ms = 1000 * statistics.median(seconds[WARM_UP:]) / setting.batch
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Cost(network.title, parameters, ms, _peak(device) - before)


def _peak(device: torch.device) -> int:
    """Bytes at most until now."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def costs(asked: Sequence[Network], setting: Setting) -> Iterator[Cost]:
    """Of every network, each in a process of its own."""
    context = multiprocessing.get_context("spawn")
    for network in asked:
        with context.Pool(1) as pool:
            yield pool.apply(measure, (network, setting))


def read_network(text: str) -> Network:
    """'resnet18', 'convnet:0.5', 'org/classifier'.

    Raises:
        UserError: naming what is wrong.
    """
    model, _, width = text.partition(":")
    try:
        return TypeAdapter(Network).validate_python({"model": model, "width": float(width or 1)})
    except ValidationError as error:
        raise UserError(f"{text}: {'; '.join(told(error, Network))}") from None
    except ValueError:
        raise UserError(f"{text}: the width after the colon must be a number, got {width!r}") from None


def require(network: Network, setting: Setting) -> None:
    """Refuse what recover would refuse.

    Raises:
        UserError: saying why.
    """
    size = (setting.size, setting.size)
    built = build_on_meta(network, setting.classes, size)
    require_usable(built, setting.classes, size, network.title)
    require_batchnorm(built, network.title)


def table(found: Sequence[Cost], setting: Setting) -> Iterator[str]:
    """Markdown: a line a network, beside the paper's: its ms at its size, its memory at its batch too."""
    sized = setting.size == PAPER_SIZE
    batched = sized and setting.batch == PAPER_BATCH
    yield "| network | parameters | ms an iteration and image | peak memory | the paper's ms | the paper's memory |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: |"
    for cost in found:
        ms, memory = PAPER.get(cost.network, (None, None))
        theirs = f"{ms if sized and ms else ''} | {f'{memory} GB' if batched and memory else ''}"
        yield f"| {cost.network} | {cost.parameters:,} | {cost.ms:.3g} | {in_bytes(cost.peak_bytes)} | {theirs} |"
    if batched:
        yield f"| MTT, with convnet | | not measured | not measured | {PAPER_MTT[0]} | {PAPER_MTT[1]} GB |"


def machine() -> dict[str, Any]:
    """Device, cores and versions."""
    gpu = torch.cuda.is_available()
    name = torch.cuda.get_device_name() if gpu else _processor()
    return {"device": name, "cores": cores(), "threads": torch.get_num_threads(), "versions": library_versions()}


def _processor() -> str:
    known = Path("/proc/cpuinfo")
    lines = known.read_text(encoding="utf-8").splitlines() if known.is_file() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m srel_hub.measure", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("networks", metavar="MODEL[:WIDTH]", nargs="*", help=f"default: {' '.join(DEFAULT)}")
    parser.add_argument("--size", type=int, default=PAPER_SIZE, help="pixels a side")
    parser.add_argument("--batch", type=int, default=PAPER_BATCH, help="images at a time")
    parser.add_argument("--classes", type=int, default=200)
    parser.add_argument("--iterations", type=int, default=5, help="that are timed, after two that are not")
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--compile", action="store_true", help="as run.compile")
    parser.add_argument("--json", metavar="FILE", type=Path, help="where the numbers are kept")
    asked = parser.parse_args(arguments)
    return status_of(lambda: _tell(asked))


def _tell(asked: argparse.Namespace) -> None:
    for name, least in (("size", 2), ("batch", 2), ("classes", 2), ("iterations", 1)):
        if getattr(asked, name) < least:
            raise UserError(f"--{name}={getattr(asked, name)}: must be {least} or more")
    if asked.batch > asked.classes:
        raise UserError(f"--batch={asked.batch}: an image of each class at most; raise --classes={asked.classes}")
    precision = best_precision() if asked.precision == "auto" else asked.precision
    setting = Setting(asked.size, asked.batch, asked.classes, asked.iterations, precision, asked.compile)
    faults, wanted = Faults(), []
    for text in asked.networks or DEFAULT:
        with faults.collected():
            wanted.append(read_network(text))
            require(wanted[-1], setting)
    faults.settle()
    found, here = list(costs(wanted, setting)), machine()
    print("\n".join(table(found, setting)))
    print(
        f"\non {here['device']}, {here['cores']} cores, torch {here['versions']['torch']}, {precision}: {asked.batch}"
    )
    print(f"images of {asked.size} pixels at a time. The paper's were measured on other hardware (Table 1)")
    if asked.json is not None:
        write_text(
            asked.json, json.dumps({**here, **asdict(setting), "results": [asdict(c) for c in found]}, indent=2) + "\n"
        )


if __name__ == "__main__":
    sys.exit(main())
