"""Measure: what an iteration of recover costs on this device, by network, beside what the paper tells of its own.

    srel-hub measure
    srel-hub measure resnet18:0.5 mobilenet_v2 --size 32 --batch 10 --classes 10 --json cost.json

Networks have random weights; nothing else is left out: the iteration is the stage's own. A CPU's peak is that of the
process, so that each network is measured in a process of its own.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from srel_hub.config import NETWORKS, Network, Recover
from srel_hub.config.validation import describe_errors
from srel_hub.core.engine import Engine, Precision
from srel_hub.errors import ErrorCollector, UserError
from srel_hub.runs.launch import make_accelerator
from srel_hub.runs.machine import fair_threads, machine_facts, peak_resident
from srel_hub.runs.progress import Bar
from srel_hub.stages.recover.objective import Objective
from srel_hub.stages.recover.optimize import Unit, synthesize
from srel_hub.storage.files import format_bytes
from srel_hub.studies.plan.price import iteration
from srel_hub.teachers.architectures import build, require_usable
from srel_hub.teachers.classifier import Classifier
from srel_hub.teachers.cost_model import HEAP_FACTOR, build_on_meta, state_bytes
from srel_hub.teachers.pretrained import require_batchnorm


Measured = dict[str, Any]  # as --json writes it

PAPER = {  # SRe2L (Yin, Xing & Shen, 2023), table 1, Tiny-ImageNet: ms an iteration and image, GB at the peak
    "convnet x 1": {"ms": 0.24, "gb": 4.2},
    "resnet18 x 1": {"ms": 0.75, "gb": 7.6},
    "resnet50 x 1": {"ms": 2.75, "gb": 33.8},
}
PAPER_SIZE, PAPER_BATCH = 64, 100  # pixels; images at a time, by its code
DEFAULTS = ("convnet", "resnet18", "resnet50")
NO_MEMORY: Measured = {"ms": None, "peak_bytes": None}
IMAGENET_SIDE = 128  # pixels from which a ResNet has the stem that config.Network says
WARM_UP = {"cpu": 1, "cuda": 5}  # iterations; the first ones allocate, choose kernels, record CUDA graphs
KILLED = (-9, 137)  # how a process ends that took more memory than there is


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        networks: MODEL[:WIDTH], each a recipe's network or a Hub id.
        size: pixels of an image's side.
        batch: images optimized together, each of another class.
        classes: outputs of the networks.
        iterations: timed, after some that warm up.
        compile: as `run.compile` of a recipe.
    """

    networks: Sequence[str]
    size: int
    batch: int
    classes: int
    iterations: int
    precision: Precision
    compile: bool


def network_of(text: str, side: int) -> Network:
    """The network that MODEL[:WIDTH] names, with a ResNet's stem for images of `side` pixels.

    Raises:
        UserError: where there is none.
    """
    model, colon, width = text.rpartition(":")
    fields: dict[str, Any] = {"model": model, "width": width} if colon and "/" not in width else {"model": text}
    if side >= IMAGENET_SIDE and fields["model"] in NETWORKS and fields["model"].startswith("resnet"):
        fields["stem"] = "imagenet"
    try:
        return TypeAdapter(Network).validate_python(fields)
    except ValidationError as error:
        raise UserError(f"MODEL={text}: {'; '.join(describe_errors(error, Network))}") from None


def usable(asked: Settings) -> list[tuple[Network, nn.Module]]:
    """What is to be measured, each network also on the meta device.

    Raises:
        UserError: with every fault, before anything is measured.
    """
    faults, found = ErrorCollector(), []
    for option, least in (("size", 1), ("batch", 2), ("classes", 2), ("iterations", 1)):
        if getattr(asked, option) < least:
            faults.found.append(f"--{option}={getattr(asked, option)}: must be at least {least}")
    if asked.batch > asked.classes:
        faults.found.append(
            f"--batch={asked.batch}: must be at most --classes={asked.classes}, for a batch has an image of each of "
            "its classes; lower --batch, or raise --classes"
        )
    faults.raise_all()
    for text in asked.networks:
        with faults.collect():
            network, size = network_of(text, asked.size), (asked.size, asked.size)
            hollow = build_on_meta(network, asked.classes, size)
            require_usable(hollow, asked.classes, size, f"MODEL={text}")
            require_batchnorm(hollow, f"MODEL={text}")
            found.append((network, hollow))
    faults.raise_all()
    return found


def report(asked: Settings) -> Measured:
    """All rows, and what they were measured on.

    Raises:
        UserError: where something cannot be measured.
        OSError: where a measuring process failed.
    """
    networks, device = usable(asked), make_accelerator().device
    torch.set_num_threads(fair_threads())
    rows = [
        {
            "network": network.title,
            "parameters": sum(parameter.numel() for parameter in hollow.parameters()),
            **_in_own_process(text, asked),
            "forecast_bytes": forecast(hollow, asked, device.type),
            "paper": paper_figures(network, asked.size, asked.batch),
        }
        for text, (network, hollow) in zip(asked.networks, networks, strict=True)
    ]
    options = {name: getattr(asked, name) for name in ("precision", "compile", "size", "batch", "classes")}
    return {**machine_facts(device), **options, "iterations": asked.iterations, "results": rows}


def paper_figures(network: Network, size: int, batch: int) -> dict[str, float] | None:
    """What the paper tells of this network; None where it tells nothing of it, or of such images."""
    return PAPER.get(network.title) if (size, batch) == (PAPER_SIZE, PAPER_BATCH) else None


def forecast(hollow: nn.Module, asked: Settings, kind: str) -> int:
    """Peak bytes as srel_hub.plan foretells them, of a network on the meta device."""
    spec, unit = _work(asked, iterations=2)
    found = iteration(spec, unit, hollow, asked.classes, (asked.size, asked.size), asked.precision, kind)
    return state_bytes(hollow) + found.memory + int(HEAP_FACTOR * found.heap)


def _work(asked: Settings, iterations: int) -> tuple[Recover, Unit]:
    return Recover(ipc=1, iterations=iterations, class_block=asked.batch), Unit(range(1), range(asked.batch))


def _in_own_process(text: str, asked: Settings) -> Measured:
    """`ms` and `peak_bytes` of one network, measured in a process of its own; None where memory does not suffice."""
    options = [f"--{name}={getattr(asked, name)}" for name in ("size", "batch", "classes", "iterations", "precision")]
    command = [sys.executable, "-m", "srel_hub", "measure", text, *options, "--alone", *["--compile"] * asked.compile]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)  # its progress is shown here
    if done.returncode in KILLED:
        return NO_MEMORY
    if done.returncode:
        raise OSError(f"MODEL={text}: the process that measures it ended with status {done.returncode}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measured(text: str, asked: Settings) -> Measured:
    """`ms` and `peak_bytes` of one network, measured in this process."""
    network, size, device = network_of(text, asked.size), (asked.size, asked.size), make_accelerator().device
    torch.set_num_threads(fair_threads())
    build_on_meta(network, asked.classes, size)  # loads the architecture's code, which is not the iteration's
    before = 0 if device.type == "cuda" else psutil.Process().memory_info().rss
    names = tuple(str(index) for index in range(asked.classes))
    try:
        model = build(network, names, size, seed=0).to(device)
        classifier = Classifier(model, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), names, size)
        seconds = _timed(classifier, network.title, asked, device)
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error):
            return NO_MEMORY
        raise
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_resident() - before
    return {"ms": round(1000 * statistics.median(seconds) / asked.batch, 4), "peak_bytes": peak}


def _timed(classifier: Classifier, title: str, asked: Settings, device: torch.device) -> list[float]:
    """Seconds of each iteration after those that warm up; the device is waited for after each."""
    seconds, warm_up = [], WARM_UP[device.type]
    spec, unit = _work(asked, warm_up + asked.iterations)
    bar = Bar(spec.iterations, f"measure {title}", "it", hidden=False, log=lambda line: None)
    with Objective([classifier], spec, Engine(asked.precision, asked.compile)) as objective, bar:
        steps = synthesize(objective, unit, seed=0)
        next(steps)  # what it begins with
        begun = time.perf_counter()
        for _ in steps:
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds.append(time.perf_counter() - begun)
            bar.forward()
            begun = time.perf_counter()
    return seconds[warm_up:]


def lines(found: Measured) -> Iterator[str]:
    """A report as Markdown: the table, and what it was measured on."""
    yield "| network | parameters | ms per iteration and image | peak memory | forecast | paper: ms | paper: memory |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for row in found["results"]:
        ours = ["out of memory", ""] if row["ms"] is None else [f"{row['ms']:.3g}", format_bytes(row["peak_bytes"])]
        paper = [f"{row['paper']['ms']:g}", f"{row['paper']['gb']:g} GB"] if row["paper"] else ["", ""]
        cells = [row["network"], f"{row['parameters']:,}", *ours, format_bytes(row["forecast_bytes"]), *paper]
        yield f"| {' | '.join(cells)} |"
    yield ""
    compiled = ", compiled" if found["compile"] else ""
    yield (
        f"{found['device']}, threads: {found['threads']}, torch {found['versions']['torch']}, {found['precision']}"
        f"{compiled}; {found['batch']} images of {found['size']} x {found['size']} pixels at a time, of "
        f"{found['classes']} classes; median of {found['iterations']} iterations. The forecast is that of "
        "srel_hub.plan."
    )
    if any(row["paper"] for row in found["results"]):
        yield (
            "The paper's figures (SRe2L, table 1) are of Tiny-ImageNet at 64 x 64 pixels, on its authors' GPU; their "
            "code computes in float32, 100 images at a time. MTT, as told there, takes 12.6 ms and 48.9 GB with the "
            "ConvNet."
        )
