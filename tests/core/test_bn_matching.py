"""The gradient of BatchNorm matching."""

import pytest
import torch
from torch import Tensor

from srel_hub.core.bn_matching import BatchNormMatch


def gradient(x: Tensor, mean: float) -> Tensor:
    """Return the gradient of the distance from mean and variance 1, in float64."""
    x, dtype = x.clone().requires_grad_(True), torch.promote_types(x.dtype, torch.float32)
    means, ones = (torch.full((x.shape[1],), value, dtype=dtype) for value in (mean, 1.0))
    _, distance = BatchNormMatch.apply(  # type: ignore[no-untyped-call]
        x, means, ones, ones, torch.zeros_like(ones), 1e-5, means[None], ones[None], ones[:2], 1
    )
    distance.sum().backward()
    assert x.grad is not None and x.grad.dtype == x.dtype
    return x.grad.double()


@pytest.mark.parametrize("mean", [0.0, 3.0, 10.0])
def test_a_bfloat16_gradient_is_rounded_once(mean: float) -> None:
    """One rounding to 8 bits has a relative error of about 0.17 %, however far the mean is from 0."""
    draw = torch.Generator().manual_seed(0)
    x = (1.1 * torch.randn(32, 16, 8, 8, generator=draw) + mean + 0.2).bfloat16()
    error = gradient(x, mean) - gradient(x.double(), mean)
    assert error.norm() / gradient(x.double(), mean).norm() < 0.0025
