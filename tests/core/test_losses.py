"""Losses against their definitions."""

import pytest
import torch

from srel_hub.core import losses


@pytest.mark.parametrize("squared", [False, True])
def test_distillation_loss_is_the_kl_divergence_at_a_temperature(squared: bool) -> None:
    student, teacher = 5 * torch.randn(2, 6, 4).double()
    p, q = ((logits / 3).exp() / (logits / 3).exp().sum(1, keepdim=True) for logits in (teacher, student))
    expected = (p * (p / q).log()).sum(1).mean() * (9 if squared else 1)
    assert float(losses.distillation_loss(student, teacher, 3, squared)) == pytest.approx(float(expected))
    assert float(losses.distillation_loss(teacher, teacher, 3, squared)) == pytest.approx(0, abs=1e-12)


def test_mixed_cross_entropy_weighs_both_labels() -> None:
    logits, own, other = torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1]), torch.tensor([1, 1, 0, 2, 2])
    share = torch.tensor([1.0, 0.3, 0.5, 0.0, 0.9])
    log_softmax = logits.log_softmax(1)
    rows = [-(s * row[a] + (1 - s) * row[b]) for row, a, b, s in zip(log_softmax, own, other, share, strict=True)]
    loss = losses.mixed_cross_entropy(logits, own, other, share)
    assert float(loss) == pytest.approx(float(torch.stack(rows).mean()))
