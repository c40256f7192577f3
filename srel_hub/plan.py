"""The price of a run, before anything is spent: images, bytes, files, FLOPs, memory and hours.

    python -m srel_hub.plan recipes/in1k_ipc50.yaml --devices 8 --device-tflops 60

Nothing is guessed that can be known: labels and teachers are counted to the byte by the writers' own layout, and FLOPs
and memory are those of the stages' own steps, taken on torch's meta device, where tensors have shapes and no content.
Hours are FLOPs divided by a speed, and as good as that.
"""

import argparse
import copy
import functools
import json
import math
import sys
import time
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from srel_hub import teacher
from srel_hub.augment import normalise, render, sample_views
from srel_hub.cli import named
from srel_hub.evaluate import ROWS, trainings
from srel_hub.faults import UserError
from srel_hub.files import in_bytes
from srel_hub.images import SHARD_BYTES
from srel_hub.pixels import MOST_OF_DEVICE
from srel_hub.preflight import Prepared, first_size, prepare, teachers
from srel_hub.processes import total_memory
from srel_hub.recipe import Augment, Network, Optimizer, Recipe, Relabel
from srel_hub.recover import Unit, recipe_units, synthesise
from srel_hub.relabel import label_files
from srel_hub.run import Run
from srel_hub.soft_labels import LARGEST_COUNT, epoch_file_bytes, row_bytes
from srel_hub.split import Split
from srel_hub.teacher import Classifier
from srel_hub.training import (
    batch_count,
    descend,
    distillation_loss,
    forward_flops,
    make_optimizer,
    mixed_cross_entropy,
    prediction_batch,
)


META = torch.device("meta")
TOP_K = 100
ROOT_FILES = 4  # README.md, recipe.yaml, classes.csv, metrics.json
# glibc's malloc keeps blocks of up to 32 MiB in a heap that shrinks at its top only: ResNet-18 at 64 pixels held 1.5
# to 2.4 times what was alive; with every block mapped by itself it held what was alive, and took 1.5 times as long.
HEAP_BYTES, HEAP_FACTOR = 32 * 1024**2, 1.8
SAMPLED_VIEWS = 1000  # whose memory is measured, and scaled
MANY_LABELS = 10 * 1024**3
FOLDER_FILES, COMMIT_FILES = 10_000, 100  # hf.co/docs/hub/repositories-recommendations
LONG_HOURS = 48.0
MATMUL_SIDE, MATMUL_SECONDS = {"cpu": 1024, "cuda": 8192}, 0.5
SUSTAINED = 0.3  # of a matrix product's speed; what small convolutions reach is measured nowhere before they run
KNOBS = {  # of each stage: against memory, against time
    "squeeze": ("squeeze.batch_size", "squeeze.epochs"),
    "recover": ("recover.class_block, or set recover.stack=1", "recover.iterations"),
    "relabel": ("relabel.batch_size", "relabel.epochs"),
    "evaluate": ("evaluate.batch_size", "evaluate.epochs or evaluate.seeds"),
}


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a run works with.

    Attributes:
        devices: that share the work.
        tflops: float32 operations, in 10^12 a second, that each sustains.
        estimated: how `tflops` was come by, where nobody said it.
        kind: 'cpu' or 'cuda'.
        memory: bytes of the host, or of each GPU.
        resident: bytes that this process has there already.
    """

    devices: int
    tflops: float
    estimated: str | None
    kind: str
    memory: int
    resident: int


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a plan follows from.

    Attributes:
        size: (height, width) in pixels.
        train_images: of the training split; None where it is not opened.
        real_images: of a random real subset; None where there is none.
        eval_images: of the eval split; None where students are not evaluated.
        networks: by the run's folder, on the meta device.
    """

    recipe: Recipe
    num_classes: int
    size: tuple[int, int]
    train_images: int | None
    real_images: int | None
    eval_images: int | None
    networks: dict[str, nn.Module]
    machine: Machine


@dataclass(frozen=True)
class Cost:
    """FLOPs (a multiply-add is two), and peak bytes of tensors without the weights, those of the heap apart."""

    flops: int
    memory: int
    heap: int


@dataclass(frozen=True)
class StagePlan:
    """One stage: units of work, FLOPs of all of them, peak bytes of one process, hours on all devices."""

    name: str
    units: int
    flops: int
    memory: int
    hours: float


@dataclass(frozen=True)
class Plan:
    """A run's price.

    Attributes:
        png_bytes: at most; noise does not compress.
        label_bytes: by encoding; exact for the recipe's own.
        teacher_bytes: of model.safetensors, by the run's folder; exact.
        files: of the dataset's repository, by folder; those of `data` at most.
        shards: files of the run's images/.
    """

    facts: Facts
    images: int
    pixel_bytes: int
    png_bytes: int
    label_bytes: dict[str, int]
    teacher_bytes: dict[str, int]
    files: dict[str, int]
    shards: int
    stages: tuple[StagePlan, ...]

    @property
    def hours(self) -> float:
        """Of all stages."""
        return sum(stage.hours for stage in self.stages)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Numbers that will hurt, each with why and with the knob."""
        return tuple(_warnings(self))

    def lines(self) -> list[str]:
        """The plan as text, warnings last."""
        return [*_lines(self), *(f"warning: {warning}" for warning in self.warnings)]


def plan(facts: Facts) -> Plan:
    """The price of a run."""
    recipe, K = facts.recipe, facts.num_classes
    count, pixels = recipe.recover.ipc * K, 3 * facts.size[0] * facts.size[1]
    png = count * png_bytes(facts.size)
    labels = label_bytes(recipe.relabel, count, K)
    return Plan(
        facts=facts,
        images=count,
        pixel_bytes=count * pixels,
        png_bytes=png,
        label_bytes=labels,
        teacher_bytes={folder: weights_bytes(network) for folder, network in facts.networks.items()},
        files={
            ".": ROOT_FILES,
            "assets": 1,
            "data": max(1, -(-png // SHARD_BYTES)),
            "soft_labels": 1 + len(label_files(recipe.relabel, count, K)),
        },
        shards=len(recipe_units(recipe.recover, K, facts.size)),
        stages=(_squeeze(facts), _recover(facts), _relabel(facts), _evaluate(facts)),
    )


def png_bytes(size: tuple[int, int]) -> int:
    """At most, of one RGB image: 1 % more than its pixels, and a small file's fixed parts."""
    return math.ceil(1.01 * 3 * size[0] * size[1]) + 160


def label_bytes(spec: Relabel, count: int, num_classes: int) -> dict[str, int]:
    """Of all epochs, by encoding: exact, file headers included, for float16; others without headers."""
    mix = spec.augment.mix
    files = label_files(spec, count, num_classes).values()
    views = row_bytes(num_classes, mix) - 2 * num_classes
    k = min(TOP_K, num_classes)
    indices = 0 if k == num_classes else k * (2 if num_classes <= 32767 else 4) + 2  # and the mean of the rest
    rows = spec.epochs * count
    return {
        "float16": sum(epoch_file_bytes(file.epoch, file.rows, num_classes, mix) for file in files),
        "uint8": rows * (views + num_classes + 8),
        "topk": rows * (views + 2 * k + indices),
    }


def weights_bytes(network: nn.Module) -> int:
    """Size of the model.safetensors that `teacher.save` writes: tensors by falling item size, then name."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in sorted(network.state_dict().items(), key=lambda item: (-item[1].itemsize, item[0])):
        code = f"{'F' if tensor.is_floating_point() else 'I'}{8 * tensor.itemsize}"
        entries[name] = {"dtype": code, "shape": list(tensor.shape), "data_offsets": [offset, offset + tensor.nbytes]}
        offset += tensor.nbytes
    header = len(json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode())
    return 8 + -(-header // 8) * 8 + offset


def build_on_meta(network: Network, num_classes: int, size: tuple[int, int]) -> nn.Module:
    """The network without its weights' content."""
    with META:
        built: nn.Module = teacher.build(network, [str(index) for index in range(num_classes)], size, seed=0)
    return built.requires_grad_(False)


def on_meta(network: nn.Module) -> nn.Module:
    """A copy without the weights' content, frozen."""
    hollow: dict[int, Any] = {
        id(parameter): nn.Parameter(parameter.detach().to(META), requires_grad=False)
        for parameter in network.parameters()
    }
    hollow |= {id(buffer): buffer.to(META) for buffer in network.buffers()}
    return copy.deepcopy(network, hollow)


class _Live(TorchDispatchMode):
    """Follows the bytes of tensors that are made within it; `peaks` are of those on a host's heap (True) and others.

    Tensors on the meta device stand for the run's device, others are a host's, and nothing to a GPU.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._is_host = kind == "cpu"
        self._now, self.peaks = {True: 0, False: 0}, {True: 0, False: 0}
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and (self._is_host or tensor.is_meta):
                self._follow(tensor.untyped_storage())
        return result

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            small = self._is_host and size <= HEAP_BYTES
            self._now[small] += size
            self.peaks[small] = max(self.peaks[small], self._now[small])
            weakref.finalize(storage, self._forget, key, small, size)

    def _forget(self, key: int, small: bool, size: int) -> None:
        self._known.discard(key)
        self._now[small] -= size


def _cost(two_steps: Iterable[object], facts: Facts) -> Cost:
    """What one of two equal steps costs; the second finds the optimizer's state, so that the peak is a later one's."""
    live, counter = _Live(facts.machine.kind), FlopCounterMode(display=False)
    with torch.random.fork_rng(devices=[]), live, counter:
        for _ in two_steps:
            pass
    return Cost(counter.get_total_flops() // 2, live.peaks[False], live.peaks[True])


def _training(
    network: nn.Module,
    optimizer: Optimizer,
    augment: Augment,
    batch: int,
    size: tuple[int, int],
    labeller: nn.Module | None = None,
) -> Iterator[None]:
    """Two steps of squeeze or evaluate; with a labeller, on random real images, which are labelled as they come."""
    model = copy.deepcopy(network).requires_grad_(True).train()
    chosen = make_optimizer(model, optimizer)
    labels, shares = (torch.zeros(batch, dtype=kind, device=META) for kind in (torch.int64, torch.float32))
    for _ in range(2):
        x = _shown(augment, batch, size)
        if labeller is None:
            loss = mixed_cross_entropy(model(x).logits, labels, labels, shares)
        else:
            with torch.no_grad():
                logits = labeller(x).logits
            loss = distillation_loss(model(x).logits, logits, 1.0, squared=False)
        descend(chosen, loss)
        yield


@torch.no_grad()
def _forward(network: nn.Module, augment: Augment | None, batch: int, size: tuple[int, int]) -> Iterator[object]:
    """Two batches of relabel, or of scoring, which shows images whole."""
    for _ in range(2):
        yield network.eval()(_shown(augment, batch, size))


def _shown(augment: Augment | None, batch: int, size: tuple[int, int]) -> Tensor:
    """float32 [batch, 3, H, W]: normalised images, in random views as every stage shows them, or whole."""
    images = torch.empty(batch, 3, *size, dtype=torch.uint8, device=META)
    if augment is not None:
        images = render(images, sample_views(augment, batch, size, torch.Generator()), torch.arange(batch))
    return normalise(images, torch.empty(3, 256, device=META))


def _drawing(augment: Augment, count: int, facts: Facts) -> Cost:
    """The drawing of an epoch's views."""
    some = min(count, SAMPLED_VIEWS)
    cost = _cost((sample_views(augment, some, facts.size, torch.Generator()) for _ in range(2)), facts)
    return Cost(0, 0, (cost.memory + cost.heap) * count // some)


def _scoring(network: nn.Module, count: int, facts: Facts) -> Cost:
    """A batch of `count` whole images that a network is scored on (training.predictions)."""
    batch = min(count, prediction_batch(facts.size))
    return _cost(_forward(network, None, batch, facts.size), facts)


def _state_bytes(network: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in network.state_dict().values())


def _squeeze(facts: Facts) -> StagePlan:
    spec, size, machine = facts.recipe.squeeze, facts.size, facts.machine
    networks, scored = facts.networks.values(), facts.eval_images or 0
    flops = scored * sum(forward_flops(network, size) for network in networks)
    costs = [_scoring(network, scored, facts) for network in networks if scored]
    count = facts.train_images
    if spec.pretrained is not None or count is None:
        return _stage(facts, "squeeze", len(networks), flops, costs, list(networks))
    batch = -(-count // batch_count(count, spec.batch_size))
    share = max(2, -(-batch // machine.devices))  # all devices share each batch
    step = _cost(_training(facts.networks["teacher"], spec.optimizer, spec.augment, share, size), facts)
    flops += spec.epochs * (step.flops * count // share)
    costs += [step, _drawing(spec.augment, count, facts)]
    planned = _stage(facts, "squeeze", 1, flops, costs, list(networks), count)
    return replace(planned, hours=flops / (machine.devices * _per_hour(machine)))


def _recover(facts: Facts) -> StagePlan:
    spec, network = facts.recipe.recover, facts.networks["teacher"]
    units = recipe_units(spec, facts.num_classes, facts.size)
    names = tuple(str(index) for index in range(facts.num_classes))
    classifier = Classifier(network, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), names, facts.size)
    shapes = Counter((len(unit.ipcs), len(unit.classes)) for unit in units)
    costs = {}
    for ipcs, classes in shapes:
        steps = synthesise(classifier, replace(spec, iterations=2), Unit(range(ipcs), range(classes)), seed=0)
        costs[ipcs, classes] = _cost(steps, facts)
    flops = spec.iterations * sum(costs[shape].flops * count for shape, count in shapes.items())
    return _stage(facts, "recover", len(units), flops, list(costs.values()), [network])


def _relabel(facts: Facts) -> StagePlan:
    spec, count = facts.recipe.relabel, facts.recipe.recover.ipc * facts.num_classes
    network = facts.networks[facts.recipe.label_folder]
    costs = [
        _cost(_forward(network, spec.augment, min(spec.batch_size, count), facts.size), facts),
        _drawing(spec.augment, count, facts),
        _scoring(network, count, facts),
    ]
    flops = (spec.epochs + 1) * count * forward_flops(network, facts.size)  # once the whole images, for the manifest
    units = len(label_files(spec, count, facts.num_classes))
    return _stage(facts, "relabel", units, flops, costs, [network], count)


def _evaluate(facts: Facts) -> StagePlan:
    spec, size = facts.recipe.evaluate, facts.size
    if facts.eval_images is None:
        return StagePlan("evaluate", 0, 0, facts.machine.resident, 0.0)
    condensed = facts.recipe.recover.ipc * facts.num_classes
    augment, labeller = facts.recipe.relabel.augment, facts.networks[facts.recipe.label_folder]
    rows = {ROWS[0]: condensed}
    if facts.real_images is not None:
        rows = {row: condensed if row == ROWS[0] else facts.real_images for row in ROWS}
    plans = []
    for network in spec.students:
        student = build_on_meta(network, facts.num_classes, size)
        costs = [_scoring(student, facts.eval_images, facts), _drawing(augment, condensed, facts)]
        steps: dict[tuple[int, nn.Module | None], Cost] = {}
        flops = len(rows) * facts.eval_images * forward_flops(student, size)
        for row, count in rows.items():
            batch = -(-count // batch_count(count, spec.batch_size))
            asked = labeller if row == "random-real" else None
            if (batch, asked) not in steps:
                steps[batch, asked] = _cost(_training(student, spec.optimizer, augment, batch, size, asked), facts)
            flops += spec.epochs * (steps[batch, asked].flops * count // batch)
        costs += steps.values()
        units = spec.seeds * len(rows)
        plans.append(_stage(facts, "evaluate", units, spec.seeds * flops, costs, [student, labeller], condensed))
    flops, units = sum(each.flops for each in plans), len(trainings(spec, list(rows)))
    memory = max(each.memory for each in plans)
    return StagePlan("evaluate", units, flops, memory, _hours(facts.machine, flops, units))


def _stage(
    facts: Facts,
    name: str,
    units: int,
    flops: int,
    costs: Sequence[Cost],
    networks: Sequence[nn.Module],
    images: int = 0,
) -> StagePlan:
    """Args: `costs` of the stage's steps; `networks` there throughout; `images` that a GPU holds where they fit."""
    machine = facts.machine
    held = images * 3 * facts.size[0] * facts.size[1]
    if machine.kind == "cpu" or held > MOST_OF_DEVICE * machine.memory:
        held = 0
    weights = sum(_state_bytes(network) for network in networks)
    mapped, heap = max((cost.memory for cost in costs), default=0), max((cost.heap for cost in costs), default=0)
    memory = machine.resident + weights + held + mapped + int(HEAP_FACTOR * heap)
    return StagePlan(name, units, flops, memory, _hours(machine, flops, units))


def _hours(machine: Machine, flops: int, units: int) -> float:
    """Of equal units, each on one device, in as many rounds as it takes."""
    return flops / units * -(-units // machine.devices) / _per_hour(machine)


def _per_hour(machine: Machine) -> float:
    return machine.tflops * 1e12 * 3600


def _lines(plan: Plan) -> Iterator[str]:
    facts, recipe, labels = plan.facts, plan.facts.recipe, plan.label_bytes
    machine, spec = facts.machine, recipe.relabel
    others = ", ".join(f"{name} {in_bytes(labels[name])}" for name in labels if name != spec.encoding)
    weights = ", ".join(f"{folder} {in_bytes(size)}" for folder, size in plan.teacher_bytes.items())
    folders = ", ".join(f"{folder} {count:,}" for folder, count in plan.files.items())
    yield (
        f"plan of {recipe.name}: {plan.images:,} images, {recipe.recover.ipc} each of {facts.num_classes:,} classes, "
        f"{facts.size[1]} x {facts.size[0]} pixels"
    )
    yield f"  pixels     {in_bytes(plan.pixel_bytes)}; as PNG at most {in_bytes(plan.png_bytes)}"
    yield f"  labels     {in_bytes(labels[spec.encoding])}: {spec.encoding}, {spec.epochs:,} epochs of every image"
    yield f"             in encodings that this version does not write: {others} (k {TOP_K})"
    yield f"  teachers   {weights}"
    yield f"  dataset    {sum(plan.files.values()):,} files at most, pushed in one commit: {folders}"
    yield f"  while it works, images/ holds {plan.shards:,} files"
    yield f"  {'stage':<10} {'units':>8} {'FLOPs':>10} {'peak memory':>12} {'hours':>10}"
    for stage in plan.stages:
        told = f"{stage.units:>8,} {stage.flops:>10.2e} {in_bytes(stage.memory):>12} {_in_hours(stage.hours):>10}"
        yield f"  {stage.name:<10} {told}"
    total = f"{sum(stage.flops for stage in plan.stages):.2e}"
    yield f"  {'all':<10} {'':>8} {total:>10} {'':>12} {_in_hours(plan.hours):>10}"
    yield (
        f"  hours on {machine.devices} x {machine.kind} at {machine.tflops:.3g} TFLOP/s each"
        f"{f', an estimate: {machine.estimated}; --device-tflops says better' if machine.estimated else ''}"
    )
    where = "the host's" if machine.kind == "cpu" else "a GPU's"
    yield f"  memory is {where}, of one process; decoded images are mapped from files, and not counted on the host"
    if facts.eval_images is None:
        yield "  evaluate measures nothing: source.eval_split is null"
    elif facts.real_images is None:
        yield "  evaluate trains on condensed images only: source.train_split is null"


def _in_hours(hours: float) -> str:
    return f"{hours:,.1f}" if hours >= 0.05 else f"{hours:.1g}"


def _warnings(plan: Plan) -> Iterator[str]:
    recipe, machine = plan.facts.recipe, plan.facts.machine
    labels, epochs = plan.label_bytes[recipe.relabel.encoding], recipe.relabel.epochs
    if max(plan.images, plan.facts.num_classes) > LARGEST_COUNT:
        yield f"{plan.images:,} images: labels count them in int32, at most {LARGEST_COUNT:,}; lower recover.ipc"
    if labels > MANY_LABELS:
        fewer = max(1, epochs // 10)
        yield (
            f"labels take {in_bytes(labels)}, which everybody who trains on them downloads; relabel.epochs={fewer} "
            f"takes {in_bytes(labels * fewer / epochs)}, and a student cycles through them"
        )
    for folder, count in {**plan.files, "images/ (of the run)": plan.shards}.items():
        if count > FOLDER_FILES:
            knob = "relabel.epochs" if folder == "soft_labels" else "recover.ipc, or raise recover.stack"
            yield f"{folder}: {count:,} files; the Hub takes {FOLDER_FILES:,} in a folder; lower {knob}"
    files = sum(plan.files.values())
    if recipe.publish.repo_id is not None and files > COMMIT_FILES:
        yield (
            f"the push is one commit of {files:,} files; the Hub advises fewer than {COMMIT_FILES}, since a large one "
            "may time out (it can be repeated); lower relabel.epochs"
        )
    for stage in plan.stages:
        if stage.memory > machine.memory:
            where = "the machine" if machine.kind == "cpu" else "a GPU"
            yield (
                f"{stage.name} needs {in_bytes(stage.memory)} of memory, {where} has {in_bytes(machine.memory)}; "
                f"lower {KNOBS[stage.name][0]}"
            )
    if plan.hours > LONG_HOURS:
        longest = max(plan.stages, key=lambda stage: stage.hours)
        yield (
            f"{plan.hours:,.0f} hours, of which {longest.name} takes {longest.hours:,.0f}; lower "
            f"{KNOBS[longest.name][1]}, or use more devices (--devices plans them)"
        )


def describe(run: Run, prepared: Prepared, devices: int | None = None, tflops: float | None = None) -> Plan:
    """The price of a run that is about to begin, all stages, whatever of it is done already.

    Args:
        devices: that share the work; None: as many as this launch has processes.
        tflops: that each sustains; None: measured here.
    """
    recipe, source = run.recipe, prepared.source
    size = prepared.frame.size if prepared.frame else first_size(source)
    return plan(
        Facts(
            recipe=recipe,
            num_classes=len(prepared.class_names),
            size=size,
            train_images=len(source.train.labels) if source.train is not None else None,
            real_images=_real_images(source.train, recipe.recover.ipc),
            eval_images=len(source.eval.labels) if source.eval is not None else None,
            networks={folder: _network(run, prepared, folder, size) for folder in teachers(recipe)},
            machine=_machine(run, devices, tflops),
        )
    )


def _real_images(train: Split | None, ipc: int) -> int | None:
    """Of a random real subset, which takes all of a class that has fewer than `ipc` (split.random_subset)."""
    return None if train is None else int(train.labels.bincount().clamp(max=ipc).sum())


def _network(run: Run, prepared: Prepared, folder: str, size: tuple[int, int]) -> nn.Module:
    if folder in prepared.adopted:
        return on_meta(prepared.adopted[folder].classifier.model)
    if teachers(run.recipe)[folder][0] is not None:
        return on_meta(teacher.load(run.path(folder), torch.device("cpu")).model)
    return build_on_meta(run.recipe.squeeze.network, len(prepared.class_names), size)


def _machine(run: Run, devices: int | None, tflops: float | None) -> Machine:
    kind = run.device.type
    speed = tflops or SUSTAINED * _matmul_tflops(kind)
    return Machine(
        devices=devices or run.accelerator.num_processes,
        tflops=speed,
        estimated=None if tflops else f"{SUSTAINED:.0%} of a float32 matrix product's speed here",
        kind=kind,
        memory=torch.cuda.mem_get_info(run.device)[1] if kind == "cuda" else total_memory(),
        resident=0 if kind == "cuda" else psutil.Process().memory_info().rss,
    )


@functools.cache
def _matmul_tflops(kind: str) -> float:
    """How fast this machine multiplies square float32 matrices, in 10^12 operations a second."""
    side = MATMUL_SIDE[kind]
    a = torch.ones(side, side, device=kind)
    begun, done = time.monotonic(), 0
    while time.monotonic() - begun < MATMUL_SECONDS:
        float((a @ a)[0, 0])  # reading it waits for the device
        done += 1
    return 2 * side**3 * done / (time.monotonic() - begun) / 1e12


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m srel_hub.plan", description="The price of a run.")
    parser.add_argument("recipe", metavar="RECIPE_OR_RUN")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    parser.add_argument("--devices", type=int, metavar="N", help="GPUs or processes that share the work")
    parser.add_argument("--device-tflops", type=float, metavar="X", help="float32 TFLOP/s that each sustains")
    arguments = parser.parse_intermixed_args(argv)
    try:
        for option, value in (("--devices", arguments.devices), ("--device-tflops", arguments.device_tflops)):
            if value is not None and not 0 < value < math.inf:
                raise UserError(f"{option}={value}: must be more than 0")
        print("\n".join(_planned(arguments).lines()))
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    return 0


def _planned(arguments: argparse.Namespace) -> Plan:
    recipe = named(arguments.recipe, arguments.overrides)
    # Nothing is written, so that neither another launch nor another recipe's results are in the way.
    run = Run(replace(recipe, run=replace(recipe.run, cooperate=True, overwrite=True, trackers=())))
    return describe(run, prepare(run, writes=False), arguments.devices, arguments.device_tflops)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
