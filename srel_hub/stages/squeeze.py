"""Squeeze: train the network that images will be recovered from, or adopt a pretrained one (SRe2L, section 3.1).

Writes `teacher/`: config.json, model.safetensors, preprocessor_config.json and metrics.json. Further networks that the
recipe names, to match images to or to label with, are saved in the same way in folders of their own.
"""

import enum
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from srel_hub import config
from srel_hub.core.augment import normalize, render, sample_views
from srel_hub.core.engine import FLOAT32, Engine, to_channels_last
from srel_hub.core.losses import mixed_cross_entropy
from srel_hub.core.metrics import accuracy, forward_flops
from srel_hub.core.optim import (
    batch_count,
    descend,
    epoch_batches,
    learning_rate,
    make_optimizer,
    require_finite,
    set_learning_rate,
)
from srel_hub.core.seeds import derive_seed, generator
from srel_hub.data.splits import Images, channel_statistics, require_every_class
from srel_hub.errors import first_few
from srel_hub.runs.checkpoint import Checkpoint, remove_checkpoint, seed_epoch
from srel_hub.runs.decoded_images import source_images
from srel_hub.runs.run import Run
from srel_hub.runs.work_queue import WorkQueue
from srel_hub.stages.inputs import Inputs, stage_of
from srel_hub.storage.files import atomic_write, write_json
from srel_hub.storage.mapped_images import to_device_if_it_fits
from srel_hub.teachers import architectures
from srel_hub.teachers import classifier as classifiers
from srel_hub.teachers.class_subset import complete
from srel_hub.teachers.classifier import Classifier


TEACHER = "teacher"  # the unit, and the run's folder
CHECKPOINT = "squeeze-teacher"

Facts = dict[str, Any]  # what metrics.json says about where a teacher came from


class Order(enum.Enum):
    """A command of the main process to the other processes of a launch."""

    TRAIN = "train the teacher together with the main process"
    FINISH = "go on to the next stage"


@dataclass(frozen=True)
class Step:
    """Training progress after a batch.

    Attributes:
        epoch: The epoch, counted from 0.
        last: Whether this batch is the last one of the epoch.
        lr: The learning rate.
        loss: Mean training loss of the epoch so far, on the device.
    """

    epoch: int
    last: bool
    lr: float
    loss: Tensor


def squeeze(spec: config.Squeeze, inputs: Inputs, run: Run) -> Path:
    """Train or adopt the teacher, measure it and save it, unless it already exists.

    Args:
        spec: The recipe's section.
        inputs: The real dataset and the pretrained teachers.
        run: The run, after `begin`.

    Returns:
        The teacher's folder.
    """
    split, steps = inputs.source.train, 1
    if spec.pretrained is None and split is not None:
        steps = spec.epochs * batch_count(len(split.labels), spec.batch_size)
    with WorkQueue(run, "squeeze", {TEACHER: steps}, "step") as work:
        # Only the main process claims the unit: transformers saves nothing in any other process of a launch.
        if not run.is_main:
            while run.receive() is Order.TRAIN:
                train_teacher(spec, inputs, run, work)
            return run.path(TEACHER)
        test = _eval_images(inputs, run)
        for _ in work:
            if spec.pretrained is not None:
                classifier, facts = adopt(inputs, TEACHER)
                title = spec.pretrained.path
            else:
                run.broadcast(Order.TRAIN)
                classifier, facts = train_teacher(spec, inputs, run, work)
                title = f"{spec.network.title}, {spec.epochs} epochs"
            if inputs.source.skipped is not None:
                facts["skipped_images"] = {name: list(images) for name, images in inputs.source.skipped.items()}
            work.done(save_teacher(classifier, facts, test, TEACHER, title, run))
            remove_checkpoint(run.path("checkpoints", CHECKPOINT))
        save_further_teachers(inputs, test, run)
        run.broadcast(Order.FINISH)
    return run.path(TEACHER)


def few_images(inputs: Inputs, ipc: int) -> list[str]:
    """Return a remark if classes have fewer training images than condensed images."""
    if inputs.source.train is None:
        return []
    counts = inputs.source.train.labels.bincount(minlength=len(inputs.class_names)).tolist()
    few = [f"{name} ({count})" for name, count in zip(inputs.class_names, counts, strict=True) if count < ipc]
    if not few:
        return []
    names = ", ".join(first_few(few))
    return [
        f"some classes have fewer training images than recover.ipc={ipc}: {names}; the teacher may not learn these "
        "classes well"
    ]


def save_further_teachers(inputs: Inputs, test: Images | None, run: Run) -> None:
    """Measure and save the adopted teachers that other stages use."""
    for folder, adopted in inputs.adopted.items():
        stage = stage_of(folder)
        if stage != "squeeze":
            with run.locked(folder):
                if not run.is_done(stage, folder):
                    classifier, facts = adopt(inputs, folder)
                    files = save_teacher(classifier, facts, test, folder, adopted.origin.path, run)
                    run.marks.mark(stage, folder, files)


def _eval_images(inputs: Inputs, run: Run) -> Images | None:
    """Decode the eval split before the training, so that a damaged image is reported first."""
    split = inputs.source.eval
    return None if split is None else source_images(run, split, inputs.frame)


def adopt(inputs: Inputs, folder: str) -> tuple[Classifier, Facts]:
    """Return a pretrained teacher and the facts about its source."""
    train, adopted, counts = inputs.source.train, inputs.adopted[folder], None
    if train is not None:
        require_every_class(train.labels, inputs.class_names)
        counts = _class_counts(train.labels, inputs.class_names)
    return adopted.classifier, {
        "pretrained": asdict(adopted.origin),
        "train_images": None,
        "class_images": counts,
        **_made_eval(inputs),
    }


def _made_eval(inputs: Inputs) -> Facts:
    """Return how the eval split was made from training images, if it was."""
    made = inputs.source.made_eval
    return {} if made is None else {"made_eval": asdict(made)}


def _class_counts(labels: Tensor, class_names: Sequence[str]) -> list[int]:
    counts: list[int] = labels.bincount(minlength=len(class_names)).tolist()
    return counts


def train_teacher(spec: config.Squeeze, inputs: Inputs, run: Run, work: WorkQueue) -> tuple[Classifier, Facts]:
    """Train the teacher on the training split, by all processes of the launch, from where a checkpoint ended.

    Returns:
        The teacher, and the facts about its training data.
    """
    split = inputs.source.train
    assert split is not None, "a recipe that trains names its training split"
    require_every_class(split.labels, inputs.class_names)
    images = source_images(run, split, inputs.frame)
    classifier = _untrained(spec, images, inputs.class_names, run)
    model = classifier.model
    checkpoint = Checkpoint(run.path("checkpoints", CHECKPOINT), model, make_optimizer(model, spec.optimizer))
    checkpoint.restore()
    if checkpoint.epochs:
        run.print(f"squeeze: resuming after epoch {checkpoint.epochs}")
    steps = train(classifier, checkpoint, images, spec, run.seed, run.accelerator, run.engine)
    made = checkpoint.epochs * batch_count(len(images.labels), spec.batch_size)
    for step in work.steps(steps, made):
        if step.last:
            loss = require_finite(step.loss, f"squeeze, epoch {step.epoch}", "squeeze.optimizer.lr")
            checkpoint.add(run.is_main, epoch=step.epoch, loss=loss, lr=step.lr)
            if run.is_main:
                run.log.record("squeeze", **checkpoint.curve[-1])
    counts = _class_counts(images.labels, inputs.class_names)
    facts = {"pretrained": None, "train_images": len(images.labels), "class_images": counts, **_made_eval(inputs)}
    return classifier, facts


def _untrained(spec: config.Squeeze, images: Images, class_names: tuple[str, ...], run: Run) -> Classifier:
    mean, std = channel_statistics(images.pixels)
    seed = derive_seed(run.seed, "squeeze", "weights")
    model = architectures.build(spec.network, class_names, images.size, seed).to(run.device)
    return Classifier(model, mean, std, class_names, images.size)


def save_teacher(
    classifier: Classifier, facts: Facts, test: Images | None, folder: str, title: str, run: Run
) -> list[Path]:
    """Measure a teacher and save it.

    Args:
        classifier: The teacher.
        facts: The facts about its source.
        test: Images to score the teacher on; None without an eval split.
        folder: Its folder in the run.
        title: The name of the teacher in the log.
        run: The run.

    Returns:
        The files of the teacher.
    """
    classifier = replace(classifier, model=classifier.model.to(run.device))
    whole = complete(classifier)
    factory = classifiers.factory_of(whole.model)
    metrics = {
        "architecture": classifiers.network_name(whole.model),
        **({} if factory is None else {"factory": factory}),
        **facts,
        **measure(classifier, test),
    }
    if len(whole.class_names) != len(classifier.class_names):
        metrics["network_classes"] = len(whole.class_names)
    with atomic_write(run.path(folder)) as temporary:
        classifiers.save(classifier, temporary)
        write_json(temporary / "metrics.json", metrics)
    top1 = "accuracy not measured" if metrics["top1"] is None else f"{metrics['top1']:.2%} top-1"
    run.print(f"{folder}: {title}: {top1}")
    return [file for file in run.path(folder).iterdir() if file.is_file()]


def train(
    classifier: Classifier,
    checkpoint: Checkpoint,
    images: Images,
    spec: config.Squeeze,
    seed: int,
    accelerator: Accelerator | None,
    engine: Engine = FLOAT32,
) -> Iterator[Step]:
    """Train a classifier in place from where its checkpoint ended. Each process trains on its share of every batch.

    BatchNorm sees the share of its own process; running statistics are averaged over processes after each epoch.
    (SyncBatchNorm refuses to run on CPUs.)

    Args:
        classifier: The network, its normalization and class names.
        checkpoint: The optimizer and the learning curve.
        images: The training images.
        spec: Epochs, batch size, optimizer and augmentation.
        seed: The seed of views and batches.
        accelerator: Accelerate's view of the processes that train together; None trains in this process, on the
            network's device.
        engine: How the network computes.

    Yields:
        The progress after every batch.
    """
    model, rank, world = to_channels_last(classifier.model), 0, 1
    device = next(model.parameters()).device
    if accelerator is not None:
        device, rank, world = accelerator.device, accelerator.process_index, accelerator.num_processes
        with warnings.catch_warnings():
            # DDP warns about the old name of an option that older torch versions know only by it.
            warnings.simplefilter("ignore", FutureWarning)
            model = accelerator.prepare_model(model)
    network, table = engine.network(model), classifier.table(device)
    pixels, labels = to_device_if_it_fits(images.pixels, device), images.labels.to(device)
    for index in range(checkpoint.epochs, spec.epochs):
        seed_epoch(seed, index, rank)
        draw = generator(seed, "squeeze", index)
        views = sample_views(spec.augment, len(labels), images.size, draw).to(pixels.device)
        shares = views.own_share(images.size).to(device)
        lr = learning_rate(spec.optimizer, index, spec.epochs)
        set_learning_rate(checkpoint.optimizer, lr)
        model.train()
        total, seen = torch.zeros((), device=device), 0
        for whole in epoch_batches(len(labels), spec.batch_size, draw):
            batch = whole.tensor_split(world)[rank].to(pixels.device)
            partners = batch if views.partners is None else views.partners[batch].long()
            x = normalize(render(pixels, views, batch).to(device), table)
            own, other = labels[batch.to(device)], labels[partners.to(device)]
            loss = mixed_cross_entropy(network(x), own, other, shares[batch.to(device)])
            # DDP averages gradients over processes, so each share is weighted to sum to the whole batch's mean.
            descend(checkpoint.optimizer, loss * (len(batch) * world / len(whole)))
            total, seen = total + loss.detach() * len(batch), seen + len(whole)
            if seen == len(labels) and accelerator is not None:
                average_statistics(classifier.model, accelerator)
                total = accelerator.reduce(total, "sum")
            yield Step(index, seen == len(labels), lr, total / seen)


def average_statistics(model: nn.Module, accelerator: Accelerator) -> None:
    """Replace running means and variances by their average over all processes."""
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.copy_(accelerator.reduce(buffer, "mean"))


def measure(classifier: Classifier, test: Images | None) -> dict[str, float | int | list[int] | None]:
    """Measure a teacher.

    Args:
        classifier: The network, on the device to compute on.
        test: The images to score the network on; None without an eval split.

    Returns:
        Number of parameters, FLOPs of a forward pass on one image, number of eval images, and top-1 and top-5
        accuracy in [0, 1], or None without an eval split. If classes have no eval images, their indices.
    """
    model, device = classifier.model, next(classifier.model.parameters()).device
    metrics: dict[str, float | int | list[int] | None] = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "forward_flops": forward_flops(model, classifier.size),
        "eval_images": 0,
        "top1": None,
        "top5": None,
    }
    if test is not None:
        top1, top5 = accuracy(model, test.pixels, test.labels, classifier.table(device))
        metrics |= {"eval_images": len(test.labels), "top1": top1, "top5": top5}
        unscored = (test.labels.bincount(minlength=len(classifier.class_names)) == 0).nonzero().flatten().tolist()
        metrics |= {"classes_without_eval_images": unscored} if unscored else {}
    return metrics
