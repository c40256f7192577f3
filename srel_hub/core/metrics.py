"""What squeeze and evaluate share: optimizer, schedule, losses and top-k accuracy."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from srel_hub.core.augment import normalize


BETTER_THAN_CHANCE = 0.2  # of the way from chance to perfect; a teacher below it does not fit the dataset
PREDICTED_PIXELS = 500 * 64 * 64  # in one pass; 40 images of 224 pixels


@torch.no_grad()
def predictions(model: nn.Module, images: Tensor, table: Tensor) -> Iterator[Tensor]:
    """The model's logits, in eval mode, on whole images uint8 [N, 3, H, W]: float32 [B, K] on the CPU, in batches."""
    model.eval()
    for x in images.split(prediction_batch((images.shape[2], images.shape[3]))):
        yield model(normalize(x.to(table.device), table)).logits.float().cpu()


def prediction_batch(size: tuple[int, int]) -> int:
    """How many images of `size` one pass of `predictions` takes."""
    return max(1, min(500, PREDICTED_PIXELS // (size[0] * size[1])))


def accuracy(model: nn.Module, images: Tensor, labels: Tensor, table: Tensor) -> tuple[float, float]:
    """Top-1 and top-5 of the model in eval mode, each in [0, 1]."""
    hits, seen = torch.zeros(2, dtype=torch.int64), 0
    for logits in predictions(model, images, table):
        part = labels[seen : seen + len(logits)]
        hits += torch.stack([is_in_top_k(logits, part, k).sum() for k in (1, 5)])
        seen += len(logits)
    top1, top5 = (hits.float() / seen).tolist()
    return top1, top5


def is_in_top_k(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """bool [B]: whose label is among the k largest logits."""
    return (logits.topk(min(k, logits.shape[1])).indices == labels[:, None]).any(1)


@torch.no_grad()
def forward_flops(model: nn.Module, size: tuple[int, int]) -> int:
    """Floating-point operations of one forward pass on one image, a multiply-add counted as two."""
    model.eval()
    counter = FlopCounterMode(display=False)
    with counter:
        model(torch.zeros(1, 3, *size, device=next(model.parameters()).device))
    return counter.get_total_flops()
