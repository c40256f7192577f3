"""A user's file that uses every public name. `mypy --strict` must accept it, and find no `Any` in what it reveals."""

from pathlib import Path
from typing import reveal_type

from torch import Tensor, nn
from torch.utils.data import DataLoader

from srel_hub import (
    Condensed,
    Epoch,
    Recipe,
    UserError,
    __version__,
    condense_dataset,
    load_condensed,
    load_recipe,
    save_teacher,
    verify_dataset,
)


def train(path: str | Path, student: nn.Module) -> Tensor:
    condensed: Condensed = load_condensed(path, epochs=300, revision="v1.0")
    reveal_type(condensed)
    reveal_type(condensed.teacher())
    reveal_type(condensed.pixels)
    reveal_type(condensed.labels)
    reveal_type(condensed.manifest.class_names)
    reveal_type(condensed.classifier.mean)
    reveal_type(condensed.download_bytes)
    reveal_type(len(condensed))
    loss = condensed.pixels.new_zeros(())
    for epoch in condensed:
        reveal_type(epoch)
        reveal_type(epoch[0])
        reveal_type(epoch.batch(condensed.labels))
        reveal_type(epoch.render(condensed.labels))
        reveal_type(epoch.pixel_values(condensed.labels))
        reveal_type(epoch.groups)
        batch: dict[str, Tensor]  # torch annotates the batches of a DataLoader as Any
        for batch in DataLoader(epoch, batch_size=50):
            loss = loss + batch["logits"].square().mean()
    return loss


def first_item(epoch: Epoch) -> dict[str, Tensor]:
    return epoch[0]


def condense(recipe: Recipe) -> float:
    reveal_type(recipe.recover.ipc)
    reveal_type(condense_dataset("quickstart", {"recover.ipc": 5}))
    run = condense_dataset(recipe)
    reveal_type(run.dataset)
    reveal_type(run.results)
    reveal_type(run.result("condensed").top1)
    reveal_type(run.result("condensed").top1.std)
    reveal_type(run.dataset_bytes)
    return run.result().top1.mean


def save(module: nn.Module) -> Path:
    folder = save_teacher(
        module,
        "teacher",
        class_names=("cat", "dog"),
        mean=(0.5, 0.5, 0.5),
        std=(0.2, 0.2, 0.2),
        size=32,
        source="my_net.py",
    )
    reveal_type(folder)
    return folder


def main() -> str:
    try:
        recipe = load_recipe("quickstart", ["recover.ipc=5"])
        reveal_type(recipe)
        condense(recipe)
        verification = verify_dataset("runs/quickstart/dataset", fast=True)
        reveal_type(verification)
        reveal_type(verification.passed)
        reveal_type(verification.checks)
        reveal_type(verification.lines)
    except UserError as error:
        reveal_type(error)
    reveal_type(__version__)
    return __version__
