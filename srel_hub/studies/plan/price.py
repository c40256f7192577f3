"""Compute the cost of a run before it starts: images, bytes, files, FLOPs, memory and hours.

    srel-hub plan recipes/in1k_ipc50.yaml --devices 8 --device-tflops 60

Bytes of labels and teachers are exact: they follow from the layout that the writers use. FLOPs and memory come from
the stages' own steps on torch's meta device. Hours are FLOPs divided by the speed of the device, and are only as
accurate as that speed.
"""

import math
from dataclasses import replace

from torch import nn

from srel_hub.config import Relabel
from srel_hub.core.encodings import recipe_encoding
from srel_hub.labels.epoch_files import epoch_file_bytes
from srel_hub.labels.packing import epochs_per_file
from srel_hub.stages.preflight.disk_use import disk_use, png_bytes
from srel_hub.stages.recover.units import recipe_units
from srel_hub.stages.relabel import label_parts
from srel_hub.storage.condensed_table import shard_count
from srel_hub.studies.plan.facts import Facts, Plan
from srel_hub.studies.plan.stage_plans import plan_evaluate, plan_recover, plan_relabel, plan_squeeze
from srel_hub.teachers.cost_model import build_on_meta, weights_bytes


ROOT_FILES = 4  # README.md, recipe.yaml, classes.csv, metrics.json


def plan(facts: Facts) -> Plan:
    """Compute the cost of all stages, including those that are already complete."""
    recipe, count = facts.recipe, facts.condensed_images
    png = count * png_bytes(facts.size)
    return Plan(
        facts=facts,
        images=count,
        pixel_bytes=count * facts.pixel_bytes,
        png_bytes=png,
        label_bytes=label_bytes(recipe.relabel, count, facts.num_classes),
        teacher_bytes={folder: weights_bytes(network) for folder, network in facts.networks.items()},
        files={
            ".": ROOT_FILES,
            "assets": 1,
            "data": shard_count(png),
            "soft_labels": 1 + _label_files(recipe.relabel, count, facts.num_classes),  # 1: manifest.json
        },
        shards=len(recipe_units(recipe.recover, facts.num_classes, facts.size)),
        disk=disk_use(recipe, facts.num_classes, facts.size, facts.decoded_images, facts.networks, _trained(facts)),
        stages=(plan_squeeze(facts), plan_recover(facts), plan_relabel(facts), plan_evaluate(facts)),
    )


def _label_files(spec: Relabel, count: int, num_classes: int) -> int:
    """Return the number of label files in the dataset, after packing."""
    files = len(label_parts(spec, count, num_classes))
    parts = files // spec.epochs
    return parts * math.ceil(spec.epochs / epochs_per_file(spec.epochs, parts))


def label_bytes(spec: Relabel, count: int, num_classes: int) -> dict[str, int]:
    """Return the exact bytes of all stored epochs, file headers included, for each encoding.

    Args:
        spec: The recipe's section `relabel`; its encoding does not matter.
        count: Number of images.
        num_classes: Number of classes.
    """
    bytes_by_encoding = {}
    for name in ("float16", "uint8", "topk"):
        encoded = replace(spec, encoding=name)
        encoding = recipe_encoding(encoded, num_classes)
        files = label_parts(encoded, count, num_classes).values()
        sizes = (epoch_file_bytes(file.epoch, file.rows, encoding, spec.augment.mix) for file in files)
        bytes_by_encoding[name] = sum(sizes)
    return bytes_by_encoding


def _trained(facts: Facts) -> dict[str, nn.Module]:
    """Return the networks that the run trains, on the meta device, by the field of the recipe."""
    recipe = facts.recipe
    networks = {} if recipe.squeeze.pretrained is not None else {"squeeze.network": facts.networks["teacher"]}
    if facts.eval_images is not None:
        for index, student in enumerate(recipe.evaluate.students):
            networks[f"evaluate.students.{index}"] = build_on_meta(student, facts.num_classes, facts.size)
    return networks
