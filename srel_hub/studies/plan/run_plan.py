"""studies.plan.run_plan."""

import math
from dataclasses import replace

import psutil
import torch
from torch import nn

from srel_hub.config import Recipe
from srel_hub.data.splits import Split
from srel_hub.errors import UserError
from srel_hub.runs.machine import total_memory
from srel_hub.runs.run import Run
from srel_hub.stages.preflight.prepare import Prepared, first_size, prepare, teachers
from srel_hub.studies.plan.price import Facts, Machine, Plan, plan
from srel_hub.teachers import classifier as teacher
from srel_hub.teachers.cost_model import (
    build_on_meta,
    matmul_tflops,
    on_meta,
)


SUSTAINED = 0.3  # of a matrix product's speed; what small convolutions reach is measured nowhere before they run


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
            real_images=_real_images(source.train, recipe.recover.ipc) if recipe.evaluate.baselines else None,
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
    precision = run.engine.precision
    speed = tflops or SUSTAINED * matmul_tflops(kind, precision)
    return Machine(
        devices=devices or run.accelerator.num_processes,
        precision=precision,
        tflops=speed,
        estimated=None if tflops else f"{SUSTAINED:.0%} of a {precision} matrix product's speed here",
        kind=kind,
        memory=torch.cuda.mem_get_info(run.device)[1] if kind == "cuda" else total_memory(),
        resident=0 if kind == "cuda" else psutil.Process().memory_info().rss,
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
