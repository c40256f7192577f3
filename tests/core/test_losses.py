import math

import pytest
import torch
from torch import nn

from srel_hub.config import Optimizer
from srel_hub.core import losses, optim
from srel_hub.core import metrics as training
from srel_hub.core.seeds import blocks, generator


def test_learning_rate_warms_up_then_follows_a_cosine() -> None:
    spec = Optimizer(lr=0.2, warmup_epochs=5)
    rates = [optim.learning_rate(spec, epoch, 50) for epoch in range(50)]
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    linear = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.01, total_iters=5)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=45)
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [linear, cosine], milestones=[5])
    for rate in rates:
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        schedule.step()


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


@pytest.mark.parametrize(("count", "size"), [(898, 64), (100, 128), (10, 3), (5, 5), (7, 2)])
def test_batches_visit_every_image_once_in_near_equal_shares(count: int, size: int) -> None:
    batches = optim.epoch_batches(count, size, generator(0, "batches"))
    assert sorted(torch.cat(batches).tolist()) == list(range(count))
    assert len(batches) == optim.batch_count(count, size) <= math.ceil(count / size)
    assert max(map(len, batches)) - min(map(len, batches)) <= 1 and min(map(len, batches)) >= 2
    assert max(map(len, batches)) <= size or count % size == 1


@pytest.mark.parametrize(("count", "size", "lengths"), [(10, 4, [4, 4, 2]), (9, 4, [4, 5]), (1, 4, [1]), (4, 4, [4])])
def test_blocks_never_end_in_one(count: int, size: int, lengths: list[int]) -> None:
    assert [len(block) for block in blocks(count, size)] == lengths
    assert [i for block in blocks(count, size) for i in block] == list(range(count))


def test_weight_decay_spares_what_it_should() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    spared = optim.make_optimizer(model, Optimizer(kind="adamw", weight_decay=0.1, decay_all=False))
    decays = {id(p): group["weight_decay"] for group in spared.param_groups for p in group["params"]}
    assert [decays[id(p)] for p in model.parameters()] == [0.1, 0, 0, 0]
    assert {g["weight_decay"] for g in optim.make_optimizer(model, Optimizer(weight_decay=0.1)).param_groups} == {0.1}


def test_hits_among_the_largest_logits() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0], [1.0, 3.0, 2.0]])
    labels = torch.tensor([0, 1, 0])
    assert training.is_in_top_k(logits, labels, 1).tolist() == [True, False, False]
    assert training.is_in_top_k(logits, labels, 2).tolist() == [True, True, False]
    assert training.is_in_top_k(logits, labels, 5).all()
