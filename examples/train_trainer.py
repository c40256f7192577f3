"""Train a student on a condensed dataset with transformers' Trainer.

    python examples/train_trainer.py my-name/my-dataset 300     # or a folder, such as runs/quickstart/dataset

The Trainer gets one long stream, because every epoch has other crops with other labels.
"""

import sys
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import IterableDataset
from transformers import AutoModelForImageClassification, Trainer, TrainingArguments

from srel_hub import Condensed, load_condensed


TEMPERATURE, BATCH_SIZE = 4.0, 50


class Stream(IterableDataset[dict[str, Tensor]]):
    """All epochs in turn, each in a random order of its own."""

    def __init__(self, condensed: Condensed) -> None:
        self.condensed = condensed

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for epoch in self.condensed:
            for indices in torch.randperm(len(epoch)).split(BATCH_SIZE):
                yield from epoch.__getitems__(indices.tolist())


class SoftLabelTrainer(Trainer):
    """A Trainer whose loss is the KL divergence from the teacher's to the student's softened predictions."""

    def compute_loss(self, model: nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, **_: Any) -> Any:
        output = model(pixel_values=inputs["pixel_values"])
        target = (inputs["logits"] / TEMPERATURE).softmax(1)
        loss = F.kl_div((output.logits / TEMPERATURE).log_softmax(1), target, reduction="batchmean")
        return (loss, output) if return_outputs else loss


def train(path: str, epochs: int) -> nn.Module:
    condensed = load_condensed(path, epochs=epochs)
    student = AutoModelForImageClassification.from_config(condensed.teacher().config)
    arguments = TrainingArguments(
        output_dir="student",
        max_steps=epochs * condensed.manifest.num_images // BATCH_SIZE,
        per_device_train_batch_size=BATCH_SIZE,
        learning_rate=1e-3,
        weight_decay=0.01,
        lr_scheduler_type="cosine",
        remove_unused_columns=False,  # the logits are not an input of the network
        save_strategy="no",
        report_to="none",
        logging_steps=100,
    )
    SoftLabelTrainer(student, arguments, train_dataset=Stream(condensed)).train()
    return student.eval()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    train(sys.argv[1], int(sys.argv[2]))
