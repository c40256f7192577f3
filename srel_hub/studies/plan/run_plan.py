"""studies.plan.run_plan."""

import math
from dataclasses import replace

import psutil
import torch
from torch import nn

from srel_hub.config import Recipe
from srel_hub.core.engine import Precision
from srel_hub.data.splits import Split
from srel_hub.errors import UserError
from srel_hub.runs.machine import total_memory
from srel_hub.runs.run import Run
from srel_hub.stages.inputs import Inputs, teacher_specs
from srel_hub.stages.preflight.prepare import prepare
from srel_hub.studies.plan.price import Facts, Machine, Plan, plan
from srel_hub.teachers import classifier as teacher
from srel_hub.teachers.cost_model import (
    build_on_meta,
    matmul_tflops,
    on_meta,
)


SUSTAINED = 0.3  # of a matrix product's speed; what small convolutions reach is measured nowhere before they run


def describe(run: Run, prepared: Inputs, devices: int | None = None, tflops: float | None = None) -> Plan:
    """The price of a run that is about to begin, all stages, whatever of it is done already.

    Args:
        devices: that share the work; None: as many as this launch has processes.
        tflops: that each sustains; None: measured here.
    """
    recipe, source = run.recipe, prepared.source
    size = prepared.size
    return plan(
        Facts(
            recipe=recipe,
            num_classes=len(prepared.class_names),
            size=size,
            train_images=len(source.train.labels) if source.train is not None else None,
            real_images=_real_images(source.train, recipe.recover.ipc) if recipe.evaluate.baselines else None,
            eval_images=len(source.eval.labels) if source.eval is not None else None,
            networks={folder: _network(run, prepared, folder, size) for folder in teacher_specs(recipe)},
            machine=machine_of(run.device, run.engine.precision, devices or run.accelerator.num_processes, tflops),
        )
    )


def _real_images(train: Split | None, ipc: int) -> int | None:
    """Of a random real subset, which takes all of a class that has fewer than `ipc` (split.random_subset)."""
    return None if train is None else int(train.labels.bincount().clamp(max=ipc).sum())


def _network(run: Run, prepared: Inputs, folder: str, size: tuple[int, int]) -> nn.Module:
    if folder in prepared.adopted:
        return on_meta(prepared.adopted[folder].classifier.model)
    if teacher_specs(run.recipe)[folder][0] is not None:
        return on_meta(teacher.load(run.path(folder), torch.device("cpu")).model)
    return build_on_meta(run.recipe.squeeze.network, len(prepared.class_names), size)


def machine_of(device: torch.device, precision: Precision, devices: int = 1, tflops: float | None = None) -> Machine:
    """Describe this machine to a plan.

    Args:
        devices: that share the work.
        tflops: that each sustains; None: SUSTAINED times the speed of a matrix product, measured here in 0.2 s.
    """
    cuda = device.type == "cuda"
    return Machine(
        devices=devices,
        precision=precision,
        tflops=tflops or SUSTAINED * matmul_tflops(device.type, precision),
        estimated=None if tflops else f"{SUSTAINED:.0%} of a {precision} matrix product's speed here",
        kind=device.type,
        memory=torch.cuda.mem_get_info(device)[1] if cuda else total_memory(),
        resident=0 if cuda else psutil.Process().memory_info().rss,
    )


def plan_recipe(recipe: Recipe, devices: int | None = None, tflops: float | None = None) -> Plan:
    """Return the price of a recipe's run. Nothing is written.

    Args:
        devices: GPUs or processes that share the work; None: as many as this launch has processes.
        tflops: 10^12 operations a second that each sustains; None: measured here.

    Raises:
        UserError: if the recipe cannot be run on this data.
    """
    for option, value in (("--devices", devices), ("--device-tflops", tflops)):
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"{option}={value}: must be a number above 0")
    # Nothing is written, so that neither another launch nor another recipe's results are in the way.
    run = Run(replace(recipe, run=replace(recipe.run, cooperate=True, overwrite=True, trackers=())))
    return describe(run, prepare(run, writes=False), devices, tflops)
