"""core.optim."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from srel_hub.config import Optimizer
from srel_hub.errors import UserError


WARMUP_START = 0.01  # of the learning rate (field practice at Tiny-ImageNet)


def make_optimizer(model: nn.Module, spec: Optimizer) -> torch.optim.Optimizer:
    """SGD with momentum or AdamW over all trainable parameters."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [{"params": parameters}]
    if not spec.decay_all:
        groups = [{"params": [p for p in parameters if p.ndim > 1]}]
        groups.append({"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0})
    if spec.kind == "sgd":
        return torch.optim.SGD(groups, lr=spec.lr, momentum=spec.momentum, weight_decay=spec.weight_decay)
    return torch.optim.AdamW(groups, lr=spec.lr, weight_decay=spec.weight_decay)


def learning_rate(spec: Optimizer, epoch: int, epochs: int) -> float:
    """Lr of an epoch: linear warm-up from a hundredth, then 1/2 (1 + cos(pi t / (eta T))) (Loshchilov & Hutter, 2017).

    eta, the smoothing, is 1 there; EDC (Shao et al., 2024, section 3.3) and FADRM end above 0 with 2.
    """
    warmup = spec.warmup_epochs
    if epoch < warmup:
        return spec.lr * (WARMUP_START + (1 - WARMUP_START) * epoch / warmup)
    return spec.lr * 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / ((epochs - warmup) * spec.smoothing)))


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def require_finite(value: Tensor, where: str, knob: str) -> float:
    """The value as a number.

    Raises:
        UserError: if it is NaN or infinite: the optimization diverged.
    """
    number = float(value)
    if not math.isfinite(number):
        raise UserError(f"{where}: diverged to {number}; lower {knob}")
    return number


def epoch_batches(count: int, batch_size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """A shuffled pass over `count` indices in `batch_count` batches, equal to within one image.

    A short last batch would unsettle BatchNorm: 898 images in batches of 64 end in one of 2, and diverge.
    """
    return torch.randperm(count, generator=generator).tensor_split(batch_count(count, batch_size))


def batch_count(count: int, batch_size: int) -> int:
    """ceil(count / batch_size), or fewer where a batch would be left with one image, useless to BatchNorm."""
    return max(1, min(-(-count // batch_size), count // 2))
