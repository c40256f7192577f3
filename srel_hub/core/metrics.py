"""How good a network is, and how much it computes: predictions on whole images, top-k accuracy, FLOPs."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from srel_hub.core.augment import normalize


BETTER_THAN_CHANCE = 0.2  # of the way from chance to perfect; a teacher below it does not fit the dataset
PREDICTED_IMAGES = 500  # in one forward pass
PREDICTED_PIXELS = PREDICTED_IMAGES * 64 * 64  # in one forward pass; 40 images of 224 pixels


@torch.no_grad()
def predictions(model: nn.Module, images: Tensor, table: Tensor) -> Iterator[Tensor]:
    """Yield the logits of a model in eval mode on whole images, batch by batch.

    Args:
        model: on the device of `table`.
        images: uint8 [N, 3, H, W], on any device.
        table: the model's normalization (augment.normalization_table).

    Yields:
        float32 [B, K], on the CPU. The batches contain the N images in order.
    """
    model.eval()
    for x in images.split(prediction_batch((images.shape[2], images.shape[3]))):
        yield model(normalize(x.to(table.device), table)).logits.float().cpu()


def prediction_batch(size: tuple[int, int]) -> int:
    """Return the batch size of `predictions` for images of `size` (height, width)."""
    return max(1, min(PREDICTED_IMAGES, PREDICTED_PIXELS // (size[0] * size[1])))


def accuracy(model: nn.Module, images: Tensor, labels: Tensor, table: Tensor) -> tuple[float, float]:
    """Return top-1 and top-5 accuracy of a model in eval mode, each in [0, 1].

    Args:
        model: on the device of `table`.
        images: uint8 [N, 3, H, W], on any device.
        labels: int64 [N], on the CPU.
        table: the model's normalization (augment.normalization_table).
    """
    hits, seen = torch.zeros(2, dtype=torch.int64), 0
    for logits in predictions(model, images, table):
        batch = labels[seen : seen + len(logits)]
        hits += torch.stack([is_in_top_k(logits, batch, k).sum() for k in (1, 5)])
        seen += len(logits)
    top1, top5 = (hits.float() / seen).tolist()
    return top1, top5


def is_in_top_k(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """Return bool [B], whether each label is among the k largest logits of its row; always True if K <= k."""
    return (logits.topk(min(k, logits.shape[1])).indices == labels[:, None]).any(1)


@torch.no_grad()
def forward_flops(model: nn.Module, size: tuple[int, int]) -> int:
    """Count the floating-point operations of a forward pass on one image of `size` (height, width).

    A multiply-add counts as two. The model may be on the meta device.
    """
    model.eval()
    counter = FlopCounterMode(display=False)
    with counter:
        model(torch.zeros(1, 3, *size, device=next(model.parameters()).device))
    return counter.get_total_flops()
