"""Checks of the recipe against the networks and the image size that result from it. Each returns a list of problems."""

from collections.abc import Mapping

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from srel_hub.config import Recipe, Squeeze
from srel_hub.core.optim import batch_count
from srel_hub.errors import UserError, first_line
from srel_hub.stages.inputs import teacher_specs
from srel_hub.stages.preflight.gathered import Gathered, Opened
from srel_hub.storage.decode import scale_shorter_side
from srel_hub.teachers.architectures import build, require_usable
from srel_hub.teachers.classifier import factory_of, require_repeatable
from srel_hub.teachers.pretrained import require_batchnorm


def batchnorm_to_match(recipe: Recipe, opened: Mapping[str, Opened]) -> list[str]:
    """Check that pretrained networks have BatchNorm layers if images must match their statistics."""
    if recipe.recover.images is not None:
        return []
    problems = []
    for folder in recipe.recover_folders:
        if folder in opened:
            try:
                require_batchnorm(opened[folder].classifier.model, opened[folder].title)
            except UserError as error:
                problems.append(str(error))
    return problems


def networks_that_fit(gathered: Gathered) -> list[str]:
    """Check that networks to be trained accept the images, and that squeeze's network has BatchNorm layers."""
    problems = []
    for name, network in gathered.trainable.items():
        try:
            require_usable(network, gathered.num_classes, gathered.size, name)
            if name.startswith("squeeze.network"):
                if gathered.recipe.recover.images is None:
                    require_batchnorm(network, name)
                if factory_of(network) is not None:  # on the meta device, logits have no values to compare
                    built = build(gathered.recipe.squeeze.network, gathered.inputs.class_names, gathered.size, seed=0)
                    require_repeatable(built.eval(), gathered.num_classes, gathered.size, name)
        except UserError as error:
            problems.append(str(error))
    return problems


def patches_that_divide_images(gathered: Gathered) -> list[str]:
    """Check that `augment.patches` divides the height and width of the images."""
    return undivided_patches(gathered.recipe, gathered.size)


def undivided_patches(recipe: Recipe, size: tuple[int, int]) -> list[str]:
    """Return a problem for every section whose `augment.patches` does not divide `size` (height, width)."""
    (height, width), problems = size, []
    for section, augment in (("squeeze", recipe.squeeze.augment), ("relabel", recipe.relabel.augment)):
        if height % augment.patches or width % augment.patches:
            problems.append(
                f"{section}.augment.patches={augment.patches}: images of {width} x {height} pixels cannot be cut into "
                f"{augment.patches} equal patches per side; choose a divisor of both sides"
            )
    return problems


def groups_with_batchnorm(gathered: Gathered) -> list[str]:
    """Check that `relabel.group_size` is set only for a teacher with BatchNorm layers."""
    size, folder = gathered.recipe.relabel.group_size, gathered.recipe.label_folder
    if size is None or folder not in gathered.opened:
        return []
    opened = gathered.opened[folder]
    if any(isinstance(layer, _BatchNorm) for layer in opened.classifier.model.modules()):
        return []
    return [
        f"relabel.group_size={size}: the teacher {opened.origin.path} has no BatchNorm layer, so its labels do not "
        "depend on groups; remove relabel.group_size"
    ]


def recover_sizes(gathered: Gathered) -> list[str]:
    """Check that `recover.sizes` ends at the image size and that every teacher accepts all of its sizes."""
    sides, shorter = gathered.recipe.recover.sizes, min(gathered.size)
    if not sides or gathered.recipe.recover.images is not None:
        return []
    problems = []
    if sides[-1] != shorter or max(sides) > shorter:
        problems.append(
            f"recover.sizes={list(sides)}: the last size must be the images' shorter side, {shorter}, and no size may "
            "be larger"
        )
    for folder in gathered.recipe.recover_folders:
        for side in sorted(set(sides) - {shorter}):
            spec, field = teacher_specs(gathered.recipe)[folder]
            who = "squeeze.network" if spec is None else f"{field}={spec.path}"
            try:
                gathered.network_of(folder).eval()(
                    torch.empty(1, 3, *scale_shorter_side(gathered.size, side), device="meta")
                )
            except UserError:
                continue  # the network cannot be built at all, which another check reports
            except (RuntimeError, ValueError) as error:
                problems.append(
                    f"recover.sizes={list(sides)}: {who} accepts only images of {shorter} pixels "
                    f"({first_line(error)}); remove recover.sizes"
                )
                break
    return problems


def batches_to_share(gathered: Gathered) -> list[str]:
    """Check that no process would train on a single image of a batch, because BatchNorm needs two."""
    train = gathered.inputs.source.train
    return [] if train is None else single_images(gathered.recipe.squeeze, len(train.labels), gathered.processes)


def single_images(spec: Squeeze, count: int, processes: int) -> list[str]:
    """Return a problem if a training on `count` images leaves a process with fewer than two images of a batch."""
    if spec.pretrained is not None or processes == 1 or count // batch_count(count, spec.batch_size) >= 2 * processes:
        return []
    return [
        f"squeeze.batch_size={spec.batch_size}: {processes} processes share a batch, and BatchNorm needs two images in "
        f"each; set at least {2 * processes}, or start fewer processes"
    ]
