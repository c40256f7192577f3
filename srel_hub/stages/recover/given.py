"""Recover without an optimization: store given images as the run's images (`recover.images`).

Writes `images/`, one parquet shard for every unit of work, with the given pixels unchanged.
"""

from pathlib import Path

from srel_hub import config
from srel_hub.data.given_images import GivenImages
from srel_hub.runs.run import Run
from srel_hub.runs.work_queue import WorkQueue
from srel_hub.stages.recover.units import recipe_units
from srel_hub.storage.condensed_table import encode_png, write_parquet
from srel_hub.storage.files import atomic_write
from srel_hub.teachers.classifier import Classifier


def store_given(spec: config.Recover, given: GivenImages, classifier: Classifier, run: Run) -> Path:
    """Store the given images of every unit that is not done yet.

    Args:
        spec: The recipe's section.
        given: The images.
        classifier: The teacher, whose class names and image size the dataset has.
        run: The run, after `begin`.

    Returns:
        The folder of image shards.
    """
    names = classifier.class_names
    units = {unit.name: unit for unit in recipe_units(spec, len(names), classifier.size)}
    counts = {name: len(unit.labels) for name, unit in units.items()}
    with WorkQueue(run, "recover", counts, "image") as work:
        for name in work:
            unit = units[name]
            rows = given.rows[unit.ipcs.start : unit.ipcs.stop].flatten()
            pngs = [encode_png(image) for image in work.steps(given.pixels(rows, classifier.size))]
            file = run.path("images", f"{name}.parquet")
            with atomic_write(file) as temporary:
                write_parquet(temporary, pngs, unit.labels.tolist(), names)
            work.done([file])
    return run.path("images")
