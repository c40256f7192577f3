"""Check that the files of a run will fit on its disk."""

import shutil
from pathlib import Path

from srel_hub.config import Recipe
from srel_hub.core.encodings import recipe_encoding
from srel_hub.data.sources import Source
from srel_hub.labels.epoch_files import row_bytes
from srel_hub.stages.preflight.gathered import Gathered
from srel_hub.storage.files import format_bytes, total_bytes
from srel_hub.teachers.cost_model import weights_bytes


def free_disk(gathered: Gathered) -> list[str]:
    """Check that the files of the run will fit on its disk. PNGs of noise are about as large as the pixels."""
    if gathered.folder is None:
        return []
    recipe, relabel = gathered.recipe, gathered.recipe.relabel
    count = gathered.num_classes * recipe.recover.ipc
    image = 3 * gathered.size[0] * gathered.size[1]
    images = 2 * image * count  # once in the run's shards, once in the dataset's parquet
    epochs = 0 if relabel.encoding == "none" else relabel.epochs
    labels = epochs * count * row_bytes(recipe_encoding(relabel, gathered.num_classes), relabel.augment.mix)
    decoded = image * decoded_images(recipe, gathered.inputs.source, count)
    weights = _teacher_bytes(gathered)
    needed, free = images + labels + weights + decoded, shutil.disk_usage(_existing(gathered.folder)).free
    if needed - total_bytes(gathered.folder) <= free:  # a resumed run has written a part of it
        return []
    return [
        f"not enough disk: the recipe writes {format_bytes(needed)} (images {format_bytes(images)}, soft labels "
        f"{format_bytes(labels)}, teachers {format_bytes(weights)}, temporarily decoded images "
        f"{format_bytes(decoded)}) to {gathered.folder}, where {format_bytes(free)} are free; free some space, set "
        "run.root to another disk, or lower relabel.epochs, recover.ipc or source.image_size"
    ]


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.resolve().parents) if path.is_dir())


def _teacher_bytes(gathered: Gathered) -> int:
    """Return the bytes of the teachers that are still to be saved."""
    networks = [adopted.classifier.model for adopted in gathered.inputs.adopted.values()]
    if gathered.trains_teacher:
        networks += [network for name, network in gathered.trainable.items() if name.startswith("squeeze.network")]
    return sum(weights_bytes(network) for network in networks)


def decoded_images(recipe: Recipe, source: Source, count: int) -> int:
    """Return how many decoded images a run stores while it works.

    Args:
        recipe: The recipe.
        source: The real dataset.
        count: Number of condensed images.

    Returns:
        Condensed, eval, random real and training images together.
    """
    train, evaluation = source.train, source.eval
    if evaluation is None or evaluation.fingerprint is None:  # a built-in dataset is in memory anyway
        return count
    real = recipe.evaluate.seeds * count if train is not None and recipe.evaluate.baselines else 0
    trained = len(train.labels) if train is not None and recipe.squeeze.pretrained is None else 0
    return count + len(evaluation.labels) + real + trained
