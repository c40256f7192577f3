"""Relabel: store the teacher's logits on differently augmented views of the stored images (SRe2L, section 3.3).

Reads the images back from their PNG bytes. Writes `soft_labels/`: manifest.json and one file for every epoch. If labels
that a changed recipe set aside hold the same logits in float16, they are re-encoded without running the teacher.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from srel_hub import config
from srel_hub.core.augment import Views
from srel_hub.core.encodings import decode, encode, recipe_encoding
from srel_hub.core.losses import distillation_loss
from srel_hub.core.metrics import accuracy
from srel_hub.core.seeds import blocks
from srel_hub.data.splits import Images
from srel_hub.labels.epoch_files import epoch_file, epoch_parts, write_epoch_file
from srel_hub.labels.epochs import sample_epoch
from srel_hub.labels.labeller import Labeller, label, make_labeller, passes
from srel_hub.labels.manifest import TEACHER_FILES, LabelFile, Manifest, Member, TeacherFacts, manifest_values
from srel_hub.labels.read_manifest import read_manifest
from srel_hub.labels.reader import SoftLabels
from srel_hub.runs.completion import SET_ASIDE
from srel_hub.runs.run import Run
from srel_hub.runs.work_queue import WorkQueue
from srel_hub.storage.condensed_table import image_table_sha256
from srel_hub.storage.files import atomic_write, format_bytes, sha256, write_json
from srel_hub.storage.mapped_images import to_device_if_it_fits
from srel_hub.teachers.class_subset import class_columns, complete
from srel_hub.teachers.classifier import Classifier


MANIFEST = "manifest"  # the unit that depends on all files
TEMPERATURES = (1, 4, 20)  # at which the loss of an encoding is reported
KL_IMAGES = 10_000  # images of the first epoch on which that loss is measured

Batches = Iterator[tuple[Tensor, Tensor]]  # images int64 [B], their logits [B, K]


@dataclass(frozen=True)
class LabelPart:
    """One file of labels: these rows of an epoch."""

    epoch: int
    rows: range
    name: str


@dataclass(frozen=True)
class LabelTeacher:
    """A network that computes soft labels.

    Attributes:
        folder: Its folder in the run.
        classifier: The network.
        sha256: Digests of the files that determine its logits.
    """

    folder: str
    classifier: Classifier
    sha256: dict[str, str]


class Labelling:
    """The labels to compute: the images, their views, and the source of the logits.

    Args:
        spec: The recipe's section.
        teachers: The networks that label, the main one first.
        images: The condensed images.
        stored: Labels with the same logits in float16, to read instead of running the teachers; None to run the
            teachers.
        run: The run.
    """

    def __init__(
        self,
        spec: config.Relabel,
        teachers: Sequence[LabelTeacher],
        images: Images,
        stored: SoftLabels | None,
        run: Run,
    ) -> None:
        self.spec, self.teachers, self.images, self.stored, self._seed = spec, teachers, images, stored, run.seed
        classifiers = [teacher.classifier for teacher in teachers]
        self._labeller: Labeller = make_labeller(classifiers, run.engine, run.device, spec.group_size)
        self._pixels = to_device_if_it_fits(images.pixels, run.device)
        self.encoding = recipe_encoding(spec, len(classifiers[0].class_names))

    def views(self, epoch: int) -> tuple[Views, Tensor]:
        """Return the views of an epoch, and its visiting order int64 [N]."""
        return sample_epoch(self.spec.augment, self._pixels, self._seed, epoch)

    def logits(self, epoch: int, rows: range, views: Views, order: Tensor) -> Batches:
        """Yield the logits of the images in `rows`, one forward pass at a time.

        With groups, a pass includes all images of the groups that the rows belong to.
        """
        batches = passes(order, rows, self.spec.group_size, self.spec.batch_size)
        if self.stored is not None:
            return ((indices, self.stored.logits(epoch, indices)) for indices in batches)
        return label(self._labeller, self._pixels, views, batches)

    def steps(self, rows: range) -> int:
        """Return the approximate number of forward passes of `logits`."""
        return len(blocks(len(rows), self.spec.batch_size))


def relabel(
    spec: config.Relabel, teachers: Sequence[LabelTeacher], images: Images, repo_id: str | None, run: Run
) -> Path:
    """Label every epoch that is not done yet, then write the manifest.

    Args:
        spec: The recipe's section.
        teachers: The networks that label, the main one first.
        images: The condensed images.
        repo_id: The teacher's repository on the Hub, if it will have one.
        run: The run, after `begin`.

    Returns:
        The folder of soft labels.
    """
    folder = run.path("soft_labels")
    labelling = Labelling(spec, teachers, images, labels_to_reencode(spec, teachers, images, run), run)
    parts = label_parts(spec, len(images.labels), len(teachers[0].classifier.class_names))
    units = {part.name: labelling.steps(part.rows) for part in parts.values()}
    with WorkQueue(run, "relabel", units, "batch", last=MANIFEST) as work:
        for name in work:
            if name == MANIFEST:
                files = [_file_facts(part, run) for part in parts.values()]
                manifest = describe(labelling, files, repo_id, run)
                write_json(folder / "manifest.json", manifest_values(manifest))
                work.done([folder / "manifest.json"], accuracy=manifest.teacher.accuracy)
                run.print(f"relabel: {summary(manifest, labelling)}")
                if run.path(SET_ASIDE).is_dir():
                    run.remove(SET_ASIDE, _why_replaced(labelling))
            else:
                _write_part(labelling, parts[name], folder, work)
    return folder


def _why_replaced(labelling: Labelling) -> str:
    if labelling.spec.encoding == "none":
        return "no labels are stored now"
    return "re-encoded" if labelling.stored else "labeled again by the teacher"


def label_parts(spec: config.Relabel, num_images: int, num_classes: int) -> dict[str, LabelPart]:
    """Return all label files, by name."""
    if spec.encoding == "none":
        return {}
    row_blocks = epoch_parts(num_images, recipe_encoding(spec, num_classes), spec.augment.mix)
    parts = [
        LabelPart(epoch, rows, epoch_file(epoch, index, len(row_blocks)))
        for epoch in range(spec.epochs)
        for index, rows in enumerate(row_blocks)
    ]
    return {part.name: part for part in parts}


class BackgroundWriter:
    """A thread that calls a function, one call after the other, while the caller continues.

    At most one call waits.

    Raises:
        Exception: The exception of a call, at the next `put` or at the end of the `with` block.
    """

    def __init__(self, call: Callable[[Tensor, Tensor], object]) -> None:
        self._call = call
        self._pool = ThreadPoolExecutor(1)
        self._last: Future[object] | None = None

    def put(self, indices: Tensor, values: Tensor) -> None:
        """Wait for the previous call, and start the next."""
        if self._last is not None:
            self._last.result()
        self._last = self._pool.submit(self._call, indices, values)

    def __enter__(self) -> "BackgroundWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._pool:
            if kind is None and self._last is not None:
                self._last.result()


def _write_part(labelling: Labelling, part: LabelPart, folder: Path, work: WorkQueue) -> None:
    file = folder / part.name
    views, order = labelling.views(part.epoch)
    with (
        atomic_write(file) as temporary,
        write_epoch_file(temporary, part.epoch, part.rows, views, order, labelling.encoding) as write,
        BackgroundWriter(lambda indices, logits: write(indices, logits.cpu())) as writer,
    ):
        for indices, logits in work.steps(labelling.logits(part.epoch, part.rows, views, order)):
            writer.put(indices, logits)
    work.done([file])


def labels_to_reencode(
    spec: config.Relabel, teachers: Sequence[LabelTeacher], images: Images, run: Run
) -> SoftLabels | None:
    """Return labels that were set aside, if they contain the same teachers' logits on the same views in float16."""
    folder = run.path(SET_ASIDE)
    if spec.encoding == "none" or not (folder / "manifest.json").is_file():
        return None
    manifest = read_manifest(folder / "manifest.json")
    holds_same_logits = (
        manifest.encoding == "float16"
        and manifest.epochs >= spec.epochs
        and manifest.augment == spec.augment
        and manifest.seed == run.seed
        and manifest.group_size == spec.group_size
        and manifest.precision == run.engine.precision
        and manifest.class_names == teachers[0].classifier.class_names
        and manifest.teacher.sha256 == teachers[0].sha256
        and manifest.committee == committee(teachers)
        and manifest.image_table_sha256 == image_table_sha256(images.pixels, images.labels)
    )
    return SoftLabels(manifest, lambda name: folder / name) if holds_same_logits else None


def describe(labelling: Labelling, files: Iterable[LabelFile], repo_id: str | None, run: Run) -> Manifest:
    """Score the teacher on the whole stored images, and return the manifest of the stored labels."""
    spec, images, stored = labelling.spec, labelling.images, labelling.stored
    teacher, pixels, labels = labelling.teachers[0], images.pixels, images.labels
    classifier = teacher.classifier
    top1, _ = accuracy(classifier.model, pixels, labels, classifier.table(run.device))
    is_topk = spec.encoding == "topk"
    manifest = Manifest(
        num_images=len(pixels),
        num_classes=len(classifier.class_names),
        epochs=0 if spec.encoding == "none" else spec.epochs,
        image_size=(pixels.shape[2], pixels.shape[3]),
        padding=spec.augment.padding if spec.augment.crop == "padded" else 0,
        augment=spec.augment,
        seed=run.seed,
        encoding=spec.encoding,
        group_size=spec.group_size,
        mean=classifier.mean,
        std=classifier.std,
        class_names=classifier.class_names,
        teacher=teacher_facts(teacher, repo_id, top1),
        precision=run.engine.precision,
        device=stored.manifest.device if stored else run.device.type,
        torch=stored.manifest.torch if stored else torch.__version__,
        image_table_sha256=image_table_sha256(pixels, labels),
        files=tuple(files),
        others=(),  # assemble lists them
        top_k=labelling.encoding.k if is_topk else None,
        top_values=labelling.encoding.values if is_topk else None,
        pool=spec.pool,
        committee=committee(labelling.teachers),
        kl_error=None,
    )
    if spec.encoding == "none":
        return manifest
    if stored is not None and stored.manifest.coding == labelling.encoding and stored.manifest.kl_error is not None:
        return replace(manifest, kl_error=stored.manifest.kl_error)
    return replace(manifest, kl_error=kl_error(labelling))


def teacher_facts(teacher: LabelTeacher, repo_id: str | None, accuracy: float) -> TeacherFacts:
    """Return the manifest's entry of the main teacher."""
    columns = class_columns(teacher.classifier)
    return TeacherFacts(
        repo_id=repo_id,
        tag=None,
        sha256=teacher.sha256,
        accuracy=accuracy,
        num_classes=None if columns is None else len(complete(teacher.classifier).class_names),
        columns=columns,
    )


def kl_error(labelling: Labelling) -> dict[str, float]:
    """Measure the KL error of the encoding, on images of the first epoch.

    Returns:
        For each temperature T, the mean KL(softmax(z / T) || softmax(z' / T)) of the logits z and the stored z'.
    """
    views, order = labelling.views(0)
    total, count = dict.fromkeys(TEMPERATURES, 0.0), 0
    for indices, logits in labelling.logits(0, range(len(order)), views, order):
        stored = decode(encode(logits.cpu(), labelling.encoding), labelling.encoding)
        for T in TEMPERATURES:
            loss = distillation_loss(stored.double(), logits.cpu().double(), T, squared=False)
            total[T] += float(loss) * len(indices)
        count += len(indices)
        if count >= KL_IMAGES:
            break
    # A KL divergence is not negative, but its rounding error can be.
    return {str(T): float(f"{max(0.0, loss / count):.3g}") for T, loss in total.items()}


def committee(teachers: Sequence[LabelTeacher]) -> tuple[Member, ...]:
    """Return the manifest's entries of the further networks that compute soft labels."""
    return tuple(Member(folder=member.folder.removeprefix("label_"), sha256=member.sha256) for member in teachers[1:])


def teacher_digests(folder: Path) -> dict[str, str]:
    """Return the sha256 of each file of a classifier that affects its logits."""
    return {name: sha256(folder / name) for name in TEACHER_FILES}


def summary(manifest: Manifest, labelling: Labelling) -> str:
    """Return a line that describes the stored labels and the KL error of their encoding."""
    teacher = f"the teacher's top-1 on the {manifest.num_images} images is {manifest.teacher.accuracy:.1%}"
    if manifest.kl_error is None:
        return f"no labels are stored, so students run the teacher; {teacher}"
    size = format_bytes(sum(file.bytes for file in manifest.files))
    loss = ", ".join(f"{value:.3g} at T={T}" for T, value in manifest.losses)
    if labelling.stored is not None:
        old = labelling.stored.manifest
        before = f"{old.coding}, {old.epochs} epochs, {format_bytes(sum(file.bytes for file in old.files))}"
        after = f"{manifest.coding}, {size}"
        return f"re-encoded without running the teacher, from {before} to {after}; KL {loss}; {teacher}"
    return f"{manifest.epochs} epochs, {manifest.coding}, {size}; KL {loss} from the teacher's logits; {teacher}"


def _file_facts(part: LabelPart, run: Run) -> LabelFile:
    file = run.path("soft_labels", part.name)
    digests = run.marks.digests("relabel", part.name) or {}
    return LabelFile(
        name=part.name,
        epoch=part.epoch,
        rows=(part.rows.start, part.rows.stop),
        bytes=file.stat().st_size,
        sha256=digests.get(f"soft_labels/{part.name}") or sha256(file),
    )
