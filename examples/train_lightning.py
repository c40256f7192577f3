"""Train a student on a condensed dataset with Lightning (`pip install lightning`; our tests do not run this file).

python examples/train_lightning.py my-name/my-dataset 300     # or a folder, such as runs/quickstart/dataset
"""

import sys

import lightning
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import AutoModelForImageClassification

from srel_hub import Condensed, load_condensed


TEMPERATURE, BATCH_SIZE = 4.0, 50


class Student(lightning.LightningModule):
    def __init__(self, condensed: Condensed) -> None:
        super().__init__()
        self.condensed = condensed
        self.network = AutoModelForImageClassification.from_config(condensed.teacher().config)

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Return the loader of the current epoch; every epoch has other crops with other labels."""
        epoch = self.condensed[self.current_epoch]
        return DataLoader(epoch, batch_size=BATCH_SIZE, shuffle=True)

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        output = self.network(batch["pixel_values"]).logits
        target = (batch["logits"] / TEMPERATURE).softmax(1)
        return F.kl_div((output / TEMPERATURE).log_softmax(1), target, reduction="batchmean")

    def configure_optimizers(self) -> dict[str, object]:
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-3, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(self.condensed))
        return {"optimizer": optimizer, "lr_scheduler": schedule}


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    student = Student(load_condensed(sys.argv[1], epochs=int(sys.argv[2])))
    trainer = lightning.Trainer(max_epochs=len(student.condensed), reload_dataloaders_every_n_epochs=1)
    trainer.fit(student)
