"""Check that the files of a run will fit on its disk."""

import shutil
from pathlib import Path

from torch import nn

from srel_hub.errors import UserError
from srel_hub.stages.inputs import teacher_specs
from srel_hub.stages.preflight.disk_use import decoded_images, disk_use
from srel_hub.stages.preflight.gathered import Gathered
from srel_hub.storage.files import format_bytes, total_bytes


def free_disk(gathered: Gathered) -> list[str]:
    """Check that the files of the run will fit on its disk."""
    if gathered.folder is None:
        return []
    recipe, decoded = gathered.recipe, decoded_images(gathered.recipe, gathered.inputs)
    needed = disk_use(recipe, gathered.num_classes, gathered.size, decoded, _teachers(gathered), gathered.trainable)
    free = shutil.disk_usage(_existing(gathered.folder)).free
    if needed.total - total_bytes(gathered.folder) <= free:  # a resumed run has written a part of it
        return []
    return [
        f"not enough disk: the run takes about {needed} in {gathered.folder}, where {format_bytes(free)} are free; "
        "free some space, set run.root to another disk, or lower relabel.epochs, recover.ipc or source.image_size"
    ]


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.resolve().parents) if path.is_dir())


def _teachers(gathered: Gathered) -> dict[str, nn.Module]:
    """Return all teachers on the meta device, except those that cannot be built, which another check reports."""
    networks = {}
    for folder in teacher_specs(gathered.recipe):
        try:
            networks[folder] = gathered.network_of(folder)
        except UserError:
            continue
    return networks
