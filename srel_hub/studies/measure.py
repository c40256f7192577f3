"""Measure what one iteration of recover costs on this device, for each network, beside the figures of the paper.

    srel-hub measure
    srel-hub measure resnet18:0.5 mobilenet_v2 --size 32 --batch 10 --classes 10 --json cost.json

Networks have random weights; otherwise the iteration is the one that recover runs. On a CPU, peak memory is measured
for the whole process, so each network is measured in its own process.
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
from srel_hub.reports.tables import markdown_table
from srel_hub.runs.launch import make_accelerator
from srel_hub.runs.machine import fair_threads, machine_facts, peak_resident
from srel_hub.runs.progress import Bar
from srel_hub.stages.recover.objective import Objective
from srel_hub.stages.recover.optimize import synthesize
from srel_hub.stages.recover.units import Unit
from srel_hub.storage.files import format_bytes
from srel_hub.studies.plan.stage_plans import recover_iteration_cost
from srel_hub.teachers.architectures import build, require_usable
from srel_hub.teachers.classifier import Classifier
from srel_hub.teachers.cost_model import HEAP_FACTOR, build_on_meta, state_bytes
from srel_hub.teachers.pretrained import require_batchnorm


Figures = dict[str, Any]  # JSON as `--json` writes it

# SRe2L (Yin, Xing and Shen, 2023), table 1, Tiny-ImageNet: ms per iteration and image, and peak memory in GB.
PAPER = {
    "convnet x 1": {"ms": 0.24, "gb": 4.2},
    "resnet18 x 1": {"ms": 0.75, "gb": 7.6},
    "resnet50 x 1": {"ms": 2.75, "gb": 33.8},
}
PAPER_SIZE, PAPER_BATCH = 64, 100  # pixels of Tiny-ImageNet; the batch is the default of the paper's code
OUT_OF_MEMORY: Figures = {"ms": None, "peak_bytes": None}
IMAGENET_SIDE = 128  # pixels from which a ResNet gets the ImageNet stem (see config.Network)
# Iterations before timing starts. The first one allocates memory and chooses kernels; on a GPU the next ones record
# CUDA graphs.
WARM_UP = {"cpu": 1, "cuda": 5}
KILLED = (-9, 137)  # exit status after the kernel ended a process for lack of memory, without and with a shell


@dataclass(frozen=True)
class Settings:
    """The networks to measure, and the settings of the measurement.

    Attributes:
        networks: MODEL[:WIDTH] for each network: a model as in a recipe, or a Hub id.
        size: Side of the images in pixels.
        batch: Number of images that are optimized together, each of a different class.
        classes: Number of outputs of the networks.
        iterations: Number of timed iterations, after the warm-up.
        precision: Precision of forward and backward passes.
        compile: Whether to compile the network, as `run.compile` does.
    """

    networks: Sequence[str]
    size: int
    batch: int
    classes: int
    iterations: int
    precision: Precision
    compile: bool

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the images in pixels."""
        return self.size, self.size

    def section(self, iterations: int) -> Recover:
        """Return the recipe's section `recover` of the measured work."""
        return Recover(ipc=1, iterations=iterations, class_block=self.batch)

    @property
    def unit(self) -> Unit:
        """The images that are optimized together."""
        return Unit(range(1), range(self.batch))


def parse_network(text: str, side: int) -> Network:
    """Return the network that MODEL[:WIDTH] names; a ResNet gets the stem for images of `side` pixels.

    Raises:
        UserError: If there is no such model, or the width is not a positive number.
    """
    model, colon, width = text.rpartition(":")
    fields: dict[str, Any] = {"model": model, "width": width} if colon and "/" not in width else {"model": text}
    if side >= IMAGENET_SIDE and fields["model"] in NETWORKS and fields["model"].startswith("resnet"):
        fields["stem"] = "imagenet"
    try:
        return TypeAdapter(Network).validate_python(fields)
    except ValidationError as error:
        raise UserError(f"MODEL={text}: {'; '.join(describe_errors(error, Network))}") from None


def check(settings: Settings) -> list[tuple[Network, nn.Module]]:
    """Check the settings, and return the networks to measure, each also on the meta device.

    Raises:
        UserError: If the settings are not valid. The message lists all problems.
    """
    errors, networks = ErrorCollector(), []
    for option, least in (("size", 1), ("batch", 2), ("classes", 2), ("iterations", 1)):
        if getattr(settings, option) < least:
            errors.messages.append(f"--{option}={getattr(settings, option)}: must be at least {least}")
    if settings.batch > settings.classes:
        errors.messages.append(
            f"--batch={settings.batch}: must be at most --classes={settings.classes}, because each image of a batch "
            "has a different class; lower --batch, or raise --classes"
        )
    errors.raise_all()
    for text in settings.networks:
        with errors.collect():
            network = parse_network(text, settings.size)
            on_meta = build_on_meta(network, settings.classes, settings.image_size)
            require_usable(on_meta, settings.classes, settings.image_size, f"MODEL={text}")
            require_batchnorm(on_meta, f"MODEL={text}")
            networks.append((network, on_meta))
    errors.raise_all()
    return networks


def measure_all(settings: Settings) -> Figures:
    """Measure each network in its own process, and describe the machine.

    Returns:
        The machine's facts, the settings, and `results`: for each network its name, parameters, `ms` per iteration
        and image, `peak_bytes`, the plan's `forecast_bytes`, and the `paper` figures or None.

    Raises:
        UserError: If a network cannot be measured.
        OSError: If a measuring process failed.
    """
    networks, device = check(settings), make_accelerator().device
    torch.set_num_threads(fair_threads())
    rows = [
        {
            "network": network.title,
            "parameters": sum(parameter.numel() for parameter in on_meta.parameters()),
            **_measure_in_own_process(text, settings),
            "forecast_bytes": forecast(on_meta, settings, device.type),
            "paper": paper_figures(network, settings.size, settings.batch),
        }
        for text, (network, on_meta) in zip(settings.networks, networks, strict=True)
    ]
    options = {name: getattr(settings, name) for name in ("precision", "compile", "size", "batch", "classes")}
    return {**machine_facts(device), **options, "iterations": settings.iterations, "results": rows}


def paper_figures(network: Network, size: int, batch: int) -> dict[str, float] | None:
    """Return the paper's figures of a network; None if the paper has none for this network, image size and batch."""
    return PAPER.get(network.title) if (size, batch) == (PAPER_SIZE, PAPER_BATCH) else None


def forecast(on_meta: nn.Module, settings: Settings, kind: str) -> int:
    """Return the peak bytes that `plan` expects for a network on the meta device, on a device of this kind."""
    cost = recover_iteration_cost(
        spec=settings.section(iterations=2),
        unit=settings.unit,
        network=on_meta,
        num_classes=settings.classes,
        size=settings.image_size,
        precision=settings.precision,
        kind=kind,
    )
    return state_bytes(on_meta) + cost.memory + int(HEAP_FACTOR * cost.heap)


def _measure_in_own_process(text: str, settings: Settings) -> Figures:
    names = ("size", "batch", "classes", "iterations", "precision")
    options = [f"--{name}={getattr(settings, name)}" for name in names] + ["--compile"] * settings.compile
    command = [sys.executable, "-m", "srel_hub", "measure", text, *options, "--alone"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)  # stderr, with the progress bar, stays visible
    if done.returncode in KILLED:
        return OUT_OF_MEMORY
    if done.returncode:
        raise OSError(
            f"MODEL={text}: the measuring process ended with status {done.returncode}; its error is printed above"
        )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure_here(text: str, settings: Settings) -> Figures:
    """Measure one network in this process.

    Returns:
        `ms` per iteration and image, the median of all iterations, and `peak_bytes`; None for both if memory does not
        suffice.
    """
    network, device = parse_network(text, settings.size), make_accelerator().device
    torch.set_num_threads(fair_threads())
    # The first network of an architecture loads its code, which must not count as memory of the iteration.
    build_on_meta(network, settings.classes, settings.image_size)
    before = 0 if device.type == "cuda" else psutil.Process().memory_info().rss
    names = tuple(str(index) for index in range(settings.classes))
    try:
        model = build(network, names, settings.image_size, seed=0).to(device)
        classifier = Classifier(model, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), names, settings.image_size)
        seconds = _time_iterations(classifier, network.title, settings, device)
    except RuntimeError as error:
        # On a CPU torch raises a plain RuntimeError, which only its text tells apart.
        if isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error):
            return OUT_OF_MEMORY
        raise
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_resident() - before
    return {"ms": round(1000 * statistics.median(seconds) / settings.batch, 4), "peak_bytes": peak}


def _time_iterations(classifier: Classifier, title: str, settings: Settings, device: torch.device) -> list[float]:
    """Return the seconds of each iteration after the warm-up."""
    seconds, warm_up = [], WARM_UP[device.type]
    spec = settings.section(warm_up + settings.iterations)
    bar = Bar(spec.iterations, f"measure {title}", "it", hidden=False, log=lambda line: None)
    with Objective([classifier], spec, Engine(settings.precision, settings.compile)) as objective, bar:
        steps = synthesize(objective, settings.unit, seed=0)
        next(steps)  # the initial noise
        begun = time.perf_counter()
        for _ in steps:
            if device.type == "cuda":
                torch.cuda.synchronize(device)  # kernels run asynchronously
            seconds.append(time.perf_counter() - begun)
            bar.forward()
            begun = time.perf_counter()
    return seconds[warm_up:]


def report_lines(figures: Figures) -> Iterator[str]:
    """Yield a report as Markdown: the table, and the conditions of the measurement.

    Args:
        figures: The result of `measure_all`.
    """
    header = ("network", "parameters", "ms per iteration and image", "peak memory", "forecast")
    yield from markdown_table((*header, "paper: ms", "paper: memory"), map(_cells, figures["results"]))
    yield ""
    compiled = ", compiled" if figures["compile"] else ""
    yield (
        f"{figures['device']}, threads: {figures['threads']}, torch {figures['versions']['torch']}, "
        f"{figures['precision']}{compiled}; batches of {figures['batch']} images of {figures['size']} x "
        f"{figures['size']} pixels, {figures['classes']} classes; median of {figures['iterations']} iterations. "
        "The forecast is that of srel-hub plan."
    )
    if any(row["paper"] for row in figures["results"]):
        yield (
            "The paper's figures (SRe2L, table 1) are for Tiny-ImageNet at 64 x 64 pixels on its authors' GPU; their "
            "code uses float32 and batches of 100 images. The same table gives 12.6 ms and 48.9 GB for MTT with the "
            "ConvNet."
        )


def _cells(row: Figures) -> list[str]:
    measured = ["out of memory", ""] if row["ms"] is None else [f"{row['ms']:.3g}", format_bytes(row["peak_bytes"])]
    paper = [f"{row['paper']['ms']:g}", f"{row['paper']['gb']:g} GB"] if row["paper"] else ["", ""]
    return [row["network"], f"{row['parameters']:,}", *measured, format_bytes(row["forecast_bytes"]), *paper]
