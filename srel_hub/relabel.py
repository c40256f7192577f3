"""Relabel: store the teacher's logits on differently augmented views of the stored images (SRe2L, section 3.3).

    accelerate launch -m srel_hub.relabel recipes/quickstart.yaml

Reads the images back from their PNG bytes. Leaves `soft_labels/`: manifest.json and one file per epoch.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from srel_hub import recipe, teacher
from srel_hub.augment import Views, normalise, render
from srel_hub.cache import condensed_images
from srel_hub.cli import cli
from srel_hub.condensed import sample_epoch
from srel_hub.files import atomic, sha256, write_json
from srel_hub.images import image_table_sha256
from srel_hub.pixels import near
from srel_hub.recipe import as_dict
from srel_hub.run import Run
from srel_hub.soft_labels import (
    TEACHER_FILES,
    LabelFile,
    Manifest,
    TeacherFacts,
    epoch_file,
    epoch_parts,
    write_epoch_file,
)
from srel_hub.split import Images
from srel_hub.teacher import Classifier
from srel_hub.training import accuracy
from srel_hub.units import blocks
from srel_hub.work import Work


MANIFEST = "manifest"  # the unit that rests on all files


def relabel(run: Run) -> Path:
    """Label every epoch that is not marked yet, then write the manifest.

    Returns:
        the folder of soft labels.
    """
    if run.agreed(run.is_complete("relabel")):
        return run.path("soft_labels")
    run.begin()
    run.require(run.recipe.label_folder, "squeeze")
    run.require("images", "recover")
    spec, folder = run.recipe.relabel, run.path("soft_labels")
    classifier = teacher.load(run.path(run.recipe.label_folder), run.device)
    images = condensed_images(run)
    network, pixels = run.engine.network(classifier.model), near(images.pixels, run.device)
    parts = label_files(spec, len(pixels), len(classifier.class_names))
    with Work(
        run,
        "relabel",
        {part.name: len(blocks(len(part.rows), spec.batch_size)) for part in parts.values()},
        "batch",
        last=MANIFEST,
    ) as work:
        for name in work:
            if name == MANIFEST:
                manifest = describe(run, classifier, images, parts.values())
                write_json(folder / "manifest.json", as_dict(manifest))
                work.done([folder / "manifest.json"], accuracy=manifest.teacher.accuracy)
                run.say(
                    f"relabel: {spec.epochs} epochs of {len(pixels)} images; the teacher's top-1 on them: "
                    f"{manifest.teacher.accuracy:.1%}"
                )
            else:
                _label_part(run, classifier, network, pixels, parts[name], work)
    return folder


@dataclass(frozen=True)
class Part:
    """One file of labels: these rows of an epoch."""

    epoch: int
    rows: range
    name: str


def label_files(spec: recipe.Relabel, num_images: int, num_classes: int) -> dict[str, Part]:
    """All files of labels, by name."""
    cut = epoch_parts(num_images, num_classes, spec.augment.mix)
    parts = [
        Part(epoch, rows, epoch_file(epoch, index, len(cut)))
        for epoch in range(spec.epochs)
        for index, rows in enumerate(cut)
    ]
    return {part.name: part for part in parts}


class Behind:
    """Calls a function in a thread, one call after the other, while the caller goes on; one call at most waits.

    Raises:
        Exception: what a call raised, at the next `put` or at the end.
    """

    def __init__(self, call: Callable[[Tensor], object]) -> None:
        self._call = call
        self._pool = ThreadPoolExecutor(1)
        self._last: Future[object] | None = None

    def put(self, value: Tensor) -> None:
        if self._last is not None:
            self._last.result()
        self._last = self._pool.submit(self._call, value)

    def __enter__(self) -> "Behind":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._pool:
            if kind is None and self._last is not None:
                self._last.result()


def _label_part(
    run: Run, classifier: Classifier, network: Callable[[Tensor], Tensor], pixels: Tensor, part: Part, work: Work
) -> None:
    spec, file, table = run.recipe.relabel, run.path("soft_labels", part.name), classifier.table(run.device)
    views, order = sample_epoch(spec.augment, pixels, run.recipe.seed, part.epoch)
    with (
        atomic(file) as temporary,
        write_epoch_file(temporary, part.epoch, part.rows, views, order, len(classifier.class_names)) as write,
        Behind(lambda logits: write(logits.cpu())) as writer,
    ):
        for logits in work.steps(label(network, table, pixels, views, part.rows, spec.batch_size)):
            writer.put(logits)
    work.done([file])


@torch.no_grad()
def label(
    network: Callable[[Tensor], Tensor], table: Tensor, pixels: Tensor, views: Views, rows: range, batch_size: int
) -> Iterator[Tensor]:
    """The network's raw logits, float32 [B, K] on the table's device, for these rows in order, a batch a step."""
    views = views.to(pixels.device)
    for block in blocks(len(rows), batch_size):
        indices = torch.arange(rows.start + block.start, rows.start + block.stop, device=pixels.device)
        yield network(normalise(render(pixels, views, indices).to(table.device), table)).clone()


def describe(run: Run, classifier: Classifier, images: Images, parts: Iterable[Part]) -> Manifest:
    """The manifest of the labels just stored; the teacher is measured on the whole stored images."""
    spec, publish = run.recipe.relabel, run.recipe.publish
    pixels, labels = images.pixels, images.labels
    top1, _ = accuracy(classifier.model, pixels, labels, classifier.table(run.device))
    facts = TeacherFacts(
        repo_id=publish.teacher,
        tag=None,
        sha256={name: sha256(run.path(run.recipe.label_folder, name)) for name in TEACHER_FILES},
        accuracy=top1,
    )
    return Manifest(
        num_images=len(pixels),
        num_classes=len(classifier.class_names),
        epochs=spec.epochs,
        image_size=(pixels.shape[2], pixels.shape[3]),
        padding=spec.augment.padding if spec.augment.crop == "padded" else 0,
        augment=spec.augment,
        seed=run.recipe.seed,
        encoding=spec.encoding,
        group_size=None,
        mean=classifier.mean,
        std=classifier.std,
        class_names=classifier.class_names,
        teacher=facts,
        precision=run.engine.precision,
        device=run.device.type,
        torch=torch.__version__,
        image_table_sha256=image_table_sha256(pixels, labels),
        files=tuple(_facts(run, part) for part in parts),
    )


def _facts(run: Run, part: Part) -> LabelFile:
    file = run.path("soft_labels", part.name)
    digests = run.marks.digests("relabel", part.name) or {}
    return LabelFile(
        name=part.name,
        epoch=part.epoch,
        rows=(part.rows.start, part.rows.stop),
        bytes=file.stat().st_size,
        sha256=digests.get(f"soft_labels/{part.name}") or sha256(file),
    )


if __name__ == "__main__":
    cli(relabel)
