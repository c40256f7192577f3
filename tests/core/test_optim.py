"""The learning-rate schedule, the batches of an epoch, and weight decay."""

import math

import pytest
import torch
from torch import nn

from srel_hub.config import Optimizer
from srel_hub.core import optim
from srel_hub.core.seeds import generator


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


@pytest.mark.parametrize(("count", "size"), [(898, 64), (100, 128), (10, 3), (5, 5), (7, 2)])
def test_batches_visit_every_image_once_in_near_equal_shares(count: int, size: int) -> None:
    batches = optim.epoch_batches(count, size, generator(0, "batches"))
    assert sorted(torch.cat(batches).tolist()) == list(range(count))
    assert len(batches) == optim.batch_count(count, size) <= math.ceil(count / size)
    assert max(map(len, batches)) - min(map(len, batches)) <= 1 and min(map(len, batches)) >= 2
    assert max(map(len, batches)) <= size or count % size == 1


def test_weight_decay_skips_biases_and_normalizations() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    skipped = optim.make_optimizer(model, Optimizer(kind="adamw", weight_decay=0.1, decay_all=False))
    decays = {id(p): group["weight_decay"] for group in skipped.param_groups for p in group["params"]}
    assert [decays[id(p)] for p in model.parameters()] == [0.1, 0, 0, 0]
    assert {g["weight_decay"] for g in optim.make_optimizer(model, Optimizer(weight_decay=0.1)).param_groups} == {0.1}
