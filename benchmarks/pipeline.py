"""Time the stages of the quickstart: as the plain loops of the other benchmarks, and as ours.

python benchmarks/pipeline.py

Recovers 100 images, labels them in several epochs and trains one student.
"""

from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice

import measured
import recover
import relabel
import torch
import train

from srel_hub.config import Network
from srel_hub.core.engine import Engine, best_precision


CASE = recover.Case(Network(model="convnet"), 8, 10, stack=10)
ITERATIONS, EPOCHS = 50, 10  # a tenth of the quickstart's


def advance(iterator: Iterator[object], count: int) -> None:
    """Take `count` steps of a loop."""
    deque(islice(iterator, count), maxlen=0)


def compare() -> dict[str, object]:
    """Return the milliseconds of each stage, and the ratio of the whole."""
    engine, images = Engine(best_precision()), relabel.random_images(CASE, CASE.images)
    labels = torch.randn(CASE.images, CASE.classes, generator=torch.Generator().manual_seed(1))
    plain: dict[str, tuple[Iterator[object], int]] = {
        "recover": (recover.published(CASE), CASE.stack * ITERATIONS),
        "relabel": (relabel.published(CASE, images), EPOCHS),
        "student": (train.published(CASE, images, labels), EPOCHS),
    }
    fast: dict[str, tuple[Iterator[object], int]] = {
        "recover": (recover.ours(CASE, engine), ITERATIONS),
        "relabel": (relabel.ours(CASE, images, engine), EPOCHS),
        "student": (train.ours(CASE, images, labels, engine), EPOCHS),
    }
    times = {}
    for stage in plain:
        works = {"published": partial(advance, *plain[stage]), "ours": partial(advance, *fast[stage])}
        times[stage] = measured.per_image(measured.alternate(works, warm_up=1), 1)
    whole = {name: sum(stage[name]["ms_per_image"] for stage in times.values()) for name in ("published", "ours")}
    return {"milliseconds": times, "ratio": round(whole["published"] / whole["ours"], 2)}


def cases() -> dict[str, Callable[[], dict[str, object]]]:
    """Return the benchmark by its name."""
    return {"pipeline quickstart": compare}


if __name__ == "__main__":
    measured.run("pipeline", cases())
