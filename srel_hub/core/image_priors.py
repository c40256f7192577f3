"""core.image_priors."""

import torch
from torch import Tensor


def l2_prior(x: Tensor, groups: int) -> Tensor:
    """[G]: R_l2 = mean_i ||x_i||_2 (SRe2L, section 3.2; Mahendran & Vedaldi, 2015)."""
    norms: Tensor = x.flatten(1).norm(dim=1)
    return norms.view(groups, -1).mean(1)


def tv_prior(x: Tensor, groups: int) -> Tensor:
    """[G]: R_TV, the sum of the Frobenius norms of the batch's differences to the right, down and both diagonals."""
    x = x.unflatten(0, (groups, -1))
    differences = (
        x[..., :, 1:] - x[..., :, :-1],
        x[..., 1:, :] - x[..., :-1, :],
        x[..., 1:, 1:] - x[..., :-1, :-1],
        x[..., 1:, :-1] - x[..., :-1, 1:],
    )
    return torch.stack([difference.flatten(1).norm(dim=1) for difference in differences]).sum(0)
