"""Checks of the recipe against the networks and image size that it leads to. Each returns a list of problems."""

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from srel_hub.core.optim import batch_count
from srel_hub.errors import UserError, first_line
from srel_hub.stages.inputs import teacher_specs
from srel_hub.stages.preflight.facts import Gathered
from srel_hub.storage.decode import scale_shorter_side
from srel_hub.teachers.architectures import require_usable
from srel_hub.teachers.pretrained import require_batchnorm


def batchnorm_to_match(gathered: Gathered) -> list[str]:
    """Check that pretrained networks whose statistics images are to match have BatchNorm layers."""
    problems = []
    for folder in gathered.recipe.recover_folders:
        if folder in gathered.opened:
            spec, field = teacher_specs(gathered.recipe)[folder]
            assert spec is not None, "a trained network is not opened"
            try:
                require_batchnorm(gathered.opened[folder].model, f"{field}={spec.path}")
            except UserError as error:
                problems.append(str(error))
    return problems


def networks_that_fit(gathered: Gathered) -> list[str]:
    """Check that networks to be trained accept the images, and that squeeze's has BatchNorm layers."""
    problems = []
    for name, network in gathered.trainable.items():
        try:
            require_usable(network, gathered.num_classes, gathered.size, name)
            if name.startswith("squeeze.network"):
                require_batchnorm(network, name)
        except UserError as error:
            problems.append(str(error))
    return problems


def patches_that_divide_images(gathered: Gathered) -> list[str]:
    """Check that images can be cut into as many patches as are shuffled."""
    (height, width), recipe, problems = gathered.size, gathered.recipe, []
    for section, augment in (("squeeze", recipe.squeeze.augment), ("relabel", recipe.relabel.augment)):
        if height % augment.patches or width % augment.patches:
            problems.append(
                f"{section}.augment.patches={augment.patches}: images of {width} x {height} pixels cannot be cut into "
                f"{augment.patches} equal patches per side; choose a divisor of both sides"
            )
    return problems


def groups_with_batchnorm(gathered: Gathered) -> list[str]:
    """Check that labels by groups come from a teacher whose output depends on the group."""
    size, folder = gathered.recipe.relabel.group_size, gathered.recipe.label_folder
    if size is None or folder not in gathered.opened:
        return []
    if any(isinstance(layer, _BatchNorm) for layer in gathered.opened[folder].model.modules()):
        return []
    spec, _ = teacher_specs(gathered.recipe)[folder]
    assert spec is not None, "a trained network is not opened"
    return [
        f"relabel.group_size={size}: the teacher {spec.path} has no BatchNorm layer, so its labels do not depend on "
        "groups; remove the field"
    ]


def recover_sizes(gathered: Gathered) -> list[str]:
    """Check that the stages of recover end at the images' size and that every teacher accepts their sizes."""
    sides, shorter = gathered.recipe.recover.sizes, min(gathered.size)
    if not sides:
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
                    f"({first_line(error)}); remove the field"
                )
                break
    return problems


def batches_to_share(gathered: Gathered) -> list[str]:
    """Check that no process would train on a single image of a batch, which BatchNorm cannot use."""
    spec, train, processes = gathered.recipe.squeeze, gathered.inputs.source.train, gathered.processes
    if train is None or spec.pretrained is not None or processes == 1:
        return []
    count = len(train.labels)
    if count // batch_count(count, spec.batch_size) >= 2 * processes:
        return []
    return [
        f"squeeze.batch_size={spec.batch_size}: {processes} processes share a batch, and BatchNorm needs two images in "
        f"each; set at least {2 * processes}, or start fewer processes"
    ]
