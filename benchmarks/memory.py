"""Memory while labels are written and read back in training order: flat over epochs, whatever their number.

    python benchmarks/memory.py            writes benchmarks/results/memory.json, prints it

50,000 images of 1,000 classes, then 10,450 images of 10,450 classes, at 8 pixels, by a teacher with random weights
that is small enough for a CPU. Peaks are those of single epochs (Linux resets them), with and without the pages of
mapped files.
"""

import json
import platform
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from srel_hub.config import Network, Recipe, load_recipe
from srel_hub.labels.epochs import stored_epoch
from srel_hub.labels.manifest import read_manifest
from srel_hub.labels.reader import SoftLabels
from srel_hub.recover import recover
from srel_hub.relabel import relabel
from srel_hub.runs.decoded_images import condensed_images
from srel_hub.runs.machine import library_versions
from srel_hub.runs.run import Run
from srel_hub.squeeze import squeeze
from srel_hub.teachers import architectures as networks
from srel_hub.teachers import classifier as teacher
from srel_hub.teachers.classifier import Classifier


RESULTS = Path(__file__).parent / "results" / "memory.json"
EPOCHS = 3
CASES = ((1000, 50), (10_450, 1))  # classes, images of each
MIB = 1024**2


def memory(field: str) -> float:
    """MiB that this process has: RssAnon without mapped files, RssFile those, VmHWM the peak of both."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{field}:"))) / 1024


@contextmanager
def peaks() -> Iterator[dict[str, float]]:
    """Peaks within it, in MiB: of all pages, and of those that are no file's (sampled)."""
    Path("/proc/self/clear_refs").write_text("5")
    found, over = {"anonymous": memory("RssAnon")}, threading.Event()

    def sample() -> None:
        while not over.wait(0.01):
            found["anonymous"] = max(found["anonymous"], memory("RssAnon"))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()
        found["all"] = memory("VmHWM")


def made(folder: Path, classes: int, ipc: int) -> Recipe:
    """A recipe whose teacher is random."""
    names = tuple(f"class {index}" for index in range(classes))
    network = networks.build(Network(model="convnet", width=0.125), names, (8, 8), seed=0)
    teacher.save(Classifier(network, (0.5,) * 3, (0.25,) * 3, names, (8, 8)), folder / "random")  # type: ignore[arg-type]
    file = folder / "memory.yaml"
    file.write_text(
        f"source: {{path: none, train_split: null, eval_split: null}}\n"
        f"squeeze: {{pretrained: {{path: '{folder}/random'}}}}\n"
        f"recover: {{ipc: {ipc}, iterations: 1}}\nrelabel: {{epochs: {EPOCHS}}}\nrun: {{root: '{folder}'}}\n"
    )
    return load_recipe(file)


def measure(folder: Path, classes: int, ipc: int) -> dict[str, object]:
    run = Run(made(folder, classes, ipc))
    squeeze(run)
    recover(run)
    before = memory("RssAnon")
    with peaks() as writing:
        relabel(run)
    images, labels = condensed_images(run), run.path("soft_labels")
    stored = SoftLabels(read_manifest(labels / "manifest.json"), lambda name: labels / name)
    table, reading = teacher.load(run.path("teacher"), run.device).table(run.device), []
    for number in range(EPOCHS):
        with peaks() as found:
            epoch = stored_epoch(images.pixels, table, stored, number)
            for batch in stored.order(number).split(128):
                epoch.batch(batch)
        reading.append(found)
    run.close()
    return {
        "images": classes * ipc,
        "classes": classes,
        "bytes_of_an_epoch": stored.manifest.files[0].bytes,
        "anonymous_before_mib": round(before),
        "writing_mib": {name: round(value) for name, value in writing.items()},
        "reading_mib": [{name: round(value) for name, value in found.items()} for found in reading],
    }


def main() -> None:
    results = []
    for classes, ipc in CASES:
        with tempfile.TemporaryDirectory() as folder:
            results.append(measure(Path(folder), classes, ipc))
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    told = {"device": platform.processor() or platform.machine(), "threads": torch.get_num_threads(),
            "versions": library_versions(), "commit": commit, "cases": results}  # fmt: skip
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(told, indent=2) + "\n")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
