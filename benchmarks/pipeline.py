"""The quickstart from digits to scores: its stages by the plain loops of the other benchmarks, and by ours.

python benchmarks/pipeline.py

Ten indices recovered, 100 images labeled in each epoch, one student trained; so many iterations and epochs as below.
"""

from collections.abc import Callable, Iterator

import measured
import recover
import relabel
import torch
import train

from srel_hub.config import Network
from srel_hub.core.engine import Engine, best_precision


CASE = recover.Case(Network(model="convnet"), 8, 10, stack=10)
ITERATIONS, EPOCHS = 50, 10  # a tenth of the quickstart's


def times(iterator: Iterator[object], count: int) -> None:
    for _ in range(count):
        next(iterator)


def against_published() -> dict[str, object]:
    engine, images = Engine(best_precision()), relabel.pictures(CASE, CASE.images)
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
    found = {}
    for stage in plain:
        works = {"published": lambda s=stage: times(*plain[s]), "ours": lambda s=stage: times(*fast[s])}
        found[stage] = measured.told(measured.alternate(works, warm_up=1), 1)
    whole = {name: sum(stage[name]["ms_per_image"] for stage in found.values()) for name in ("published", "ours")}
    return {"milliseconds": found, "ratio": round(whole["published"] / whole["ours"], 2)}


def cases() -> dict[str, Callable[[], dict[str, object]]]:
    return {"pipeline quickstart": against_published}


if __name__ == "__main__":
    measured.run("pipeline", cases())
