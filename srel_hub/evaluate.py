"""Evaluate: train students from scratch and score them on the real eval split, at the last epoch.

    accelerate launch -m srel_hub.evaluate recipes/quickstart.yaml

Every student is trained `seeds` times on each of three rows under one protocol: the condensed images with their
stored labels; as many random real images, drawn anew for every seed, with the same teacher's labels; the same random
real images with their hard labels. `evaluate.scores` adds the rows that DD-Ranking's scores need. Without a training
split the real rows are not measured. Leaves `evaluate/`: one folder a training, and summary.json.
"""

import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from srel_hub import networks, recipe
from srel_hub.cache import source_images
from srel_hub.checkpoint import Checkpoint, seed_epoch
from srel_hub.checks import require_same_data
from srel_hub.cli import cli
from srel_hub.condensed import Epoch
from srel_hub.files import atomic, read_json, write_json
from srel_hub.labelling import make_labeller, run_classifiers
from srel_hub.recipe import Network, fingerprint, network_title
from srel_hub.rows import KEPT_BYTES, Row, Rows, Shared, kept_bytes, row_names
from srel_hub.run import Run
from srel_hub.scores import (
    augmentation_robust_score,
    hard_label_recovery,
    improvement_over_random,
    label_robust_score,
)
from srel_hub.soft_labels import SoftLabels, read_manifest
from srel_hub.source import Source, open_source
from srel_hub.split import Split
from srel_hub.training import (
    accuracy,
    epoch_batches,
    learning_rate,
    make_optimizer,
    mixed_cross_entropy,
    require_finite,
    set_learning_rate,
    soft_loss,
)
from srel_hub.units import derive_seed, generator
from srel_hub.work import Work


@dataclass(frozen=True)
class Training:
    """One unit of work: which student, on which row, with which seed."""

    student: Network
    row: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.student.name}-{self.row}-seed{self.seed}"


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
    for labelling in run.recipe.label_folders:
        run.require(labelling, "squeeze")
    run.require("images", "recover")
    run.require("soft_labels", "relabel")
    manifest = read_manifest(run.path("soft_labels", "manifest.json"))
    require_same_data(run, source, manifest.class_names)
    rows = row_names(spec, source.eval is not None, source.train is not None)
    found = {training.name: training for training in trainings(spec, rows)}
    passed = {mark for mark in run.marked("evaluate") if not mark.startswith("summary-")} - found.keys()
    if passed:
        run.say(f"evaluate: {len(passed)} trainings of other seeds or students are kept, and not summarised")
    last = f"summary-{fingerprint(list(found))[:12]}"
    kept = kept_bytes(run.recipe, manifest.num_classes, manifest.image_size, len(rows) > 1)
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


def _train(run: Run, train: Split | None, eval_split: Split, training: Training, shared: Shared, work: Work) -> None:
    spec, student = run.recipe.evaluate, training.student
    classifiers = run_classifiers(run)
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
    told = {**metrics, "train_images": len(row.labels), "revision": networks.commit_of(student)}
    work.done(save_training(run, training, told, checkpoint.curve), **metrics)
    checkpoint.remove()


class Trained:
    """A student, and the moving average of its weights where the protocol scores that."""

    def __init__(self, model: nn.Module, spec: recipe.Evaluate) -> None:
        self.model, self._averaged = model, None
        if spec.ema is not None:
            self._averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(spec.ema), use_buffers=True)

    @property
    def state(self) -> nn.Module:
        """All that a checkpoint must keep."""
        return self.model if self._averaged is None else nn.ModuleList([self.model, self._averaged])

    @property
    def scored(self) -> nn.Module:
        return self.model if self._averaged is None else self._averaged.module

    def stepped(self) -> None:
        """The weights made a step."""
        if self._averaged is not None:
            self._averaged.update_parameters(self.model)


def train_student(
    trained: Trained,
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
    optimizer, device = checkpoint.optimizer, next(trained.model.parameters()).device
    labels = row.labels.to(device)
    for index in range(checkpoint.epochs, spec.epochs):
        seed_epoch(seed, index)
        epoch = row.epoch(index)
        set_learning_rate(optimizer, learning_rate(spec.optimizer, index, spec.epochs))
        trained.model.train()
        total = torch.zeros((), device=device)
        for parts in _batches(epoch, spec, generator(seed, "order", index)):
            count = sum(len(part) for part in parts)
            optimizer.zero_grad(set_to_none=True)
            for part in parts:
                loss = _loss(network, epoch, part, labels, row.hard, spec, index)
                (loss * (len(part) / count)).backward()
                total += loss.detach() * len(part)
            optimizer.step()
            trained.stepped()
        yield require_finite(total, f"evaluate, epoch {index}", "evaluate.optimizer.lr") / len(epoch)


def _batches(epoch: Epoch, spec: recipe.Evaluate, draw: torch.Generator) -> Iterator[tuple[Tensor, ...]]:
    """The images of each step, in the parts that BatchNorm sees: the whole batch, or the teacher's groups."""
    if not spec.groups:
        for batch in epoch_batches(len(epoch), spec.batch_size, draw):
            yield (batch,)
        return
    assert epoch.groups is not None, "the recipe's groups are those of relabel"
    groups = [torch.tensor(epoch.groups[index]) for index in torch.randperm(len(epoch.groups), generator=draw)]
    at_once = max(1, spec.batch_size // len(epoch.groups[0]))  # the last may be longer by one
    for start in range(0, len(groups), at_once):
        yield tuple(groups[start : start + at_once])


def _loss(
    network: Callable[[Tensor], Tensor],
    epoch: Epoch,
    part: Tensor,
    labels: Tensor,
    hard: bool,
    spec: recipe.Evaluate,
    index: int,
) -> Tensor:
    """The protocol's loss on these images, mean over them."""
    if hard:
        return _hard_loss(network(epoch.pixel_values(part)), epoch, part, labels)
    pixel_values, logits = epoch.batch(part)
    output = network(pixel_values)
    loss = soft_loss(spec, index, output, logits.to(output.device))
    if spec.hard_weight:
        loss = loss + spec.hard_weight * _hard_loss(output, epoch, part, labels)
    return loss


def _hard_loss(output: Tensor, epoch: Epoch, part: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy with the classes of what is shown, by their shares."""
    views = epoch.views.of(part)
    here = part.to(labels.device)
    partners = here if views.partners is None else views.partners.to(labels.device).long()
    shares = views.own_share((epoch.images.shape[2], epoch.images.shape[3])).to(labels.device)
    return mixed_cross_entropy(output, labels[here], labels[partners], shares)


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
        named = {"model": student.shown, "width": student.width, "stem": student.stem}
        named["revision"] = metrics[0].get("revision")
        scored = {"scores": scores(rows, spec.loss == "hard")} if spec.scores else {}
        students.append({**named, "rows": rows, **scored})
    return {"measured": True, "students": students}


def scores(rows: Sequence[dict[str, Any]], hard: bool) -> dict[str, float]:
    """DD-Ranking's scores of one student, from its rows' mean top-1."""
    top1 = {row["row"]: row["top1"]["mean"] for row in rows}
    hlr = hard_label_recovery(top1["real-hard"], top1["condensed" if hard else "condensed-hard"])
    ior = improvement_over_random(top1["condensed"], top1["random-real"])
    whole = improvement_over_random(top1["condensed-whole"], top1["random-real-whole"])
    return {"hlr": hlr, "ior": ior, "lrs": label_robust_score(hlr, ior), "ars": augmentation_robust_score(ior, whole)}


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
        if "scores" in student:
            told = ", ".join(f"{key.upper()} {student['scores'][key]:.3f}" for key in ("hlr", "ior", "lrs", "ars"))
            lines.append(f"{name:<16} {told} (fractions)")
    return lines


def student_title(student: dict[str, Any]) -> str:
    """'resnet18 x 0.25', as network_title has it."""
    title = network_title(student["model"], student["width"], student.get("stem", "small"))
    return f"{title} at {student['revision'][:7]}" if student.get("revision") else title


def percent(score: dict[str, Any]) -> str:
    """'97.10 +- 0.32', or the mean alone where there was one seed."""
    spread = "" if score["std"] is None else f" +- {score['std']:.2%}"
    return f"{score['mean']:.2%}{spread}".replace("%", "")


if __name__ == "__main__":
    cli(main)
