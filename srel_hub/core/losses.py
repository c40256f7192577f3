"""Losses of squeeze, recover and evaluate: cross-entropy on hard labels, distillation from a teacher's logits."""

import torch.nn.functional as F
from torch import Tensor

from srel_hub.config import Evaluate


def classification_loss(logits: Tensor, labels: Tensor, groups: int) -> Tensor:
    """Return the mean cross-entropy of each ipc index, the first term of recover (SRe2L, section 3.2).

    Args:
        logits: [G * B, K].
        labels: int64 [G * B].
        groups: G, the number of ipc indices that are stacked along the batch axis.

    Returns:
        [G].
    """
    losses: Tensor = F.cross_entropy(logits, labels, reduction="none").unflatten(0, (groups, -1))
    return losses.mean(1)


def mixed_cross_entropy(logits: Tensor, labels: Tensor, partner_labels: Tensor, own_share: Tensor) -> Tensor:
    """Return lambda CE(z, y) + (1 - lambda) CE(z, y'), mean over the batch (Mixup, Zhang et al., 2018, section 2).

    Args:
        logits: z, [B, K].
        labels: y, int64 [B], the classes of the images.
        partner_labels: y', int64 [B], the classes of the images that were mixed in.
        own_share: lambda, [B] in [0, 1] (Views.own_share).
    """
    own = F.cross_entropy(logits, labels, reduction="none")
    other = F.cross_entropy(logits, partner_labels, reduction="none")
    return (own_share * own + (1 - own_share) * other).mean()


def distillation_loss(
    student: Tensor, teacher: Tensor, temperature: float, squared: bool, student_temperature: float | None = None
) -> Tensor:
    """Return KL(softmax(z_t / T) || softmax(z_s / T)), mean over the batch (Hinton et al., 2015, section 2).

    Args:
        student: z_s, [B, K].
        teacher: z_t, [B, K].
        temperature: T.
        squared: whether to multiply by T^2, which keeps the size of the gradients about the same at every T.
        student_temperature: T of z_s, if it differs from that of z_t (LPQLD, 2026, which extends Xiao & He, 2024).
    """
    loss = F.kl_div(
        F.log_softmax(student / (student_temperature or temperature), 1),
        F.log_softmax(teacher / temperature, 1),
        reduction="batchmean",
        log_target=True,
    )
    return loss * temperature**2 if squared else loss


def teacher_temperature(spec: Evaluate, epoch: int) -> float:
    """Return the teacher's temperature in an epoch.

    It is T, or with `cooling` (LPQLD, 2026): T times `factor` every `every` epochs, but not below `floor`. A floor
    above T has no effect: the temperature stays T.
    """
    if spec.cooling is None:
        return spec.temperature
    fallen = spec.temperature * spec.cooling.factor ** (epoch // spec.cooling.every)
    return max(fallen, min(spec.cooling.floor, spec.temperature))


def soft_loss(spec: Evaluate, epoch: int, student: Tensor, teacher: Tensor) -> Tensor:
    """Return the loss between a student's and the teacher's logits [B, K] in an epoch, mean over the batch.

    `evaluate.loss` selects the mean squared error or the distillation loss.
    """
    if spec.loss == "mse":
        return F.mse_loss(student, teacher)
    T = teacher_temperature(spec, epoch)
    return distillation_loss(student, teacher, T, spec.temperature_squared, spec.student_temperature)
