"""The price of a run, before anything is spent: images, bytes, files, FLOPs, memory and hours.

    srel-hub plan recipes/in1k_ipc50.yaml --devices 8 --device-tflops 60

Nothing is guessed that can be known: labels and teachers are counted to the byte by the writers' own layout, and FLOPs
and memory are those of the stages' own steps, taken on torch's meta device, where tensors have shapes and no content.
Hours are FLOPs divided by a speed, and as good as that.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import nn

from srel_hub.config import Recipe, Recover, Relabel
from srel_hub.core.encodings import recipe_encoding
from srel_hub.core.engine import Precision
from srel_hub.core.metrics import forward_flops
from srel_hub.core.optim import batch_count
from srel_hub.labels.epoch_files import epoch_file_bytes
from srel_hub.stages.evaluate.summary import trainings
from srel_hub.stages.evaluate.training_sets import KEPT_BYTES, TRAINING_SETS, kept_bytes, training_set_names
from srel_hub.stages.recover.objective import Objective
from srel_hub.stages.recover.optimize import stages, synthesize
from srel_hub.stages.recover.units import Unit, recipe_units
from srel_hub.stages.relabel import KL_IMAGES, label_parts
from srel_hub.storage.condensed_table import SHARD_BYTES
from srel_hub.storage.mapped_images import MOST_OF_DEVICE
from srel_hub.teachers.classifier import Classifier
from srel_hub.teachers.cost_model import (
    HEAP_FACTOR,
    Cost,
    build_on_meta,
    drawing_cost,
    in_precision,
    inference_steps,
    measure_cost,
    scoring_cost,
    state_bytes,
    training_steps,
    weights_bytes,
)


ROOT_FILES = 4  # README.md, recipe.yaml, classes.csv, metrics.json


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a run works with.

    Attributes:
        devices: that share the work.
        precision: that networks compute in.
        tflops: operations in it, in 10^12 a second, that each sustains.
        estimated: how `tflops` was come by, where nobody said it.
        kind: 'cpu' or 'cuda'.
        memory: bytes of the host, or of each GPU.
        resident: bytes that this process has there already.
    """

    devices: int
    precision: Precision
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
        label_bytes: by encoding; exact.
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
            "soft_labels": 1 + len(label_parts(recipe.relabel, count, K)),
        },
        shards=len(recipe_units(recipe.recover, K, facts.size)),
        stages=(_squeeze(facts), _recover(facts), _relabel(facts), _evaluate(facts)),
    )


def png_bytes(size: tuple[int, int]) -> int:
    """At most, of one RGB image: 1 % more than its pixels, and a small file's fixed parts."""
    return math.ceil(1.01 * 3 * size[0] * size[1]) + 160


def label_bytes(spec: Relabel, count: int, num_classes: int) -> dict[str, int]:
    """Of all stored epochs, file headers included, by encoding; exact."""
    found = {}
    for name in ("float16", "uint8", "topk"):
        asked = replace(spec, encoding=name)
        encoding = recipe_encoding(asked, num_classes)
        files = label_parts(asked, count, num_classes).values()
        found[name] = sum(epoch_file_bytes(file.epoch, file.rows, encoding, spec.augment.mix) for file in files)
    return found


def _squeeze(facts: Facts) -> StagePlan:
    spec, size, machine = facts.recipe.squeeze, facts.size, facts.machine
    networks, scored = facts.networks.values(), facts.eval_images or 0
    flops = scored * sum(forward_flops(network, size) for network in networks)
    costs = [scoring_cost(network, scored, facts.size, facts.machine.kind) for network in networks if scored]
    count = facts.train_images
    if spec.pretrained is not None or count is None:
        return _stage(facts, "squeeze", len(networks), flops, costs, list(networks))
    batch = -(-count // batch_count(count, spec.batch_size))
    share = max(2, -(-batch // machine.devices))  # all devices share each batch
    network = in_precision(facts.networks["teacher"], facts.machine.precision)
    step = measure_cost(training_steps(network, spec.optimizer, spec.augment, share, size), facts.machine.kind)
    flops += spec.epochs * (step.flops * count // share)
    costs += [step, drawing_cost(spec.augment, count, facts.size)]
    planned = _stage(facts, "squeeze", 1, flops, costs, list(networks), count)
    return replace(planned, hours=flops / (machine.devices * _per_hour(machine)))


def _recover(facts: Facts) -> StagePlan:
    spec, networks = facts.recipe.recover, [facts.networks[folder] for folder in facts.recipe.recover_folders]
    units = recipe_units(spec, facts.num_classes, facts.size)
    shapes = Counter((len(unit.ipcs), len(unit.classes)) for unit in units)
    # Each teacher by itself, at full size, of which the stages take their shares.
    found = {
        (shape, number): _iteration(facts, networks[number], *shape)
        for shape in shapes
        for number in range(len(networks))
    }
    looks = spec.iterations if spec.turns == "committee" else spec.iterations / len(networks)
    full = facts.size[0] * facts.size[1]
    planned = stages(spec, facts.size)
    share = sum(len(stage.iterations) * stage.size[0] * stage.size[1] for stage in planned) / (spec.iterations * full)
    flops = int(share * looks * sum(each.flops * shapes[shape] for (shape, _), each in found.items()))
    costs = list(found.values())
    if spec.reads_real:
        assert facts.train_images is not None
        costs += [scoring_cost(network, facts.train_images, facts.size, facts.machine.kind) for network in networks]
    if spec.patches is not None:
        flops += spec.patches.crops * _looked_at(facts, spec.patches.images) * forward_flops(networks[0], facts.size)
    if spec.statistics == "class":
        flops += _looked_at(facts, spec.statistics_images) * sum(forward_flops(each, facts.size) for each in networks)
    return _stage(facts, "recover", len(units), flops, costs, networks)


def _iteration(facts: Facts, network: nn.Module, ipcs: int, classes: int) -> Cost:
    """One iteration of a unit of so many ipc indices and classes."""
    machine, unit = facts.machine, Unit(range(ipcs), range(classes))
    return iteration(
        facts.recipe.recover, unit, network, facts.num_classes, facts.size, machine.precision, machine.kind
    )


def iteration(
    spec: Recover,
    unit: Unit,
    network: nn.Module,
    num_classes: int,
    size: tuple[int, int],
    precision: Precision,
    kind: str,
) -> Cost:
    """One iteration of recover with a network on the meta device, on a device of this kind ('cpu', 'cuda')."""
    names = tuple(str(index) for index in range(num_classes))
    classifier = Classifier(in_precision(network, precision), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), names, size)
    plain = replace(spec, iterations=2, sizes=(), patches=None, residual=0.0, bn_weight=1.0)
    plain = replace(plain, statistics="dataset")  # the same arithmetic
    with Objective([classifier], plain) as objective:
        return measure_cost(synthesize(objective, unit, seed=0), kind)


def _looked_at(facts: Facts, each: int) -> int:
    """Real images, so many of each class; at most, for classes differ in size."""
    assert facts.train_images is not None
    return min(facts.train_images, each * facts.num_classes)


def _relabel(facts: Facts) -> StagePlan:
    spec, count = facts.recipe.relabel, facts.recipe.recover.ipc * facts.num_classes
    labellers, kind = _labellers(facts), facts.machine.kind
    costs = [drawing_cost(spec.augment, count, facts.size), scoring_cost(labellers[0], count, facts.size, kind)]
    for network in labellers:
        computing = in_precision(network, facts.machine.precision)
        batch = inference_steps(computing, spec.augment, min(spec.batch_size, count), facts.size)
        costs.append(measure_cost(batch, kind))
    files = label_parts(spec, count, facts.num_classes)
    asked = count * spec.epochs + min(count, KL_IMAGES) if files else 0  # the latter to tell what the encoding loses
    flops = asked * sum(forward_flops(network, facts.size) for network in labellers)
    flops += count * forward_flops(labellers[0], facts.size)  # the whole images, for the manifest
    return _stage(facts, "relabel", max(1, len(files)), flops, costs, labellers, count)


def _labellers(facts: Facts) -> list[nn.Module]:
    return [facts.networks[folder] for folder in facts.recipe.label_folders]


def _evaluate(facts: Facts) -> StagePlan:
    spec, size = facts.recipe.evaluate, facts.size
    if facts.eval_images is None:
        return StagePlan("evaluate", 0, 0, facts.machine.resident, 0.0)
    condensed, K, kind = facts.recipe.recover.ipc * facts.num_classes, facts.num_classes, facts.machine.kind
    augment, labellers = facts.recipe.relabel.augment, _labellers(facts)
    rows = training_set_names(spec, True, facts.real_images is not None)
    plans = []
    for network in spec.students:
        student = build_on_meta(network, K, size)
        computing = in_precision(student, facts.machine.precision)
        costs = [scoring_cost(student, facts.eval_images, size, kind), drawing_cost(augment, condensed, size)]
        steps: dict[tuple[int, bool], Cost] = {}
        flops = len(rows) * facts.eval_images * forward_flops(student, size)
        for row in rows:
            count = _row_images(facts, row)
            batch = -(-count // batch_count(count, spec.batch_size))
            asks = row == "random-real" or (row == "condensed" and facts.recipe.relabel.encoding == "none")
            if (batch, asks) not in steps:
                # Members of a committee are asked one after the other.
                asked = in_precision(labellers[0], facts.machine.precision) if asks else None
                steps[batch, asks] = measure_cost(
                    training_steps(computing, spec.optimizer, augment, batch, size, asked), kind
                )
            flops += spec.epochs * (steps[batch, asks].flops * count // batch)
            others = labellers[1:] if asks else []
            flops += spec.epochs * count * sum(forward_flops(other, size) for other in others)
        costs += steps.values()
        units = spec.seeds * len(rows)
        plans.append(_stage(facts, "evaluate", units, spec.seeds * flops, costs, [student, *labellers], condensed))
    flops, units = sum(each.flops for each in plans), len(trainings(spec, rows))
    stored = 0 if facts.recipe.relabel.encoding == "none" else facts.recipe.relabel.epochs
    kept = kept_bytes(spec.epochs, stored, condensed, K, size, facts.real_images is not None)
    memory = max(each.memory for each in plans) + (kept if kept <= KEPT_BYTES else 0)
    return StagePlan("evaluate", units, flops, memory, _hours(facts.machine, flops, units))


def _row_images(facts: Facts, row: str) -> int:
    """How many images a row has."""
    images = TRAINING_SETS[row].images
    if images == "condensed":
        return facts.recipe.recover.ipc * facts.num_classes
    found = facts.train_images if images == "real" else facts.real_images
    assert found is not None, "there are no real rows without a training split"
    return found


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
    weights = sum(state_bytes(network) for network in networks)
    mapped, heap = max((cost.memory for cost in costs), default=0), max((cost.heap for cost in costs), default=0)
    memory = machine.resident + weights + held + mapped + int(HEAP_FACTOR * heap)
    return StagePlan(name, units, flops, memory, _hours(machine, flops, units))


def _hours(machine: Machine, flops: int, units: int) -> float:
    """Of equal units, each on one device, in as many rounds as it takes."""
    return flops / units * -(-units // machine.devices) / _per_hour(machine)


def _per_hour(machine: Machine) -> float:
    return machine.tflops * 1e12 * 3600
