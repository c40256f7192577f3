"""Measure memory while labels are written, and while they are read in training order: it must not grow with epochs.

    python benchmarks/memory.py            writes and prints benchmarks/results/memory.json

Uses 50,000 images of 1,000 classes, then 10,450 images of 10,450 classes, of 8 x 8 pixels, and a teacher with random
weights that is small enough for a CPU. Peaks are those of single epochs (on Linux they can be reset), with and without
the pages of memory-mapped files.
"""

import json
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import measured

from srel_hub.config import Network, Recipe, load_recipe
from srel_hub.labels.epochs import stored_epoch
from srel_hub.labels.read_manifest import read_manifest
from srel_hub.labels.reader import SoftLabels
from srel_hub.recover import recover
from srel_hub.relabel import relabel
from srel_hub.runs.decoded_images import condensed_images
from srel_hub.runs.run import Run
from srel_hub.squeeze import squeeze
from srel_hub.teachers import architectures, classifier
from srel_hub.teachers.classifier import Classifier


EPOCHS = 3
CASES = ((1000, 50), (10_450, 1))  # number of classes, images of each


def memory(field: str) -> float:
    """Return MiB of this process: RssAnon is memory without mapped files, VmHWM the peak including them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{field}:"))) / 1024


@contextmanager
def peaks() -> Iterator[dict[str, float]]:
    """Measure peak MiB within the block: of all pages (`all`), and of those without a file (`anonymous`, sampled)."""
    measured.reset_peak()
    peak, over = {"anonymous": memory("RssAnon")}, threading.Event()

    def sample() -> None:
        while not over.wait(0.01):
            peak["anonymous"] = max(peak["anonymous"], memory("RssAnon"))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()
        peak["all"] = memory("VmHWM")


def random_recipe(folder: Path, classes: int, ipc: int) -> Recipe:
    """Return a recipe whose teacher has random weights, after writing both to a folder."""
    names = tuple(f"class {index}" for index in range(classes))
    network = architectures.build(Network(model="convnet", width=0.125), names, (8, 8), seed=0)
    classifier.save(Classifier(network, (0.5,) * 3, (0.25,) * 3, names, (8, 8)), folder / "random")  # type: ignore[arg-type]
    file = folder / "memory.yaml"
    file.write_text(
        f"source: {{path: none, train_split: null, eval_split: null}}\n"
        f"squeeze: {{pretrained: {{path: '{folder}/random'}}}}\n"
        f"recover: {{ipc: {ipc}, iterations: 1}}\nrelabel: {{epochs: {EPOCHS}}}\nrun: {{root: '{folder}'}}\n"
    )
    return load_recipe(file)


def measure(folder: Path, classes: int, ipc: int) -> dict[str, object]:
    """Return peak memory while all epochs are written, and while each one is read."""
    run = Run(random_recipe(folder, classes, ipc))
    squeeze(run)
    recover(run)
    before = memory("RssAnon")
    with peaks() as writing:
        relabel(run)
    images, labels = condensed_images(run), run.path("soft_labels")
    stored = SoftLabels(read_manifest(labels / "manifest.json"), lambda name: labels / name)
    table, reading = classifier.load(run.path("teacher"), run.device).table(run.device), []
    for number in range(EPOCHS):
        with peaks() as peak:
            epoch = stored_epoch(images.pixels, table, stored, number)
            for batch in stored.order(number).split(128):
                epoch.batch(batch)
        reading.append(peak)
    run.close()
    return {
        "images": classes * ipc,
        "classes": classes,
        "bytes_of_an_epoch": stored.manifest.files[0].bytes,
        "anonymous_before_mib": round(before),
        "writing_mib": {name: round(value) for name, value in writing.items()},
        "reading_mib": [{name: round(value) for name, value in peak.items()} for peak in reading],
    }


def main() -> None:
    """Measure all cases."""
    results = []
    for classes, ipc in CASES:
        with tempfile.TemporaryDirectory() as folder:
            results.append(measure(Path(folder), classes, ipc))
    measured.RESULTS.mkdir(exist_ok=True)
    file = measured.RESULTS / "memory.json"
    file.write_text(json.dumps({**measured.machine(), "cases": results}, indent=2) + "\n")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
