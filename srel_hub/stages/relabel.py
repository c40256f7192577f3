"""Relabel: store the teacher's logits on differently augmented views of the stored images (SRe2L, section 3.3).

    accelerate launch -m srel_hub.relabel recipes/quickstart.yaml
    srel-hub relabel runs/quickstart relabel.encoding=topk relabel.top_k=3 run.overwrite=true

Reads the images back from their PNG bytes. Leaves `soft_labels/`: manifest.json and one file per epoch. Where the
labels that a change of recipe set aside hold the same answers in float16, they are encoded anew, without the teacher.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from srel_hub import config
from srel_hub.config import as_dict
from srel_hub.core.encodings import decode, encode, recipe_encoding
from srel_hub.core.losses import distillation_loss
from srel_hub.core.metrics import accuracy
from srel_hub.core.seeds import blocks
from srel_hub.data.splits import Images
from srel_hub.labels.epoch_files import epoch_file, epoch_parts, write_epoch_file
from srel_hub.labels.epochs import sample_epoch
from srel_hub.labels.labeller import Labeller, label, make_labeller, passes
from srel_hub.labels.manifest import TEACHER_FILES, LabelFile, Manifest, Member, TeacherFacts, read_manifest
from srel_hub.labels.reader import SoftLabels
from srel_hub.runs.completion import SET_ASIDE
from srel_hub.runs.decoded_images import condensed_images
from srel_hub.runs.run import Run
from srel_hub.runs.work_queue import Work
from srel_hub.storage.condensed_table import image_table_sha256
from srel_hub.storage.files import atomic_write, format_bytes, sha256, write_json
from srel_hub.storage.mapped_images import to_device_if_it_fits
from srel_hub.teachers.classifier import Classifier, load_classifiers


MANIFEST = "manifest"  # the unit that rests on all files
TEMPERATURES = (1, 4, 20)
KL_IMAGES = 10_000  # of the first epoch, that what an encoding loses is measured on

Answers = Iterator[tuple[Tensor, Tensor]]  # images int64 [B], their logits [B, K]


@dataclass(frozen=True)
class Part:
    """One file of labels: these rows of an epoch."""

    epoch: int
    rows: range
    name: str


class Asked:
    """What is to be labeled, and by whom.

    Args:
        before: labels that hold the same answers in float16, which are then read instead.
    """

    def __init__(self, run: Run, classifiers: list[Classifier], images: Images, before: SoftLabels | None) -> None:
        self.run, self.spec, self.before = run, run.recipe.relabel, before
        self.classifiers, self.images = classifiers, images
        self.labeller: Labeller = make_labeller(classifiers, run.engine, run.device, self.spec.group_size)
        self.pixels = to_device_if_it_fits(images.pixels, run.device)
        self.encoding = recipe_encoding(self.spec, len(classifiers[0].class_names))

    def answers(self, epoch: int, rows: range) -> Answers:
        """The logits of these rows, a forward pass a step; by groups, those of others that are in their groups too."""
        views, order = sample_epoch(self.spec.augment, self.pixels, self.run.recipe.seed, epoch)
        each = passes(order, rows, self.spec.group_size, self.spec.batch_size)
        if self.before is not None:
            return ((indices, self.before.logits(epoch, indices)) for indices in each)
        return label(self.labeller, self.pixels, views, each)

    def steps(self, rows: range) -> int:
        """About how many steps `answers` has."""
        return len(blocks(len(rows), self.spec.batch_size))


def relabel(run: Run) -> Path:
    """Label every epoch that is not marked yet, then write the manifest.

    Returns:
        the folder of soft labels.
    """
    if run.broadcast(run.is_complete("relabel")):
        return run.path("soft_labels")
    run.begin()
    for labeling in run.recipe.label_folders:
        run.require(labeling, "squeeze")
    run.require("images", "recover")
    folder, images = run.path("soft_labels"), condensed_images(run)
    classifiers = load_classifiers([run.path(name) for name in run.recipe.label_folders], run.device)
    asked = Asked(run, classifiers, images, labels_before(run, images, classifiers[0]))
    parts = label_files(run.recipe.relabel, len(images.labels), len(classifiers[0].class_names))
    units = {part.name: asked.steps(part.rows) for part in parts.values()}
    with Work(run, "relabel", units, "batch", last=MANIFEST) as work:
        for name in work:
            if name == MANIFEST:
                manifest = describe(asked, parts.values())
                write_json(folder / "manifest.json", as_dict(manifest))
                work.done([folder / "manifest.json"], accuracy=manifest.teacher.accuracy)
                run.print(f"relabel: {told(manifest, asked)}")
                if run.path(SET_ASIDE).is_dir():
                    run.remove(SET_ASIDE, _instead(asked))
            else:
                _label_part(asked, parts[name], work)
    return folder


def _instead(asked: Asked) -> str:
    """What took the place of labels that were set aside."""
    if asked.spec.encoding == "none":
        return "nothing is stored now"
    return "they are encoded anew" if asked.before else "the teacher was asked anew"


def label_files(spec: config.Relabel, num_images: int, num_classes: int) -> dict[str, Part]:
    """All files of labels, by name."""
    if spec.encoding == "none":
        return {}
    cut = epoch_parts(num_images, recipe_encoding(spec, num_classes), spec.augment.mix)
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

    def __init__(self, call: Callable[[Tensor, Tensor], object]) -> None:
        self._call = call
        self._pool = ThreadPoolExecutor(1)
        self._last: Future[object] | None = None

    def put(self, indices: Tensor, values: Tensor) -> None:
        if self._last is not None:
            self._last.result()
        self._last = self._pool.submit(self._call, indices, values)

    def __enter__(self) -> "Behind":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._pool:
            if kind is None and self._last is not None:
                self._last.result()


def _label_part(asked: Asked, part: Part, work: Work) -> None:
    file, spec = asked.run.path("soft_labels", part.name), asked.spec
    views, order = sample_epoch(spec.augment, asked.pixels, asked.run.recipe.seed, part.epoch)
    with (
        atomic_write(file) as temporary,
        write_epoch_file(temporary, part.epoch, part.rows, views, order, asked.encoding) as write,
        Behind(lambda indices, logits: write(indices, logits.cpu())) as writer,
    ):
        for indices, logits in work.steps(asked.answers(part.epoch, part.rows)):
            writer.put(indices, logits)
    work.done([file])


def labels_before(run: Run, images: Images, classifier: Classifier) -> SoftLabels | None:
    """Labels that were set aside, if they are whole answers of the same teachers to the same views."""
    folder, spec = run.path(SET_ASIDE), run.recipe.relabel
    if spec.encoding == "none" or not (folder / "manifest.json").is_file():
        return None
    manifest = read_manifest(folder / "manifest.json")
    same = {
        "encoding": (manifest.encoding, "float16"),
        "augment": (manifest.augment, spec.augment),
        "seed": (manifest.seed, run.recipe.seed),
        "group_size": (manifest.group_size, spec.group_size),
        "precision": (manifest.precision, run.engine.precision),
        "class_names": (manifest.class_names, classifier.class_names),
        "teacher": (manifest.teacher.sha256, digests(run, run.recipe.label_folder)),
        "committee": (manifest.committee, committee(run)),
        "images": (manifest.image_table_sha256, image_table_sha256(images.pixels, images.labels)),
    }
    if manifest.epochs < spec.epochs or any(there != here for there, here in same.values()):
        return None
    return SoftLabels(manifest, lambda name: folder / name)


def describe(asked: Asked, parts: Iterable[Part]) -> Manifest:
    """The manifest of the labels just stored; the teacher is measured on the whole stored images."""
    run, spec, images = asked.run, asked.spec, asked.images
    classifier, pixels, labels = asked.classifiers[0], images.pixels, images.labels
    top1, _ = accuracy(classifier.model, pixels, labels, classifier.table(run.device))
    facts = TeacherFacts(
        repo_id=run.recipe.publish.teacher, tag=None, sha256=digests(run, run.recipe.label_folder), accuracy=top1
    )
    is_topk, before = spec.encoding == "topk", asked.before
    manifest = Manifest(
        num_images=len(pixels),
        num_classes=len(classifier.class_names),
        epochs=0 if spec.encoding == "none" else spec.epochs,
        image_size=(pixels.shape[2], pixels.shape[3]),
        padding=spec.augment.padding if spec.augment.crop == "padded" else 0,
        augment=spec.augment,
        seed=run.recipe.seed,
        encoding=spec.encoding,
        group_size=spec.group_size,
        mean=classifier.mean,
        std=classifier.std,
        class_names=classifier.class_names,
        teacher=facts,
        precision=run.engine.precision,
        device=before.manifest.device if before else run.device.type,
        torch=before.manifest.torch if before else torch.__version__,
        image_table_sha256=image_table_sha256(pixels, labels),
        files=tuple(_facts(run, part) for part in parts),
        others=(),  # assemble lists them
        top_k=asked.encoding.k if is_topk else None,
        top_values=asked.encoding.values if is_topk else None,
        pool=spec.pool,
        committee=committee(run),
        kl_error=None,
    )
    if spec.encoding == "none":
        return manifest
    if before is not None and before.manifest.coding == asked.encoding and before.manifest.kl_error is not None:
        return replace(manifest, kl_error=before.manifest.kl_error)
    return replace(manifest, kl_error=kl_error(asked))


def kl_error(asked: Asked) -> dict[str, float]:
    """What the encoding loses: mean KL(softmax(z / T) || softmax(z' / T)) over images of the first epoch, by T."""
    answers, found, count = asked.answers(0, range(len(asked.pixels))), dict.fromkeys(TEMPERATURES, 0.0), 0
    for indices, logits in answers:
        stored = decode(encode(logits.cpu(), asked.encoding), asked.encoding)
        for T in TEMPERATURES:
            loss = distillation_loss(stored.double(), logits.cpu().double(), T, squared=False)
            found[T] += float(loss) * len(indices)
        count += len(indices)
        if count >= KL_IMAGES:
            break
    return {str(T): float(f"{max(0.0, total / count):.3g}") for T, total in found.items()}


def committee(run: Run) -> tuple[Member, ...]:
    """The further networks that label, as the manifest names them."""
    folders = run.recipe.label_folders[1:]
    return tuple(Member(folder=folder.removeprefix("label_"), sha256=digests(run, folder)) for folder in folders)


def digests(run: Run, folder: str) -> dict[str, str]:
    """sha256 of each of a classifier's files that decide its answers."""
    return {name: sha256(run.path(folder, name)) for name in TEACHER_FILES}


def told(manifest: Manifest, asked: Asked) -> str:
    """What was stored, and what its encoding loses."""
    seen = f"the teacher's top-1 on the {manifest.num_images} images: {manifest.teacher.accuracy:.1%}"
    if manifest.kl_error is None:
        return f"nothing is stored, students ask the teacher; {seen}"
    size = format_bytes(sum(file.bytes for file in manifest.files))
    loss = ", ".join(f"{value:.3g} at T {T}" for T, value in manifest.losses)
    if asked.before is not None:
        old = asked.before.manifest
        was = f"{old.coding}, {old.epochs} epochs, {format_bytes(sum(file.bytes for file in old.files))}"
        return f"encoded anew, without the teacher: {was}, now {manifest.coding}, {size}; KL {loss}; {seen}"
    return f"{manifest.epochs} epochs, {manifest.coding}, {size}; KL {loss} from the teacher's answers; {seen}"


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
