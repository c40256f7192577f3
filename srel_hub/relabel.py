"""Relabel: store the teacher's logits on differently augmented views of the stored images (SRe2L, section 3.3).

    accelerate launch -m srel_hub.relabel recipes/quickstart.yaml

Reads the images back from their PNG bytes. Leaves `soft_labels/`: manifest.json and one file per epoch.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from srel_hub import teacher
from srel_hub.augment import Views, normalise, render
from srel_hub.condensed import sample_epoch
from srel_hub.images import image_table_sha256, load_pixels
from srel_hub.recipe import as_dict
from srel_hub.run import Run, atomic, blocks, cli, sha256, write_json
from srel_hub.soft_labels import (
    TEACHER_FILES,
    LabelFile,
    Manifest,
    TeacherFacts,
    epoch_file,
    epoch_parts,
    write_epoch_file,
)
from srel_hub.teacher import Classifier
from srel_hub.training import predict, top_k


MANIFEST_UNIT = "manifest"


def relabel(run: Run) -> Path:
    """Label every epoch that is not marked yet, then write the manifest.

    Returns:
        the folder of soft labels.
    """
    folder, spec = run.path("soft_labels"), run.recipe.relabel
    if run.is_done("relabel", MANIFEST_UNIT):
        return folder
    run.require(run.recipe.label_folder, "squeeze")
    run.require("images", "recover")
    classifier = teacher.load(run.path(run.recipe.label_folder), run.device)
    pixels, labels = load_pixels(run.path("images"))
    work = [
        (epoch, part, rows, epoch_file(epoch, part, len(parts)))
        for parts in [epoch_parts(len(pixels), len(classifier.class_names), spec.augment.mix)]
        for epoch in range(spec.epochs)
        for part, rows in enumerate(parts)
    ]
    on_device = pixels.to(run.device)
    for epoch, _, rows, name in run.progress(work, len(work), "relabel", "epoch"):
        if not run.is_done("relabel", name):
            torch.backends.cudnn.allow_tf32 = False  # the labels are float32, as the manifest says
            views, order = sample_epoch(spec.augment, on_device, run.recipe.seed, epoch)
            with (
                atomic(folder / name) as temporary,
                write_epoch_file(temporary, epoch, rows, views, order, len(classifier.class_names)) as write,
            ):
                for logits in label(classifier, on_device, views, rows, spec.batch_size):
                    write(logits)
            run.mark("relabel", name, [folder / name])
    files = tuple(_facts(folder / name, epoch, rows) for epoch, _, rows, name in work)
    manifest = describe(run, classifier, pixels, labels, files)
    write_json(folder / "manifest.json", as_dict(manifest))
    run.mark("relabel", MANIFEST_UNIT, [folder / "manifest.json", *(folder / file.name for file in files)])
    accuracy = manifest.teacher.accuracy
    run.say(f"relabel: {spec.epochs} epochs of {len(pixels)} images; the teacher's top-1 on them: {accuracy:.1%}")
    return folder


@torch.no_grad()
def label(classifier: Classifier, pixels: Tensor, views: Views, rows: range, batch_size: int) -> Iterator[Tensor]:
    """The teacher's raw logits, float32 [B, K] on the CPU, for these rows in order, a batch a step."""
    table = classifier.table(pixels.device)
    for block in blocks(len(rows), batch_size):
        indices = torch.arange(rows.start + block.start, rows.start + block.stop)
        x = normalise(render(pixels, views, indices), table)
        yield classifier.model(x).logits.float().cpu()


def _facts(file: Path, epoch: int, rows: range) -> LabelFile:
    return LabelFile(
        name=file.name, epoch=epoch, rows=(rows.start, rows.stop), bytes=file.stat().st_size, sha256=sha256(file)
    )


def describe(
    run: Run, classifier: Classifier, pixels: Tensor, labels: Tensor, files: tuple[LabelFile, ...]
) -> Manifest:
    """The manifest of the labels just stored; the teacher is measured on the whole stored images."""
    spec, publish = run.recipe.relabel, run.recipe.publish
    logits = predict(classifier.model, pixels, classifier.table(run.device))
    facts = TeacherFacts(
        repo_id=publish.teacher,
        tag=None,
        sha256={name: sha256(run.path(run.recipe.label_folder, name)) for name in TEACHER_FILES},
        accuracy=top_k(logits, labels, 1),
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
        precision="float32",
        device=run.device.type,
        torch=torch.__version__,
        image_table_sha256=image_table_sha256(pixels, labels),
        files=files,
    )


if __name__ == "__main__":
    cli(relabel)
