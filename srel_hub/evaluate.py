"""Evaluate: train students from scratch and score them on the real eval split, at the last epoch.

    accelerate launch -m srel_hub.evaluate recipes/quickstart.yaml

Every student is trained `seeds` times on each of three rows under one protocol: the condensed images with their
stored labels; as many random real images, drawn anew for every seed, with the same teacher's labels; the same random
real images with their hard labels. Without a training split the real rows are not measured. Leaves `evaluate/`: one
folder a training, and summary.json.
"""

import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from srel_hub import recipe, teacher
from srel_hub.cache import condensed_images, source_images
from srel_hub.checkpoint import Checkpoint, seed_epoch
from srel_hub.checks import require_same_data
from srel_hub.cli import cli
from srel_hub.condensed import Epoch, KeptEpoch, sampled_epoch, stored_epoch
from srel_hub.files import atomic, read_json, write_json
from srel_hub.pixels import near
from srel_hub.recipe import Network, Recipe, fingerprint
from srel_hub.run import Run
from srel_hub.soft_labels import SoftLabels, read_manifest
from srel_hub.source import Source, open_source
from srel_hub.split import Split, random_subset
from srel_hub.teacher import Classifier
from srel_hub.training import (
    accuracy,
    descend,
    distillation_loss,
    epoch_batches,
    learning_rate,
    make_optimizer,
    mixed_cross_entropy,
    require_finite,
    set_learning_rate,
)
from srel_hub.units import derive_seed, generator
from srel_hub.work import Work


ROWS = ("condensed", "random-real", "random-real-hard")
KEPT_BYTES = 256 * 1024**2  # of epochs that several trainings use


@dataclass(frozen=True)
class Training:
    """One unit of work: which student, on which row, with which seed."""

    student: Network
    row: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.student.name}-{self.row}-seed{self.seed}"


@dataclass(frozen=True)
class Row:
    """What a student trains on: the images' classes [N], and an epoch's views and logits by its number.

    `hard` says that the classes, not the logits, are the target.
    """

    labels: Tensor
    epoch: Callable[[int], Epoch]
    hard: bool


def evaluate(run: Run, source: Source | None = None) -> Path:
    """Run every training that is not marked yet, then summarise.

    Returns:
        the folder of results; empty but for the summary where the recipe sets no eval split.
    """
    folder, spec = run.path("evaluate"), run.recipe.evaluate
    if run.agreed(run.is_complete("evaluate")):
        return folder
    if source is None:
        with run.accelerator.main_process_first():
            source = open_source(run.recipe.source, run.progress, run.recipe.opens_train)
    run.begin()
    run.require(run.recipe.label_folder, "squeeze")
    run.require("images", "recover")
    run.require("soft_labels", "relabel")
    manifest = read_manifest(run.path("soft_labels", "manifest.json"))
    require_same_data(run, source, manifest.class_names)
    rows = () if source.eval is None else ROWS if source.train is not None else ROWS[:1]
    found = {training.name: training for training in trainings(spec, rows)}
    passed = {mark for mark in run.marked("evaluate") if not mark.startswith("summary-")} - found.keys()
    if passed:
        run.say(f"evaluate: {len(passed)} trainings of other seeds or students are kept, and not summarised")
    last = f"summary-{fingerprint(list(found))[:12]}"
    kept = kept_bytes(run.recipe, manifest.num_classes, manifest.image_size, source.train is not None)
    shared = Shared(kept <= KEPT_BYTES)
    with Work(run, "evaluate", dict.fromkeys(found, spec.epochs), "epoch", last) as work:
        for name in work:
            if name == last:
                summary = summarise(folder, spec, rows)
                write_json(folder / "summary.json", summary)
                work.done([folder / "summary.json"])
                for line in results_table(summary):
                    run.logger.info(line)
            else:
                assert source.eval is not None
                _train(run, source.train, source.eval, found[name], shared, work)
    return folder


def trainings(spec: recipe.Evaluate, rows: Sequence[str]) -> list[Training]:
    """All trainings of a recipe."""
    return [Training(student, row, seed) for student in spec.students for seed in range(spec.seeds) for row in rows]


def main(run: Run) -> None:
    folder = evaluate(run)
    if run.is_main:
        print("\n".join(results_table(read_json(folder / "summary.json"))))


class Shared:
    """Epochs that several trainings of this process use, shown and labelled once: the condensed ones, and those of
    the random real images of the last seed.

    Args:
        keeps: False makes every epoch each time; decided by the recipe, for labels that a teacher is asked for depend,
            in their last bit, on how many it is asked at a time.
    """

    def __init__(self, keeps: bool) -> None:
        self._keeps = keeps
        self._kept = dict[str | int, dict[int, KeptEpoch]]()

    def epoch(self, of: str | int, index: int, make: Callable[[], Epoch]) -> Epoch:
        """Epoch `index` of the condensed images (`of` their row's name) or of a seed's real ones."""
        if not self._keeps:
            return make()
        if of not in self._kept:
            self._kept = {of: {}} | {name: epochs for name, epochs in self._kept.items() if name == ROWS[0]}
        if index not in self._kept[of]:
            self._kept[of][index] = KeptEpoch(make())
        return self._kept[of][index]


def kept_bytes(recipe: Recipe, num_classes: int, size: tuple[int, int], real: bool) -> int:
    """What `Shared` would keep: images as they are shown, and their logits; `real` tells if there are real rows."""
    epochs, stored = recipe.evaluate.epochs, recipe.relabel.epochs
    images = (min(epochs, stored) + epochs * real) * recipe.recover.ipc * num_classes
    return images * (3 * size[0] * size[1] + 4 * num_classes)


def _train(run: Run, train: Split | None, eval_split: Split, training: Training, shared: Shared, work: Work) -> None:
    spec, student = run.recipe.evaluate, training.student
    classifier = teacher.load(run.path(run.recipe.label_folder), run.device)
    test = source_images(run, eval_split, classifier.frame)
    # The rows of one seed start from the same weights.
    seed = derive_seed(run.recipe.seed, "evaluate", student.name, training.seed)
    row = make_row(run, classifier, train, training, shared)
    model = teacher.build(student, classifier.class_names, test.size, seed).to(run.device)
    optimizer = make_optimizer(model, spec.optimizer)
    checkpoint = Checkpoint(run.path("checkpoints", f"evaluate-{training.name}"), model, optimizer)
    checkpoint.restore()
    network = run.engine.network(model)
    for loss in work.steps(train_student(model, network, row, spec, seed, checkpoint), checkpoint.epochs):
        epoch = checkpoint.epochs
        checkpoint.add(True, epoch=epoch, loss=loss, lr=learning_rate(spec.optimizer, epoch, spec.epochs))
    top1, top5 = accuracy(model, test.pixels, test.labels, classifier.table(run.device))
    metrics = {"top1": top1, "top5": top5}
    work.done(save_training(run, training, {**metrics, "train_images": len(row.labels)}, checkpoint.curve), **metrics)
    checkpoint.remove()


def make_row(run: Run, classifier: Classifier, train: Split | None, training: Training, shared: Shared) -> Row:
    """The data of a training. A random real subset depends on the seed only, so that both real rows share it."""
    seed, augment, K = run.recipe.seed, run.recipe.relabel.augment, len(classifier.class_names)
    table = classifier.table(run.device)
    if training.row == "condensed":
        images, folder = condensed_images(run), run.path("soft_labels")
        pixels = near(images.pixels, run.device)
        stored = SoftLabels(read_manifest(folder / "manifest.json"), lambda name: folder / name)
        count = stored.manifest.epochs

        def replayed(index: int) -> Epoch:
            stored_index = index % count
            return shared.epoch(ROWS[0], stored_index, lambda: stored_epoch(pixels, table, stored, stored_index))

        return Row(images.labels, replayed, hard=False)
    assert train is not None
    draw = generator(seed, "evaluate", "random-real", training.seed)
    chosen = random_subset(train.labels, run.recipe.recover.ipc, K, draw)
    real = source_images(run, train, classifier.frame, chosen)
    real_pixels, real_seed = near(real.pixels, run.device), derive_seed(seed, "evaluate", training.seed)
    network = run.engine.network(classifier.model)

    def sampled(index: int) -> Epoch:
        def make() -> Epoch:
            return sampled_epoch(real_pixels, table, network, augment, real_seed, index)

        return shared.epoch(training.seed, index, make)

    return Row(real.labels, sampled, hard=training.row == "random-real-hard")


def train_student(
    model: nn.Module,
    network: Callable[[Tensor], Tensor],
    row: Row,
    spec: recipe.Evaluate,
    seed: int,
    checkpoint: Checkpoint,
) -> Iterator[float]:
    """Train in place from where the checkpoint is, an epoch a step; gives the epoch's mean loss.

    Args:
        network: gives the model's logits.
    """
    device = next(model.parameters()).device
    labels = row.labels.to(device)
    for index in range(checkpoint.epochs, spec.epochs):
        seed_epoch(seed, index)
        epoch = row.epoch(index)
        shares = epoch.views.own_share((epoch.images.shape[2], epoch.images.shape[3])).to(device)
        partners = None if epoch.views.partners is None else epoch.views.partners.to(device).long()
        set_learning_rate(checkpoint.optimizer, learning_rate(spec.optimizer, index, spec.epochs))
        model.train()
        total = torch.zeros((), device=device)
        for batch in epoch_batches(len(epoch), spec.batch_size, generator(seed, "order", index)):
            if row.hard:
                here = batch.to(device)
                own, other = labels[here], labels[here if partners is None else partners[here]]
                loss = mixed_cross_entropy(network(epoch.pixel_values(batch)), own, other, shares[here])
            else:
                pixel_values, logits = epoch.batch(batch)
                output = network(pixel_values)
                loss = distillation_loss(output, logits.to(device), spec.temperature, spec.temperature_squared)
            descend(checkpoint.optimizer, loss)
            total += loss.detach() * len(batch)
        yield require_finite(total, f"evaluate, epoch {index}", "evaluate.optimizer.lr") / len(epoch)


def save_training(run: Run, training: Training, metrics: dict[str, Any], curve: list[dict[str, Any]]) -> list[Path]:
    folder = run.path("evaluate", training.name)
    with atomic(folder) as temporary:
        temporary.mkdir()
        write_json(temporary / "metrics.json", metrics)
        (temporary / "curve.jsonl").write_text("".join(json.dumps(point) + "\n" for point in curve), encoding="utf-8")
    return [folder / "metrics.json", folder / "curve.jsonl"]


def summarise(folder: Path, spec: recipe.Evaluate, row_names: Sequence[str]) -> dict[str, Any]:
    """Mean and sample standard deviation over the seeds of every student and row."""
    if not row_names:
        return {"measured": False, "students": []}
    students = []
    for student in spec.students:
        rows = []
        for row in row_names:
            names = [Training(student, row, seed).name for seed in range(spec.seeds)]
            metrics = [read_json(folder / name / "metrics.json") for name in names]
            rows.append({"row": row, "n": len(metrics), "train_images": metrics[0]["train_images"]})
            for key in ("top1", "top5"):
                values = [metric[key] for metric in metrics]
                spread = statistics.stdev(values) if len(values) > 1 else None
                rows[-1][key] = {"mean": statistics.fmean(values), "std": spread, "values": values}
        students.append({"model": student.model, "width": student.width, "stem": student.stem, "rows": rows})
    return {"measured": True, "students": students}


def results_table(summary: dict[str, Any]) -> list[str]:
    """The summary as lines of text."""
    if not summary["measured"]:
        return ["student accuracy: not measured (source.eval_split is null)"]
    lines = [f"{'student':<16} {'trained on':<18} {'images':>7} {'top-1':>16} {'top-5':>16}   n"]
    for student in summary["students"]:
        for row in student["rows"]:
            name = student_title(student)
            cells = (percent(row["top1"]), percent(row["top5"]))
            lines.append(
                f"{name:<16} {row['row']:<18} {row['train_images']:>7} {cells[0]:>16} {cells[1]:>16} {row['n']:>3}"
            )
    return lines


def student_title(student: dict[str, Any]) -> str:
    """'resnet18 x 0.25', with the stem where it is not the small one."""
    stem = " imagenet stem" if student.get("stem") == "imagenet" else ""
    return f"{student['model']} x {student['width']:g}{stem}"


def percent(score: dict[str, Any]) -> str:
    """'97.10 +- 0.32', or the mean alone where there was one seed."""
    spread = "" if score["std"] is None else f" +- {score['std']:.2%}"
    return f"{score['mean']:.2%}{spread}".replace("%", "")


if __name__ == "__main__":
    cli(main)
