"""core.losses."""

import torch.nn.functional as F
from torch import Tensor

from srel_hub.config import Evaluate


def classification_loss(logits: Tensor, labels: Tensor, groups: int) -> Tensor:
    """[G]: the mean cross-entropy of each ipc index (SRe2L, section 3.2)."""
    losses: Tensor = F.cross_entropy(logits, labels, reduction="none").unflatten(0, (groups, -1))
    return losses.mean(1)


def mixed_cross_entropy(logits: Tensor, labels: Tensor, partner_labels: Tensor, own_share: Tensor) -> Tensor:
    """Cross-entropy on hard labels of mixed images, weighted by each image's share (Zhang et al., 2018)."""
    own = F.cross_entropy(logits, labels, reduction="none")
    other = F.cross_entropy(logits, partner_labels, reduction="none")
    return (own_share * own + (1 - own_share) * other).mean()


def distillation_loss(
    student: Tensor, teacher: Tensor, temperature: float, squared: bool, student_temperature: float | None = None
) -> Tensor:
    """KL(softmax(z_t / T) || softmax(z_s / T)), mean over the batch, optionally times T^2 (Hinton et al., 2015).

    With a temperature of the student's own, as LPQLD (2026, which extends Xiao and He, 2024) has it, z_s / that.
    """
    loss = F.kl_div(
        F.log_softmax(student / (student_temperature or temperature), 1),
        F.log_softmax(teacher / temperature, 1),
        reduction="batchmean",
        log_target=True,
    )
    return loss * temperature**2 if squared else loss


def teacher_temperature(spec: Evaluate, epoch: int) -> float:
    """T of an epoch: as it is, or falling in steps to a floor."""
    if spec.cooling is None:
        return spec.temperature
    fallen = spec.temperature * spec.cooling.factor ** (epoch // spec.cooling.every)
    return max(fallen, min(spec.cooling.floor, spec.temperature))


def soft_loss(spec: Evaluate, epoch: int, student: Tensor, teacher: Tensor) -> Tensor:
    """What a student minimizes towards the teacher's logits, mean over the batch."""
    if spec.loss == "mse":
        return F.mse_loss(student, teacher)
    T = teacher_temperature(spec, epoch)
    return distillation_loss(student, teacher, T, spec.temperature_squared, spec.student_temperature)
