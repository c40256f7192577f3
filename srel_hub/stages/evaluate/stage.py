"""Evaluate: train students from scratch and score them on the real eval split after the last epoch.

Every student is trained `seeds` times on each training set under one protocol: the condensed images with their stored
labels; as many random real images, drawn again for every seed, with the same teacher's labels; and the same random real
images with hard labels. `evaluate.scores` adds the sets that DD-Ranking's scores need. Without a training split, the
real sets are not measured. Writes `evaluate/`: a folder for every training, and summary.json.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from srel_hub import config
from srel_hub.config import fingerprint
from srel_hub.core.metrics import accuracy
from srel_hub.core.optim import learning_rate, make_optimizer
from srel_hub.core.seeds import derive_seed
from srel_hub.data.sources import Source
from srel_hub.data.splits import Images
from srel_hub.labels.labeller import make_labeller
from srel_hub.labels.manifest import Manifest
from srel_hub.labels.reader import SoftLabels
from srel_hub.runs.checkpoint import Checkpoint
from srel_hub.runs.decoded_images import condensed_images, source_images
from srel_hub.runs.run import Run
from srel_hub.runs.work_queue import WorkQueue
from srel_hub.stages.evaluate.student import Student, train_student
from srel_hub.stages.evaluate.summary import Training, results_table, summarize, trainings
from srel_hub.stages.evaluate.training_sets import (
    KEPT_BYTES,
    Material,
    SharedEpochs,
    kept_bytes,
    make_training_set,
    training_set_names,
)
from srel_hub.storage.files import atomic_write, write_json
from srel_hub.teachers import architectures
from srel_hub.teachers.classifier import Classifier


@dataclass(frozen=True)
class Context:
    """The objects that all trainings of this process share.

    Attributes:
        spec: The recipe's section.
        classifier: The main teacher, whose class names, frame (how images are resized and cropped) and normalization
            students use.
        test: The real eval images.
        material: The data and functions that training sets are made from.
    """

    spec: config.Evaluate
    classifier: Classifier
    test: Images
    material: Material


def evaluate(
    spec: config.Evaluate, teachers: Sequence[Classifier], manifest: Manifest, source: Source, run: Run
) -> Path:
    """Run every training that is not done yet, then summarize the results.

    Args:
        spec: The recipe's section.
        teachers: The networks that compute the soft labels, the main teacher first.
        manifest: The manifest of the stored soft labels.
        source: The real dataset.
        run: The run, after `begin`.

    Returns:
        The folder of results. Without an eval split, it contains only a summary without results.
    """
    folder = run.path("evaluate")
    names = training_set_names(spec, source.eval is not None, source.train is not None)
    units = {training.name: training for training in trainings(spec, names)}
    others = {mark for mark in run.marks.units("evaluate") if not mark.startswith("summary-")} - units.keys()
    if others:
        run.print(f"evaluate: {len(others)} trainings of other seeds or students are kept, but not summarized")
    last = f"summary-{fingerprint(list(units))[:12]}"
    context: Context | None = None
    with WorkQueue(run, "evaluate", dict.fromkeys(units, spec.epochs), "epoch", last) as work:
        for name in work:
            if name == last:
                summary = summarize(folder, spec, names)
                write_json(folder / "summary.json", summary)
                work.done([folder / "summary.json"])
                for line in results_table(summary):
                    run.log.info(line)
            else:
                context = context or make_context(spec, teachers, manifest, source, run)
                _train(units[name], context, run, work)
    return folder


def make_context(
    spec: config.Evaluate, teachers: Sequence[Classifier], manifest: Manifest, source: Source, run: Run
) -> Context:
    """Build the context of all trainings of this process. For the arguments see `evaluate`."""
    assert source.eval is not None, "without an eval split there are no trainings"
    train, frame = source.train, teachers[0].frame
    size = manifest.num_images, manifest.num_classes, manifest.image_size
    has_real = train is not None and (spec.baselines or spec.scores)
    keeps = kept_bytes(spec.epochs, manifest.epochs, *size, real=has_real) <= KEPT_BYTES

    def real(rows: Tensor | None) -> Images:
        assert train is not None
        return source_images(run, train, frame, rows)

    material = Material(
        spec=spec,
        seed=run.seed,
        stored=SoftLabels(manifest, lambda name: run.path("soft_labels", name)),
        labeller=make_labeller(teachers, run.engine, run.device, manifest.group_size),
        condensed=partial(condensed_images, run),
        real=None if train is None else real,
        real_labels=None if train is None else train.labels,
        shared=SharedEpochs(keeps),
        device=run.device,
    )
    return Context(spec, teachers[0], source_images(run, source.eval, frame), material)


def _train(training: Training, context: Context, run: Run, work: WorkQueue) -> None:
    spec, classifier, test = context.spec, context.classifier, context.test
    # All training sets of a seed start from the same weights.
    seed = derive_seed(run.seed, "evaluate", training.student.name, training.seed)
    data = make_training_set(training.training_set, training.seed, context.material)
    model = architectures.build(training.student, classifier.class_names, test.size, seed).to(run.device)
    student = Student(model, spec)
    file = run.path("checkpoints", f"evaluate-{training.name}")
    checkpoint = Checkpoint(file, student.state, make_optimizer(model, spec.optimizer))
    checkpoint.restore()
    losses = train_student(student, run.engine.network(model), data, spec, seed, checkpoint)
    for loss in work.steps(losses, checkpoint.epochs):
        epoch = checkpoint.epochs
        checkpoint.add(True, epoch=epoch, loss=loss, lr=learning_rate(spec.optimizer, epoch, spec.epochs))
    top1, top5 = accuracy(student.scored, test.pixels, test.labels, classifier.table(run.device))
    scores = {"top1": top1, "top5": top5}
    revision = architectures.hub_commit(training.student)
    metrics = {**scores, "train_images": len(data.labels), "revision": revision}
    work.done(_save(run.path("evaluate", training.name), metrics, checkpoint.curve), **scores)
    checkpoint.remove()


def _save(folder: Path, metrics: dict[str, Any], curve: list[dict[str, Any]]) -> list[Path]:
    with atomic_write(folder) as temporary:
        temporary.mkdir()
        write_json(temporary / "metrics.json", metrics)
        (temporary / "curve.jsonl").write_text("".join(json.dumps(point) + "\n" for point in curve), encoding="utf-8")
    return [folder / "metrics.json", folder / "curve.jsonl"]
