"""Image priors: penalties that keep recovered images smooth and small (SRe2L, Yin, Xing & Shen, 2023, section 3.2).

Images of G ipc indices are stacked along the batch axis. Each index gets its own value, the same as if it were computed
alone.
"""

import torch
from torch import Tensor


def l2_prior(x: Tensor, groups: int) -> Tensor:
    """Return R_l2 = mean_i ||x_i||_2 of each ipc index (Mahendran & Vedaldi, 2015, section 3).

    Args:
        x: images [G * B, 3, H, W].
        groups: G.

    Returns:
        [G].
    """
    norms: Tensor = x.flatten(1).norm(dim=1)
    return norms.view(groups, -1).mean(1)


def tv_prior(x: Tensor, groups: int) -> Tensor:
    """Return R_TV of each ipc index: four Frobenius norms of differences between neighboring pixels, summed.

    The neighbors are those to the right, below and on both diagonals. As in SRe2L's code, each norm is taken over all
    images of an index at once, not image by image.

    Args:
        x: images [G * B, 3, H, W].
        groups: G.

    Returns:
        [G].
    """
    x = x.unflatten(0, (groups, -1))
    differences = (
        x[..., :, 1:] - x[..., :, :-1],
        x[..., 1:, :] - x[..., :-1, :],
        x[..., 1:, 1:] - x[..., :-1, :-1],
        x[..., 1:, :-1] - x[..., :-1, 1:],
    )
    return torch.stack([difference.flatten(1).norm(dim=1) for difference in differences]).sum(0)
