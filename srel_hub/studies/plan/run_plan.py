"""Plan a run: gather the facts that affect its cost from the recipe, the data, the teachers and the machine."""

import math
from dataclasses import replace
from pathlib import Path

import psutil
import torch
from torch import nn

from srel_hub.config import Recipe
from srel_hub.core.engine import Precision
from srel_hub.data.splits import Split
from srel_hub.errors import UserError
from srel_hub.runs.launch import require_trackers
from srel_hub.runs.machine import total_memory
from srel_hub.runs.run import Run
from srel_hub.stages.inputs import Inputs, teacher_specs
from srel_hub.stages.preflight.disk_use import decoded_images
from srel_hub.stages.preflight.prepare import prepare
from srel_hub.studies.plan.facts import Facts, Machine, Plan
from srel_hub.studies.plan.price import plan
from srel_hub.teachers import classifier
from srel_hub.teachers.cost_model import build_on_meta, matmul_tflops, on_meta


SUSTAINED = 0.3  # assumed share of a matrix product's speed; what convolutions reach is unknown before they run


def machine_of(device: torch.device, precision: Precision, devices: int = 1, tflops: float | None = None) -> Machine:
    """Describe this machine for a plan.

    Args:
        device: A device of this machine. All devices are assumed to be equal.
        precision: Precision of forward and backward passes.
        devices: Number of devices that share the work.
        tflops: 10^12 operations per second that each device sustains; None: SUSTAINED times the speed of a matrix
            product, measured in 0.2 s.
    """
    kind = device.type
    return Machine(
        devices=devices,
        precision=precision,
        tflops=tflops or SUSTAINED * matmul_tflops(kind, precision),
        estimated=None if tflops else f"{SUSTAINED:.0%} of the speed of a {precision} matrix product on this machine",
        kind=kind,
        memory=torch.cuda.mem_get_info(device)[1] if kind == "cuda" else total_memory(),
        # A process on a CPU has Python, torch and the data tables in the same memory as its tensors.
        resident=0 if kind == "cuda" else psutil.Process().memory_info().rss,
    )


def gather_facts(recipe: Recipe, inputs: Inputs, folder: Path, machine: Machine) -> Facts:
    """Return everything that affects the cost of a run.

    Args:
        recipe: The resolved recipe.
        inputs: The opened data and pretrained teachers.
        folder: The run directory, from which earlier adopted teachers are read.
        machine: The devices to plan for.
    """
    source = inputs.source
    return Facts(
        recipe=recipe,
        num_classes=len(inputs.class_names),
        size=inputs.size,
        train_images=None if source.train is None else len(source.train.labels),
        real_images=_random_real_images(source.train, recipe.recover.ipc) if recipe.evaluate.baselines else None,
        eval_images=None if source.eval is None else len(source.eval.labels),
        decoded_images=decoded_images(recipe, inputs),
        networks=_networks_on_meta(recipe, inputs, folder),
        machine=machine,
    )


def _random_real_images(train: Split | None, ipc: int) -> int | None:
    """Return the size of a random real subset: `ipc` images per class, or all images of a smaller class."""
    return None if train is None else int(train.labels.bincount().clamp(max=ipc).sum())


def _networks_on_meta(recipe: Recipe, inputs: Inputs, folder: Path) -> dict[str, nn.Module]:
    networks = {}
    for name, (pretrained, _) in teacher_specs(recipe).items():
        if name in inputs.adopted:
            networks[name] = on_meta(inputs.adopted[name].classifier.model)
        elif pretrained is not None:  # adopted by an earlier launch
            networks[name] = on_meta(classifier.load(folder / name, torch.device("cpu")).model)
        else:
            networks[name] = build_on_meta(recipe.squeeze.network, len(inputs.class_names), inputs.size)
    return networks


def plan_recipe(recipe: Recipe, devices: int | None = None, tflops: float | None = None) -> Plan:
    """Check a recipe against its data and compute the cost of its run, without writing anything.

    Args:
        recipe: The recipe of a new or existing run.
        devices: Number of devices that share the work; None: the processes of this launch.
        tflops: 10^12 operations per second that each device sustains; None: estimated on this machine.

    Raises:
        UserError: If `devices` or `tflops` is not positive, or the recipe does not fit its data.
    """
    for option, value in (("--devices", devices), ("--device-tflops", tflops)):
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"{option}={value}: must be a number above 0")
    require_trackers(recipe.run.trackers)
    # Planning writes nothing, so another launch in the run, or results of another recipe, need not stop it.
    run = Run(replace(recipe, run=replace(recipe.run, cooperate=True, overwrite=True, trackers=())))
    inputs = prepare(run, writes=False, shows=True)
    machine = machine_of(run.device, run.engine.precision, devices or run.accelerator.num_processes, tflops)
    return plan(gather_facts(run.recipe, inputs, run.folder, machine))
