"""FLOPs, memory and hours of each stage, from the stage's own steps on torch's meta device.

Tensors on the meta device have shapes but no content, so a step of ImageNet size runs in a second and allocates no
memory.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from srel_hub.config import Network, Recover
from srel_hub.core.engine import Precision
from srel_hub.core.metrics import forward_flops
from srel_hub.core.optim import batch_count
from srel_hub.stages.evaluate.summary import trainings
from srel_hub.stages.evaluate.training_sets import KEPT_BYTES, TRAINING_SETS, kept_bytes, training_set_names
from srel_hub.stages.recover.objective import Objective
from srel_hub.stages.recover.optimize import stages, synthesize
from srel_hub.stages.recover.units import Unit, recipe_units
from srel_hub.stages.relabel import KL_IMAGES, label_parts
from srel_hub.storage.mapped_images import MOST_OF_DEVICE
from srel_hub.studies.plan.facts import Facts, Machine, StagePlan
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
)


def plan_squeeze(facts: Facts) -> StagePlan:
    """Plan the training of the teacher, or only its evaluation if it is pretrained."""
    spec, machine, networks = facts.recipe.squeeze, facts.machine, list(facts.networks.values())
    scored = facts.eval_images or 0
    flops = scored * sum(forward_flops(network, facts.size) for network in networks)
    costs = [scoring_cost(network, scored, facts.size, machine.kind) for network in networks if scored]
    count = facts.train_images
    if spec.pretrained is not None or count is None:
        return _stage_plan(facts, "squeeze", len(networks), flops, costs, networks)
    batch = -(-count // batch_count(count, spec.batch_size))
    share = max(2, -(-batch // machine.devices))  # squeeze is the one stage in which devices share each batch
    teacher = in_precision(facts.networks["teacher"], machine.precision)
    step = measure_cost(training_steps(teacher, spec.optimizer, spec.augment, share, facts.size), machine.kind)
    flops += spec.epochs * (step.flops * count // share)
    costs += [step, drawing_cost(spec.augment, count, facts.size, machine.kind)]
    stage = _stage_plan(facts, "squeeze", 1, flops, costs, networks, count)
    return replace(stage, hours=flops / (machine.devices * _flops_per_hour(machine)))


def plan_recover(facts: Facts) -> StagePlan:
    """Plan the optimization of the images, with the teachers, image sizes and patches that the recipe sets."""
    spec, networks = facts.recipe.recover, [facts.networks[folder] for folder in facts.recipe.recover_folders]
    units = recipe_units(spec, facts.num_classes, facts.size)
    if spec.images is not None:
        return _stage_plan(facts, "recover", len(units), 0, [], [])
    shapes = Counter((len(unit.ipcs), len(unit.classes)) for unit in units)
    # Units of one shape cost the same, and at most four shapes occur, because only the last stack and the last block
    # of classes may differ. So the 500 units of in1k_ipc50 need one measurement.
    costs_by_shape = {
        (shape, number): _unit_iteration_cost(facts, network, *shape)
        for shape in shapes
        for number, network in enumerate(networks)
    }
    iterations_per_teacher = spec.iterations if spec.turns == "committee" else spec.iterations / len(networks)
    # Iterations at a smaller size count by their share of pixels.
    pixels = sum(len(stage.iterations) * stage.size[0] * stage.size[1] for stage in stages(spec, facts.size))
    share = pixels / (spec.iterations * (facts.size[0] * facts.size[1]))
    once = sum(step.flops * shapes[shape] for (shape, _), step in costs_by_shape.items())
    flops = int(share * iterations_per_teacher * once)
    costs = list(costs_by_shape.values())
    if spec.reads_real:
        assert facts.train_images is not None
        costs += [scoring_cost(network, facts.train_images, facts.size, facts.machine.kind) for network in networks]
    if spec.patches is not None:
        images = _real_images_read(facts, spec.patches.images)
        flops += spec.patches.crops * images * forward_flops(networks[0], facts.size)
    if spec.statistics == "class":
        images = _real_images_read(facts, spec.statistics_images)
        flops += images * sum(forward_flops(network, facts.size) for network in networks)
    return _stage_plan(facts, "recover", len(units), flops, costs, networks)


def _unit_iteration_cost(facts: Facts, network: nn.Module, ipcs: int, classes: int) -> Cost:
    machine, unit = facts.machine, Unit(range(ipcs), range(classes))
    return recover_iteration_cost(
        facts.recipe.recover, unit, network, facts.num_classes, facts.size, machine.precision, machine.kind
    )


def recover_iteration_cost(
    spec: Recover,
    unit: Unit,
    network: nn.Module,
    num_classes: int,
    size: tuple[int, int],
    precision: Precision,
    kind: str,
) -> Cost:
    """Return the cost of one iteration of recover with one teacher, at full image size.

    Args:
        spec: The recipe's section `recover`.
        unit: The images that are optimized together.
        network: The teacher, on the meta device.
        num_classes: Number of its classes.
        size: (height, width) of the images in pixels.
        precision: Precision of its forward and backward pass.
        kind: Device to plan for, 'cpu' or 'cuda'.
    """
    names = tuple(str(index) for index in range(num_classes))
    classifier = Classifier(in_precision(network, precision), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), names, size)
    # Only what changes the arithmetic of an iteration stays. Patches, residual and class statistics need real images,
    # which the meta device does not have; the weight 1 avoids a measurement of the automatic one.
    plain = replace(spec, iterations=2, sizes=(), patches=None, residual=0.0, bn_weight=1.0, statistics="dataset")
    with Objective([classifier], plain) as objective:
        return measure_cost(synthesize(objective, unit, seed=0), kind)


def _real_images_read(facts: Facts, per_class: int) -> int:
    """Return the number of real images to read: at most `per_class` per class. It is an upper bound."""
    assert facts.train_images is not None
    return min(facts.train_images, per_class * facts.num_classes)


def plan_relabel(facts: Facts) -> StagePlan:
    """Plan the labeling of all stored epochs, and one scoring of the teacher on the whole images."""
    spec, count, kind = facts.recipe.relabel, facts.condensed_images, facts.machine.kind
    labellers = facts.labellers
    costs = [drawing_cost(spec.augment, count, facts.size, kind), scoring_cost(labellers[0], count, facts.size, kind)]
    for network in labellers:
        model = in_precision(network, facts.machine.precision)
        costs.append(measure_cost(inference_steps(model, spec.augment, min(spec.batch_size, count), facts.size), kind))
    files = label_parts(spec, count, facts.num_classes)
    views = count * spec.epochs + min(count, KL_IMAGES) if files else 0  # KL_IMAGES measure the encoding's loss
    flops = views * sum(forward_flops(network, facts.size) for network in labellers)
    flops += count * forward_flops(labellers[0], facts.size)  # the teacher's accuracy on whole images, in the manifest
    return _stage_plan(facts, "relabel", max(1, len(files)), flops, costs, labellers, count)


def plan_evaluate(facts: Facts) -> StagePlan:
    """Plan the training and evaluation of all students on all training sets."""
    spec, machine, has_real = facts.recipe.evaluate, facts.machine, facts.real_images is not None
    if facts.eval_images is None:
        return StagePlan("evaluate", 0, 0, machine.resident, 0.0)
    names = training_set_names(spec, has_eval=True, has_real=has_real)
    students = [_plan_student(facts, network, names, facts.eval_images) for network in spec.students]
    flops, units = sum(student.flops for student in students), len(trainings(spec, names))
    # Epochs that several trainings use are kept in memory, but only below a fixed number of bytes.
    stored = 0 if facts.recipe.relabel.encoding == "none" else facts.recipe.relabel.epochs
    kept = kept_bytes(spec.epochs, stored, facts.condensed_images, facts.num_classes, facts.size, has_real)
    memory = max(student.memory for student in students) + (kept if kept <= KEPT_BYTES else 0)
    return StagePlan("evaluate", units, flops, memory, _hours(machine, flops, units))


def _plan_student(facts: Facts, network: Network, names: Sequence[str], eval_images: int) -> StagePlan:
    """Plan one student's trainings on all training sets with all seeds."""
    spec, relabel, machine, size = facts.recipe.evaluate, facts.recipe.relabel, facts.machine, facts.size
    labellers, condensed = facts.labellers, facts.condensed_images
    student = build_on_meta(network, facts.num_classes, size)
    model = in_precision(student, machine.precision)
    costs = [scoring_cost(student, eval_images, size, machine.kind)]
    costs.append(drawing_cost(relabel.augment, condensed, size, machine.kind))
    steps: dict[tuple[int, bool], Cost] = {}
    flops = len(names) * eval_images * forward_flops(student, size)
    for name in names:
        count = _training_images(facts, name)
        batch = -(-count // batch_count(count, spec.batch_size))
        is_labeled = name == "random-real" or (name == "condensed" and relabel.encoding == "none")  # during training
        if (batch, is_labeled) not in steps:
            # Members of a committee run one after the other, so that memory peaks with one of them.
            labeller = in_precision(labellers[0], machine.precision) if is_labeled else None
            step = training_steps(model, spec.optimizer, relabel.augment, batch, size, labeller)
            steps[batch, is_labeled] = measure_cost(step, machine.kind)
        flops += spec.epochs * (steps[batch, is_labeled].flops * count // batch)
        others = labellers[1:] if is_labeled else []
        flops += spec.epochs * count * sum(forward_flops(other, size) for other in others)
    costs += steps.values()
    units = spec.seeds * len(names)
    return _stage_plan(facts, "evaluate", units, spec.seeds * flops, costs, [student, *labellers], condensed)


def _training_images(facts: Facts, name: str) -> int:
    images = TRAINING_SETS[name].images
    if images == "condensed":
        return facts.condensed_images
    count = facts.train_images if images == "real" else facts.real_images
    assert count is not None, "there are no real training sets without a training split"
    return count


def _stage_plan(
    facts: Facts,
    name: str,
    units: int,
    flops: int,
    costs: Sequence[Cost],
    networks: Sequence[nn.Module],
    images: int = 0,
) -> StagePlan:
    """Return the plan of a stage.

    Args:
        facts: Everything that affects the cost of the run.
        name: The stage.
        units: Equal units of work.
        flops: Floating-point operations of all units.
        costs: Costs of the stage's steps. The memory of the stage is that of the largest.
        networks: Networks that stay in memory during the whole stage.
        images: Number of images that are kept in GPU memory if they fit.
    """
    machine = facts.machine
    held = images * facts.pixel_bytes
    # On a CPU decoded images are memory-mapped; a GPU maps them too if they would fill it.
    if machine.kind == "cpu" or held > MOST_OF_DEVICE * machine.memory:
        held = 0
    weights = sum(state_bytes(network) for network in networks)
    mapped, heap = max((step.memory for step in costs), default=0), max((step.heap for step in costs), default=0)
    memory = machine.resident + weights + held + mapped + int(HEAP_FACTOR * heap)
    return StagePlan(name, units, flops, memory, _hours(machine, flops, units))


def _hours(machine: Machine, flops: int, units: int) -> float:
    """Return the hours for equal units. Each unit runs on one device, so the devices need several rounds."""
    rounds = -(-units // machine.devices)
    return flops / units * rounds / _flops_per_hour(machine)


def _flops_per_hour(machine: Machine) -> float:
    return machine.tflops * 1e12 * 3600
