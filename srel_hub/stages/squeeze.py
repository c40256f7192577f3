"""Squeeze: train the network that the images will be recovered from, or adopt a pretrained one.

    accelerate launch -m srel_hub.squeeze recipes/quickstart.yaml

Leaves `teacher/`: config.json, model.safetensors, preprocessor_config.json, metrics.json; and the same in
`label_teacher/` and others where the recipe names more networks, to match or to label with.
"""

import warnings
from collections.abc import Iterator
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
from srel_hub.runs.checkpoint import Checkpoint, seed_epoch
from srel_hub.runs.decoded_images import source_images
from srel_hub.runs.run import Run
from srel_hub.runs.work_queue import Work
from srel_hub.stages.preflight.prepare import Prepared, prepare, stage_of, teachers
from srel_hub.storage.files import atomic_write, write_json
from srel_hub.storage.mapped_images import to_device_if_it_fits
from srel_hub.teachers import architectures as networks
from srel_hub.teachers import classifier as teacher
from srel_hub.teachers.classifier import Classifier


CHECKPOINT = "squeeze-teacher"


@dataclass(frozen=True)
class Step:
    """Progress: `loss` is the epoch's mean training loss so far, on the device; `last` ends the epoch."""

    epoch: int
    last: bool
    lr: float
    loss: Tensor


def squeeze(run: Run, prepared: Prepared | None = None) -> Path:
    """Train the teacher, or adopt a pretrained one, and measure and save it; what is done already is kept.

    Returns:
        the teacher's folder.
    """
    if run.broadcast(all(run.is_done(stage_of(name), name) for name in teachers(run.recipe))):
        return run.path("teacher")
    if prepared is None:
        with run.accelerator.main_process_first():
            prepared = prepare(run)
        run.begin()
    if run.is_main:
        for remark in (*prepared.source.remarks, *few_images(prepared, run.recipe.recover.ipc)):
            run.print(f"note: {remark}")
    with Work(run, "squeeze", {"teacher": training_steps(run, prepared)}, "step") as work:
        # The main process alone: transformers saves nothing from any other of a launch.
        if run.is_main:
            for name in work:
                _make(run, prepared, work, name)
            _adopt_others(run, prepared)
            run.broadcast(False)
        else:
            while run.broadcast(False):
                train_teacher(run, prepared, work)
    return run.path("teacher")


def few_images(prepared: Prepared, ipc: int) -> list[str]:
    """A remark where classes have fewer training images than will be condensed of them."""
    if prepared.source.train is None:
        return []
    counts = prepared.source.train.labels.bincount(minlength=len(prepared.class_names)).tolist()
    few = [f"{name} ({count})" for name, count in zip(prepared.class_names, counts, strict=True) if count < ipc]
    told = ", ".join(first_few(few))
    return [f"fewer training images than recover.ipc={ipc}: {told}; these classes are hardly known"] if few else []


def _make(run: Run, prepared: Prepared, work: Work, name: str) -> None:
    test = _eval_images(run, prepared)  # an image that cannot be read is found before the training
    if run.recipe.squeeze.pretrained is not None:
        work.done(save(run, name, *adopt(prepared, name), test))
        return
    run.broadcast(True)  # all processes of the launch train
    work.done(save(run, name, *train_teacher(run, prepared, work), test))
    run.path("checkpoints", CHECKPOINT).unlink(missing_ok=True)


def training_steps(run: Run, prepared: Prepared) -> int:
    """Batches of the whole training; 1 where a teacher is adopted."""
    spec, train_split = run.recipe.squeeze, prepared.source.train
    if spec.pretrained is not None or train_split is None:
        return 1
    return spec.epochs * batch_count(len(train_split.labels), spec.batch_size)


def _adopt_others(run: Run, prepared: Prepared) -> None:
    for name in teachers(run.recipe):
        stage = stage_of(name)
        if stage != "squeeze":
            with run.locked(name):
                if not run.is_done(stage, name):
                    saved = save(run, name, *adopt(prepared, name), _eval_images(run, prepared))
                    run.marks.mark(stage, name, saved)


def _eval_images(run: Run, prepared: Prepared) -> Images | None:
    split = prepared.source.eval
    return None if split is None else source_images(run, split, prepared.frame)


def adopt(prepared: Prepared, name: str) -> tuple[Classifier, dict[str, Any]]:
    """A pretrained teacher, and where it came from."""
    train, adopted, counts = prepared.source.train, prepared.adopted[name], None
    if train is not None:
        require_every_class(train.labels, prepared.class_names)
        counts = train.labels.bincount(minlength=len(prepared.class_names)).tolist()
    return adopted.classifier, {
        "pretrained": asdict(adopted.origin),
        "train_images": None,
        "class_images": counts,
    }


def train_teacher(run: Run, prepared: Prepared, work: Work) -> tuple[Classifier, dict[str, Any]]:
    """A teacher trained on the training split by all processes of the launch, and on what it was trained."""
    spec, split, seed = run.recipe.squeeze, prepared.source.train, run.recipe.seed
    assert split is not None
    require_every_class(split.labels, prepared.class_names)
    train_set = source_images(run, split, prepared.frame)
    mean, std = channel_statistics(train_set.pixels)
    weights = derive_seed(seed, "squeeze", "weights")
    model = networks.build(spec.network, prepared.class_names, train_set.size, weights).to(run.device)
    classifier = Classifier(model, mean, std, prepared.class_names, train_set.size)
    checkpoint = Checkpoint(run.path("checkpoints", CHECKPOINT), model, make_optimizer(model, spec.optimizer))
    checkpoint.restore()
    if checkpoint.epochs:
        run.print(f"squeeze: goes on after epoch {checkpoint.epochs}")
    steps = train(classifier, checkpoint, train_set, spec, seed, run.accelerator, run.engine)
    behind = checkpoint.epochs * batch_count(len(train_set.labels), spec.batch_size)
    for step in work.steps(steps, behind):
        if step.last:
            loss = require_finite(step.loss, f"squeeze, epoch {step.epoch}", "squeeze.optimizer.lr")
            checkpoint.add(run.is_main, epoch=step.epoch, loss=loss, lr=step.lr)
            if run.is_main:
                run.record("squeeze", **checkpoint.curve[-1])
    counts = train_set.labels.bincount(minlength=len(prepared.class_names)).tolist()
    return classifier, {"pretrained": None, "train_images": len(train_set.labels), "class_images": counts}


def save(run: Run, name: str, classifier: Classifier, facts: dict[str, Any], test: Images | None) -> list[Path]:
    """Measure a teacher, and save it as the run's folder `name`.

    Returns:
        its files.
    """
    classifier = replace(classifier, model=classifier.model.to(run.device))
    metrics = {"architecture": type(classifier.model).__name__, **facts, **measure(classifier, test)}
    folder = run.path(name)
    with atomic_write(folder) as temporary:
        teacher.save(classifier, temporary)
        write_json(temporary / "metrics.json", metrics)
    top1 = "not measured" if metrics["top1"] is None else f"{metrics['top1']:.2%} top-1"
    network, origin = run.recipe.squeeze.network, facts["pretrained"]
    trained = f"{network.title}, {run.recipe.squeeze.epochs} epochs"
    run.print(f"{name}: {origin['path'] if origin else trained}: {top1}")
    return [file for file in folder.iterdir() if file.is_file()]


def train(
    classifier: Classifier,
    checkpoint: Checkpoint,
    images: Images,
    spec: config.Squeeze,
    seed: int,
    accelerator: Accelerator | None,
    engine: Engine = FLOAT32,
) -> Iterator[Step]:
    """Train in place from where the checkpoint is, a batch a step; each process takes its share of every batch.

    BatchNorm sees its own process's share, and the running statistics are averaged at the end of each epoch.

    Args:
        accelerator: of the processes that train together; None: this one alone, where the network is.
    """
    model, rank, world = to_channels_last(classifier.model), 0, 1
    device = next(model.parameters()).device
    if accelerator is not None:
        device, rank, world = accelerator.device, accelerator.process_index, accelerator.num_processes
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # the option's new name is not known to older torch
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
            # Gradients are averaged over processes: what is averaged must sum to the whole batch's mean.
            descend(checkpoint.optimizer, loss * (len(batch) * world / len(whole)))
            total, seen = total + loss.detach() * len(batch), seen + len(whole)
            if seen == len(labels) and accelerator is not None:
                average_statistics(classifier.model, accelerator)
                total = accelerator.reduce(total, "sum")
            yield Step(index, seen == len(labels), lr, total / seen)


def average_statistics(model: nn.Module, accelerator: Accelerator) -> None:
    """Make every process's running means and variances their average over the processes."""
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.copy_(accelerator.reduce(buffer, "mean"))


def measure(classifier: Classifier, test: Images | None) -> dict[str, float | int | None]:
    """Top-1 and top-5 on the eval split (None without one), the network's size and its cost per image."""
    model, device = classifier.model, next(classifier.model.parameters()).device
    metrics: dict[str, float | int | None] = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "forward_flops": forward_flops(model, classifier.size),
        "eval_images": 0,
        "top1": None,
        "top5": None,
    }
    if test is not None:
        top1, top5 = accuracy(model, test.pixels, test.labels, classifier.table(device))
        metrics |= {"eval_images": len(test.labels), "top1": top1, "top5": top5}
    return metrics
