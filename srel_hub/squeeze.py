"""Squeeze: train the network that the images will be recovered from, or adopt a pretrained one.

    accelerate launch -m srel_hub.squeeze recipes/quickstart.yaml

Leaves `teacher/`: config.json, model.safetensors, preprocessor_config.json, metrics.json; and the same in
`label_teacher/` where the recipe names another network to label with.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from srel_hub import recipe, teacher
from srel_hub.augment import normalise, render, sample_views
from srel_hub.preflight import Prepared, prepare, teachers
from srel_hub.run import Run, atomic, cli, derive_seed, generator, write_json
from srel_hub.split import Images, require_every_class, statistics
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
    todo = [folder for folder in teachers(run.recipe) if not run.is_done("squeeze", folder)]
    if todo:
        prepared = prepared or prepare(run)
        run.begin()
        for remark in prepared.source.remarks:
            run.say(f"note: {remark}")
        # An image that cannot be read is found here, before the training.
        test = None if prepared.source.eval is None else prepared.source.eval.images(prepared.frame)
        for name in todo:
            keep(
                run, name, *(adopt(prepared, name) if name in prepared.adopted else train_teacher(run, prepared)), test
            )
    return run.path("teacher")


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


def train_teacher(run: Run, prepared: Prepared) -> tuple[Classifier, dict[str, Any]]:
    """A teacher trained on the training split, and on what it was trained."""
    spec, split = run.recipe.squeeze, prepared.source.train
    assert split is not None
    require_every_class(split.labels, prepared.class_names)
    train_set = split.images(prepared.frame)
    mean, std = statistics(train_set.pixels)
    seed = derive_seed(run.recipe.seed, "squeeze", "weights")
    model = teacher.build(spec.network, prepared.class_names, train_set.size, seed).to(run.device)
    classifier = Classifier(model, mean, std, prepared.class_names, train_set.size)
    steps = train(classifier, train_set, spec, run.recipe.seed, run.device)
    total = spec.epochs * batch_count(len(train_set.labels), spec.batch_size)
    for step in run.progress(steps, total, "squeeze", "step"):
        if step.last:
            loss = require_finite(step.loss, f"squeeze, epoch {step.epoch}", "squeeze.optimizer.lr")
            run.record("squeeze", epoch=step.epoch, loss=loss, lr=step.lr)
    counts = train_set.labels.bincount(minlength=len(prepared.class_names)).tolist()
    return classifier, {"pretrained": None, "train_images": len(train_set.labels), "class_images": counts}


def keep(run: Run, name: str, classifier: Classifier, facts: dict[str, Any], test: Images | None) -> None:
    """Measure a teacher, and save it as the run's folder `name`."""
    classifier = replace(classifier, model=classifier.model.to(run.device))
    metrics = {"architecture": type(classifier.model).__name__, **facts, **measure(classifier, test)}
    folder = run.path(name)
    with atomic(folder) as temporary:
        teacher.save(classifier, temporary)
        write_json(temporary / "metrics.json", metrics)
    run.mark("squeeze", name, [file for file in folder.iterdir() if file.is_file()])
    accuracy = "not measured" if metrics["top1"] is None else f"{metrics['top1']:.2%} top-1"
    network, origin = run.recipe.squeeze.network, facts["pretrained"]
    trained = f"{network.model} x {network.width:g}, {run.recipe.squeeze.epochs} epochs"
    run.say(f"{name}: {origin['path'] if origin else trained}: {accuracy}")


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
        logits = predict(model, test.pixels, classifier.table(device))
        top1, top5 = (top_k(logits, test.labels, k) for k in (1, 5))
        metrics |= {"eval_images": len(test.labels), "top1": top1, "top5": top5}
    return metrics


if __name__ == "__main__":
    cli(squeeze)
