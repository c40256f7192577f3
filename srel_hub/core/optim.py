"""Training steps of squeeze, recover and evaluate: optimizer, learning rate, batches of an epoch, divergence."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from srel_hub.config import Optimizer
from srel_hub.errors import UserError


WARMUP_START = 0.01  # of the learning rate, as is common for Tiny-ImageNet


def make_optimizer(model: nn.Module, spec: Optimizer) -> torch.optim.Optimizer:
    """Return SGD with momentum or AdamW over all trainable parameters of a model.

    Without `decay_all`, weight decay skips vectors and scalars, which are biases and the weights of normalizations.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [{"params": parameters}]
    if not spec.decay_all:
        groups = [{"params": [p for p in parameters if p.ndim > 1]}]
        groups.append({"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0})
    if spec.kind == "sgd":
        return torch.optim.SGD(groups, lr=spec.lr, momentum=spec.momentum, weight_decay=spec.weight_decay)
    return torch.optim.AdamW(groups, lr=spec.lr, weight_decay=spec.weight_decay)


def learning_rate(spec: Optimizer, epoch: int, epochs: int) -> float:
    """Return the learning rate of an epoch: a linear warm-up from lr / 100, then a cosine.

    The cosine is lr/2 (1 + cos(pi t / (eta T))), where t counts the epochs after the warm-up and T is their number
    (SGDR, Loshchilov & Hutter, 2017, section 3). The smoothing eta is 1 there. EDC (Shao et al., 2024, section 3.3)
    and FADRM set 2, so the rate ends at lr/2 instead of 0.

    Args:
        spec: lr, warmup_epochs and smoothing (eta).
        epoch: counted from 0, below `epochs`.
        epochs: number of epochs of the whole training, including the warm-up.
    """
    warmup, eta = spec.warmup_epochs, spec.smoothing
    if epoch < warmup:
        return spec.lr * (WARMUP_START + (1 - WARMUP_START) * epoch / warmup)
    t, T = epoch - warmup, epochs - warmup
    return spec.lr * 0.5 * (1 + math.cos(math.pi * t / (T * eta)))


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of all parameter groups."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """Take one optimizer step against the gradient of a scalar loss."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def require_finite(value: Tensor, where: str, knob: str) -> float:
    """Return a scalar tensor as a number.

    Args:
        value: a loss or a sum of pixels, with one element.
        where: the stage and step, which begin the message.
        knob: the recipe's field that makes steps smaller.

    Raises:
        UserError: if the value is NaN or infinite, because the optimization diverged.
    """
    number = float(value)
    if not math.isfinite(number):
        raise UserError(f"{where}: the optimization diverged: values became {number}; lower {knob}")
    return number


def epoch_batches(count: int, batch_size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Return a shuffled pass over `count` indices, as int64 batches whose sizes differ by at most one.

    A short last batch makes BatchNorm unstable: 898 images in batches of 64 leave a last batch of 2, and the training
        diverges.
    """
    return torch.randperm(count, generator=generator).tensor_split(batch_count(count, batch_size))


def batch_count(count: int, batch_size: int) -> int:
    """Return the number of batches of an epoch: ceil(count / batch_size), or fewer to avoid batches of one image.

    BatchNorm has no variance over one image, so at most count // 2 batches are made.
    """
    return max(1, min(-(-count // batch_size), count // 2))
