"""What recover minimises: BatchNorm-statistics matching, image priors, and the differentiable crop, flip and roll.

Symbols follow SRe2L (Yin, Xing & Shen, 2023, section 3.2; field practice where its code and text differ). A leading
axis G holds ipc indices that share a forward pass: each has its own statistics, crop, flip and roll, so that a pass
over G stacked indices is the same mathematics as G passes.
"""

from collections.abc import Sequence
from types import TracebackType

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BatchNormInputs:
    """Collects the inputs of the BatchNorm2d layers with running statistics, in module order, at each forward pass."""

    def __init__(self, model: nn.Module) -> None:
        layers = (module for module in model.modules() if isinstance(module, nn.BatchNorm2d))
        self.layers = [layer for layer in layers if layer.running_mean is not None]
        self._inputs: dict[int, Tensor] = {}
        self._handles = [
            layer.register_forward_pre_hook(lambda _, args, index=index: self._inputs.__setitem__(index, args[0]))
            for index, layer in enumerate(self.layers)
        ]

    def take(self) -> list[Tensor]:
        """The inputs [N, C, H, W] of the last pass, one a layer; they are let go of here."""
        inputs = [self._inputs[index] for index in range(len(self.layers))]
        self._inputs.clear()
        return inputs

    def running(self) -> list[tuple[Tensor, Tensor]]:
        """(mean, variance), each [C], that every layer gathered over the real training set."""
        return [(layer.running_mean, layer.running_var) for layer in self.layers]  # type: ignore[misc]

    def __enter__(self) -> "BatchNormInputs":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()


def batch_statistics(x: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over (N, H, W) of each group of consecutive images.

    Args:
        x: [G * B, C, H, W], a BatchNorm layer's input.

    Returns:
        mean [G, C], variance [G, C].
    """
    var, mean = torch.var_mean(x.unflatten(0, (groups, -1)), dim=(1, 3, 4), correction=0)
    return mean, var


def bn_loss(
    inputs: Sequence[Tensor], running: Sequence[tuple[Tensor, Tensor]], first_factor: float, groups: int
) -> Tensor:
    """R_BN = sum_l w_l (||mu_l(x) - mu_l||_2 + ||var_l(x) - var_l||_2), w_1 = first_factor, w_l = 1 after it.

    SRe2L, section 3.2, with the first layer's factor of its code; norms over channels are not squared, layers are
    summed, not averaged.

    Returns:
        [G], one value an ipc index.
    """
    terms = []
    for layer, (x, (running_mean, running_var)) in enumerate(zip(inputs, running, strict=True)):
        mean, var = batch_statistics(x, groups)
        weight = first_factor if layer == 0 else 1.0
        terms.append(weight * ((var - running_var).norm(dim=1) + (mean - running_mean).norm(dim=1)))
    return torch.stack(terms).sum(0)


def classification_loss(logits: Tensor, labels: Tensor, groups: int) -> Tensor:
    """[G]: the mean cross-entropy of each ipc index (SRe2L, section 3.2)."""
    losses: Tensor = F.cross_entropy(logits, labels, reduction="none").unflatten(0, (groups, -1))
    return losses.mean(1)


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


def view_matrices(start: Tensor, length: Tensor, flip: Tensor, shift: Tensor, size: int) -> Tensor:
    """Crop, bilinear enlargement, flip and roll along one axis, as one linear map per ipc index.

    The enlargement is F.interpolate's (bilinear, align_corners=False); the roll is torch.roll's, after the flip.

    Args:
        start, length: int64 [G], the crop along this axis.
        flip: bool [G].
        shift: int64 [G], in pixels.

    Returns:
        float64 [G, size, size], output by source pixel.
    """
    output = torch.arange(size)
    source = (output - shift[:, None]) % size
    source = torch.where(flip[:, None], size - 1 - source, source)
    position = ((2 * source + 1).double() * length[:, None] / (2 * size) - 0.5).clamp(min=0)
    left = position.floor().long().minimum(length[:, None] - 1)
    right = (left + 1).minimum(length[:, None] - 1)
    share = (position - left).clamp(max=1)
    matrix = torch.zeros(len(start), size, size, dtype=torch.float64)
    matrix.scatter_add_(2, (left + start[:, None])[..., None], (1 - share)[..., None])
    return matrix.scatter_add_(2, (right + start[:, None])[..., None], share[..., None])


def view(x: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """Apply one pair of maps to all images of an ipc index: x [G, B, 3, H, W] to [G * B, 3, H, W]."""
    return torch.einsum("ghi,gbciw,gvw->gbchv", down, x, across).flatten(0, 1)
