"""What recover minimizes: BatchNorm-statistics matching, image priors, and the differentiable crop, flip and roll.

Symbols follow SRe2L (Yin, Xing & Shen, 2023, section 3.2; field practice where its code and text differ). A leading
axis G holds ipc indices that share a forward pass: each has its own statistics, crop, flip and roll, so that a pass
over G stacked indices is the same mathematics as G passes.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


TINY = 1e-12  # a norm below it has no direction


class BatchNormMatch(torch.autograd.Function):
    """A frozen BatchNorm layer that also tells how far its input's statistics are from a goal, for each group.

        y = s (x - mu_l) + beta,  s = gamma / sqrt(var_l + eps)
        r = ||var(x) - var_g||_2 / u_var + ||mu(x) - mu_g||_2 / u_mu

    over channels, with the biased variance and units of 1 (SRe2L, section 3.2) or others (MatchedBatchNorm). The goal
    is the layer's own statistics, or a class's (LPLD). Statistics are at least float32, whatever x is, and are taken
    about mu_g, near which the mean lies, so that nothing cancels. With M values a channel, e_mu and e_var the two
    differences divided by their norms and units,

        dL/dx = s dL/dy + dL/dr (e_mu + 2 (x - mu) e_var) / M

    Args of `apply`: x [G * B, C, H, W] in any memory format; mu_l, var_l, gamma, beta, each [C]; eps; mu_g and var_g,
    each [G or 1, C]; the units (u_mu, u_var) [2]; G.
    Returns: y, as x; r [G].
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        mean: Tensor,
        var: Tensor,
        gamma: Tensor,
        beta: Tensor,
        eps: float,
        goal_mean: Tensor,
        goal_var: Tensor,
        units: Tensor,
        groups: int,
    ) -> tuple[Tensor, Tensor]:
        moved = x.unflatten(0, (groups, -1)) - goal_mean[:, None, :, None, None]
        mean_off = moved.mean((1, 3, 4))
        var_off = moved.square_().mean((1, 3, 4)) - mean_off.square() - goal_var
        off = torch.stack([mean_off, var_off])
        norms, units = off.norm(dim=2), units[:, None]
        ways = off / (norms.clamp(min=TINY) * units)[..., None]
        ctx.save_for_backward(x, mean_off + goal_mean, ways, gamma * torch.rsqrt(var + eps))
        y = F.batch_norm(x, mean, var, gamma, beta, training=False, eps=eps)
        return y, (norms / units).sum(0)

    @staticmethod
    def backward(ctx: Any, y_grad: Tensor, r_grad: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, ways, scale = ctx.saved_tensors
        mean_way, var_way = ways * (r_grad[:, None] / (x.numel() / mean.numel()))
        slope = 2 * var_way
        constant = mean_way - slope * mean
        scale, slope, constant = (each[..., None, None].to(x) for each in (scale, slope[:, None], constant[:, None]))
        x_grad = torch.addcmul(constant, x.unflatten(0, (len(mean), -1)), slope)
        x_grad.addcmul_(y_grad.unflatten(0, (len(mean), -1)), scale)
        return (x_grad.flatten(0, 1), *[None] * 9)


class MatchedBatchNorm(nn.Module):
    """Stands in for a BatchNorm2d layer; `distance` is r [G] of the last pass, over `groups` of consecutive images.

    `goal` is the mean and variance to match, each [G or 1, C]; the layer's own, until it is set otherwise.

    Args:
        relative: measure r by the layer's own statistics, u_var = ||var_l||_2 and u_mu = ||sqrt(var_l)||_2, so that
            it depends neither on how many channels there are nor on the scale of what flows through them.
    """

    distance: Tensor

    def __init__(self, layer: nn.BatchNorm2d, relative: bool = False) -> None:
        super().__init__()
        self.layer, self.groups = layer, 1
        assert layer.running_mean is not None and layer.running_var is not None
        plain = torch.ones_like(layer.running_var), torch.zeros_like(layer.running_mean)
        gamma, beta = (layer.weight, layer.bias) if layer.affine else plain
        units = torch.ones_like(layer.running_var[:1]).expand(2)
        if relative:
            units = torch.stack([layer.running_var.sqrt().norm(), layer.running_var.norm()]).clamp(min=TINY)
        self.goal = layer.running_mean[None], layer.running_var[None]
        self._constants = layer.running_mean, layer.running_var, gamma.detach(), beta.detach(), layer.eps
        self._units = units

    def forward(self, x: Tensor) -> Tensor:
        rest = (*self._constants, *self.goal, self._units, self.groups)
        y, self.distance = BatchNormMatch.apply(x, *rest)  # type: ignore[no-untyped-call]
        return y  # type: ignore[no-any-return]


def batchnorm_layers(model: nn.Module) -> list[nn.BatchNorm2d]:
    """Every BatchNorm2d layer that has running statistics, in module order."""
    return [
        layer
        for layer in model.modules()
        if isinstance(layer, nn.BatchNorm2d)
        and type(layer).forward is nn.BatchNorm2d.forward  # a subclass may do more
        and layer.running_mean is not None
    ]


@contextmanager
def matched(model: nn.Module, relative: bool = False) -> Iterator[list[MatchedBatchNorm]]:
    """Within it, the model's BatchNorm layers tell their distances."""
    names = {module: name for name, module in model.named_modules()}
    found = {names[layer]: MatchedBatchNorm(layer, relative) for layer in batchnorm_layers(model)}
    for name, stand_in in found.items():
        model.set_submodule(name, stand_in)
    try:
        yield list(found.values())
    finally:
        for name, stand_in in found.items():
            model.set_submodule(name, stand_in.layer)


def bn_loss(distances: Sequence[Tensor], first_factor: float, relative: bool = False) -> Tensor:
    """R_BN = sum_l w_l r_l, w_1 = first_factor, w_l = 1 after it.

    SRe2L, section 3.2, with the first layer's factor of its code; norms over channels are not squared, layers are
    summed, not averaged: the term grows with depth and width. `relative` divides it by sum_l w_l, for distances that
    are relative too.

    Args:
        distances: r_l [G] of every layer (BatchNormMatch).

    Returns:
        [G], one value an ipc index.
    """
    total = torch.stack([first_factor * distances[0], *distances[1:]]).sum(0)
    return total / (first_factor + len(distances) - 1) if relative else total
