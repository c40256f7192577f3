"""Squeeze: train the network that the images will be recovered from.

    accelerate launch -m srel_hub.squeeze recipes/quickstart.yaml

Leaves `teacher/`: config.json, model.safetensors, preprocessor_config.json, metrics.json.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from srel_hub import recipe, teacher
from srel_hub.augment import normalise, render, sample_views
from srel_hub.run import Run, atomic, cli, derive_seed, generator, write_json
from srel_hub.source import Images, Source, open_source, require_every_class, statistics
from srel_hub.teacher import Classifier
from srel_hub.training import (
    batch_count,
    descend,
    epoch_batches,
    forward_flops,
    learning_rate,
    make_optimizer,
    mixed_cross_entropy,
    predict,
    require_finite,
    set_learning_rate,
    top_k,
)


UNIT = "teacher"


@dataclass(frozen=True)
class Step:
    """Progress: `loss` is the epoch's mean training loss so far, on the device; `last` ends the epoch."""

    epoch: int
    last: bool
    lr: float
    loss: Tensor


def squeeze(run: Run, source: Source | None = None) -> Path:
    """Train, measure and save the teacher; nothing is done where that is done already.

    Returns:
        the teacher's folder.
    """
    folder = run.path("teacher")
    if run.is_done("squeeze", UNIT):
        return folder
    source = source or open_source(run.recipe.source, run.progress)
    run.begin()
    spec, train_set = run.recipe.squeeze, source.train()
    require_every_class(train_set, source.class_names)
    mean, std = statistics(train_set.pixels)
    seed = derive_seed(run.recipe.seed, "squeeze", "weights")
    model = teacher.build(spec.network, source.class_names, train_set.size, seed).to(run.device)
    classifier = Classifier(model, mean, std, source.class_names, train_set.size)
    steps = train(classifier, train_set, spec, run.recipe.seed, run.device)
    total = spec.epochs * batch_count(len(train_set.labels), spec.batch_size)
    for step in run.progress(steps, total, "squeeze", "step"):
        if step.last:
            loss = require_finite(step.loss, f"squeeze, epoch {step.epoch}", "squeeze.optimizer.lr")
            run.record("squeeze", epoch=step.epoch, loss=loss, lr=step.lr)
    metrics = {"train_images": len(train_set.labels), **measure(classifier, source)}
    with atomic(folder) as temporary:
        teacher.save(classifier, temporary)
        write_json(temporary / "metrics.json", metrics)
    run.mark("squeeze", UNIT, [file for file in folder.iterdir() if file.is_file()])
    accuracy = "not measured" if metrics["top1"] is None else f"{metrics['top1']:.2%} top-1"
    run.say(f"squeeze: {spec.network.model} x {spec.network.width:g}, {spec.epochs} epochs: {accuracy}")
    return folder


def train(
    classifier: Classifier, images: Images, spec: recipe.Squeeze, seed: int, device: torch.device
) -> Iterator[Step]:
    """Train in place, a batch a step."""
    model, table = classifier.model, classifier.table(device)
    optimizer = make_optimizer(model, spec.optimizer)
    pixels, labels = images.pixels.to(device), images.labels.to(device)
    for index in range(spec.epochs):
        draw = generator(seed, "squeeze", index)
        views = sample_views(spec.augment, len(labels), images.size, draw)
        shares = views.own_share(images.size).to(device)
        lr = learning_rate(spec.optimizer, index, spec.epochs)
        set_learning_rate(optimizer, lr)
        model.train()
        total, seen = torch.zeros((), device=device), 0
        for batch in epoch_batches(len(labels), spec.batch_size, draw):
            partners = batch if views.partners is None else views.partners[batch].long()
            x = normalise(render(pixels, views, batch), table)
            own, other = labels[batch.to(device)], labels[partners.to(device)]
            loss = mixed_cross_entropy(model(x).logits, own, other, shares[batch.to(device)])
            descend(optimizer, loss)
            total, seen = total + loss.detach() * len(batch), seen + len(batch)
            yield Step(index, seen == len(labels), lr, total / seen)


def measure(classifier: Classifier, source: Source) -> dict[str, float | int | None]:
    """Top-1 and top-5 on the eval split (None without one), the network's size and its cost per image."""
    model, device = classifier.model, next(classifier.model.parameters()).device
    metrics: dict[str, float | int | None] = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "forward_flops": forward_flops(model, classifier.size),
        "eval_images": 0,
        "top1": None,
        "top5": None,
    }
    if source.eval is not None:
        images = source.eval()
        logits = predict(model, images.pixels, classifier.table(device))
        top1, top5 = (top_k(logits, images.labels, k) for k in (1, 5))
        metrics |= {"eval_images": len(images.labels), "top1": top1, "top5": top5}
    return metrics


if __name__ == "__main__":
    cli(squeeze)
