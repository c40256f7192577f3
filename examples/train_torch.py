"""Train a student on a condensed dataset in plain PyTorch.

python examples/train_torch.py my-name/my-dataset 300     # or a folder, such as runs/quickstart/dataset
"""

import sys

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader
from transformers import AutoModelForImageClassification

from srel_hub import load_condensed


TEMPERATURE, BATCH_SIZE = 4.0, 50


def train(path: str, epochs: int) -> nn.Module:
    condensed = load_condensed(path, epochs=epochs)
    student = AutoModelForImageClassification.from_config(condensed.teacher().config).train()
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for number, epoch in enumerate(condensed):  # every epoch has other crops; the next one downloads meanwhile
        for batch in DataLoader(epoch, batch_size=BATCH_SIZE, shuffle=True):
            output = student(batch["pixel_values"]).logits
            target = (batch["logits"] / TEMPERATURE).softmax(1)
            loss = F.kl_div((output / TEMPERATURE).log_softmax(1), target, reduction="batchmean")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
        print(f"epoch {number + 1} of {epochs}: loss {loss.item():.4f}")
    return student.eval()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    train(sys.argv[1], int(sys.argv[2]))
