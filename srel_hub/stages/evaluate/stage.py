"""Evaluate: train students from scratch and score them on the real eval split, at the last epoch.

    accelerate launch -m srel_hub.evaluate recipes/quickstart.yaml

Every student is trained `seeds` times on each of three rows under one protocol: the condensed images with their
stored labels; as many random real images, drawn anew for every seed, with the same teacher's labels; the same random
real images with their hard labels. `evaluate.scores` adds the rows that DD-Ranking's scores need. Without a training
split the real rows are not measured. Leaves `evaluate/`: one folder a training, and summary.json.
"""

import json
from pathlib import Path
from typing import Any

from srel_hub.config import fingerprint
from srel_hub.core.metrics import accuracy
from srel_hub.core.optim import learning_rate, make_optimizer
from srel_hub.core.seeds import derive_seed
from srel_hub.data.sources import Source, open_source
from srel_hub.data.splits import Split
from srel_hub.labels.labeller import make_labeller
from srel_hub.labels.manifest import read_manifest
from srel_hub.labels.reader import SoftLabels
from srel_hub.runs.checkpoint import Checkpoint
from srel_hub.runs.decoded_images import source_images
from srel_hub.runs.run import Run
from srel_hub.runs.work_queue import Work
from srel_hub.stages.evaluate.student import Trained, train_student
from srel_hub.stages.evaluate.summary import Training, results_table, summarize, trainings
from srel_hub.stages.evaluate.training_sets import KEPT_BYTES, Rows, Shared, kept_bytes, row_names
from srel_hub.stages.preflight.data_checks import require_same_data
from srel_hub.storage.files import atomic_write, write_json
from srel_hub.teachers import architectures as networks
from srel_hub.teachers.classifier import load_classifiers


def evaluate(run: Run, source: Source | None = None) -> Path:
    """Run every training that is not marked yet, then summarize.

    Returns:
        the folder of results; empty but for the summary where the recipe sets no eval split.
    """
    folder, spec = run.path("evaluate"), run.recipe.evaluate
    if run.broadcast(run.is_complete("evaluate")):
        return folder
    if source is None:
        with run.accelerator.main_process_first():
            source = open_source(run.recipe.source, run.progress, run.recipe.opens_train)
    run.begin()
    for labeling in run.recipe.label_folders:
        run.require(labeling, "squeeze")
    run.require("images", "recover")
    run.require("soft_labels", "relabel")
    manifest = read_manifest(run.path("soft_labels", "manifest.json"))
    require_same_data(run, source, manifest.class_names)
    rows = row_names(spec, source.eval is not None, source.train is not None)
    found = {training.name: training for training in trainings(spec, rows)}
    passed = {mark for mark in run.marked("evaluate") if not mark.startswith("summary-")} - found.keys()
    if passed:
        run.print(f"evaluate: {len(passed)} trainings of other seeds or students are kept, and not summarized")
    last = f"summary-{fingerprint(list(found))[:12]}"
    kept = kept_bytes(run.recipe, manifest.num_classes, manifest.image_size, len(rows) > 1)
    shared = Shared(kept <= KEPT_BYTES)
    with Work(run, "evaluate", dict.fromkeys(found, spec.epochs), "epoch", last) as work:
        for name in work:
            if name == last:
                summary = summarize(folder, spec, rows)
                write_json(folder / "summary.json", summary)
                work.done([folder / "summary.json"])
                for line in results_table(summary):
                    run.logger.info(line)
            else:
                assert source.eval is not None
                _train(run, source.train, source.eval, found[name], shared, work)
    return folder


def _train(run: Run, train: Split | None, eval_split: Split, training: Training, shared: Shared, work: Work) -> None:
    spec, student = run.recipe.evaluate, training.student
    classifiers = load_classifiers([run.path(name) for name in run.recipe.label_folders], run.device)
    classifier, folder = classifiers[0], run.path("soft_labels")
    test = source_images(run, eval_split, classifier.frame)
    # The rows of one seed start from the same weights.
    seed = derive_seed(run.recipe.seed, "evaluate", student.name, training.seed)
    stored = SoftLabels(read_manifest(folder / "manifest.json"), lambda name: folder / name)
    labeller = make_labeller(classifiers, run.engine, run.device, run.recipe.relabel.group_size)
    row = Rows(run, labeller, classifier.frame, stored, train, shared).make(training.row, training.seed)
    model = networks.build(student, classifier.class_names, test.size, seed).to(run.device)
    trained = Trained(model, spec)
    checkpoint = Checkpoint(
        run.path("checkpoints", f"evaluate-{training.name}"), trained.state, make_optimizer(model, spec.optimizer)
    )
    checkpoint.restore()
    network = run.engine.network(model)
    for loss in work.steps(train_student(trained, network, row, spec, seed, checkpoint), checkpoint.epochs):
        epoch = checkpoint.epochs
        checkpoint.add(True, epoch=epoch, loss=loss, lr=learning_rate(spec.optimizer, epoch, spec.epochs))
    top1, top5 = accuracy(trained.scored, test.pixels, test.labels, classifier.table(run.device))
    metrics = {"top1": top1, "top5": top5}
    told = {**metrics, "train_images": len(row.labels), "revision": networks.hub_commit(student)}
    work.done(save_training(run, training, told, checkpoint.curve), **metrics)
    checkpoint.remove()


def save_training(run: Run, training: Training, metrics: dict[str, Any], curve: list[dict[str, Any]]) -> list[Path]:
    folder = run.path("evaluate", training.name)
    with atomic_write(folder) as temporary:
        temporary.mkdir()
        write_json(temporary / "metrics.json", metrics)
        (temporary / "curve.jsonl").write_text("".join(json.dumps(point) + "\n" for point in curve), encoding="utf-8")
    return [folder / "metrics.json", folder / "curve.jsonl"]
