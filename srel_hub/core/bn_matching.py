"""Matching of BatchNorm statistics: the distance between a batch's statistics and a goal, with its gradient.

Symbols follow SRe2L (Yin, Xing & Shen, 2023, section 3.2; field practice where its code and text differ). A leading
axis G holds groups, such as ipc indices, that share a forward pass. Each group has its own statistics, so one pass over
G stacked groups is the same mathematics as G passes.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


TINY = 1e-12  # a norm below this has no direction, and its gradient is set to 0 instead of 0 / 0

Goal = tuple[Tensor, Tensor]  # mean and variance to match, each [C], or [G or 1, C] for groups


class BatchNormMatch(torch.autograd.Function):
    """A frozen BatchNorm layer that also returns, per group, the distance of its input's statistics from a goal.

        y = s (x - mu_l) + beta,  s = gamma / sqrt(var_l + eps)
        r = ||var(x) - var_g||_2 / u_var + ||mu(x) - mu_g||_2 / u_mu

    over channels, with the biased variance. The units u_var and u_mu are 1 (SRe2L, section 3.2) or those of
    MatchedBatchNorm. The goal is the layer's own statistics, or those of a class (LPLD). With M values per channel, and
    e_mu and e_var the two differences divided by their norms and units,

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
        """Normalize, and measure the distances. Statistics are at least float32, whatever x is."""
        # Taken about mu_g, near which the mean is, so that the difference of squares does not cancel.
        centered = x.unflatten(0, (groups, -1)) - goal_mean[:, None, :, None, None]
        mean_error = centered.mean((1, 3, 4))
        var_error = centered.square_().mean((1, 3, 4)) - mean_error.square() - goal_var
        errors = torch.stack([mean_error, var_error])
        norms, units = errors.norm(dim=2), units[:, None]
        directions = errors / (norms.clamp(min=TINY) * units)[..., None]  # e_mu and e_var, [2, G, C]
        ctx.save_for_backward(x, mean_error + goal_mean, directions, gamma * torch.rsqrt(var + eps))
        y = F.batch_norm(x, mean, var, gamma, beta, training=False, eps=eps)
        return y, (norms / units).sum(0)

    @staticmethod
    def backward(ctx: Any, y_grad: Tensor, r_grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of x, which is linear in x and dL/dy."""
        x, mean, directions, scale = ctx.saved_tensors
        e_mu, e_var = directions * (r_grad[:, None] / (x.numel() / mean.numel()))  # dL/dr / M
        slope = 2 * e_var
        offset = e_mu - slope * mean
        # In float32 and rounded once. With coefficients in bfloat16, offset and slope cancel badly: the error of the
        # gradient was 0.7 % at abs(mean) / std = 3 and 1.7 % at 10, against 0.17 % this way (measured).
        scale, slope, offset = (values[..., None, None] for values in (scale, slope[:, None], offset[:, None]))
        x_grad = torch.addcmul(offset, x.unflatten(0, (len(mean), -1)), slope)
        x_grad.addcmul_(y_grad.unflatten(0, (len(mean), -1)), scale)
        return (x_grad.flatten(0, 1).to(x.dtype), *[None] * 9)


class MatchedBatchNorm(nn.Module):
    """A BatchNorm2d layer whose forward pass also measures the distance of its input's statistics from a goal.

    Args:
        layer: A layer with running statistics, which are the default goal.
        relative: Measure r in units of the layer's own statistics, u_var = ||var_l||_2 and u_mu = ||sqrt(var_l)||_2,
            so that it depends neither on the number of channels nor on the scale of the layer's input.
    """

    def __init__(self, layer: nn.BatchNorm2d, relative: bool = False) -> None:
        super().__init__()
        assert layer.running_mean is not None and layer.running_var is not None
        self.layer = layer
        identity = torch.ones_like(layer.running_var), torch.zeros_like(layer.running_mean)
        gamma, beta = (layer.weight, layer.bias) if layer.affine else identity
        units = torch.ones_like(layer.running_var[:1]).expand(2)
        if relative:
            units = torch.stack([layer.running_var.sqrt().norm(), layer.running_var.norm()]).clamp(min=TINY)
        self._constants = layer.running_mean, layer.running_var, gamma.detach(), beta.detach(), layer.eps
        self._own = layer.running_mean[None], layer.running_var[None]
        self._units = units
        self._goal, self._groups = self._own, 1
        self._distance: Tensor | None = None

    def expect(self, groups: int, goal: Goal | None) -> None:
        """Set the number of groups and the goal of the next pass. A goal of None means the layer's own statistics."""
        self._groups, self._goal = groups, goal or self._own

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x [G * B, C, H, W] as the frozen layer does."""
        y, self._distance = BatchNormMatch.apply(  # type: ignore[no-untyped-call]
            x, *self._constants, *self._goal, self._units, self._groups
        )
        return y  # type: ignore[no-any-return]

    def take_distance(self) -> Tensor:
        """Return r [G] of the last pass and clear it, so that it is not mistaken for that of a later pass."""
        distance, self._distance = self._distance, None
        assert distance is not None, "the network did not use this layer"
        return distance


class MatchedNetwork:
    """A network whose call returns its logits and the distances of its BatchNorm layers' statistics.

    Args:
        model: A transformers classifier, inside `matched`.
        layers: Its matched layers, in module order.
    """

    def __init__(self, model: nn.Module, layers: Sequence[MatchedBatchNorm]) -> None:
        self.model, self.layers = model, layers

    def __call__(self, x: Tensor, groups: int, goals: Sequence[Goal] | None = None) -> tuple[Tensor, list[Tensor]]:
        """Run the network.

        Args:
            x: Pixel values [G * B, 3, H, W].
            groups: G, the number of groups of consecutive images.
            goals: The mean and variance that each layer must match, each [G or 1, C]; None matches the layers' own
                statistics.

        Returns:
            Logits [G * B, K], and the distance r [G] of each layer.
        """
        for index, layer in enumerate(self.layers):
            layer.expect(groups, None if goals is None else goals[index])
        logits = self.model(x).logits
        return logits, [layer.take_distance() for layer in self.layers]


def batchnorm_layers(model: nn.Module) -> list[nn.BatchNorm2d]:
    """Return every BatchNorm2d layer that has running statistics, in module order."""
    return [
        layer
        for layer in model.modules()
        if isinstance(layer, nn.BatchNorm2d)
        and type(layer).forward is nn.BatchNorm2d.forward  # a subclass may compute something else
        and layer.running_mean is not None
    ]


@contextmanager
def matched(model: nn.Module, relative: bool = False) -> Iterator[MatchedNetwork]:
    """Replace the model's BatchNorm layers by MatchedBatchNorm inside the `with` block."""
    names = {module: name for name, module in model.named_modules()}
    replacements = {names[layer]: MatchedBatchNorm(layer, relative) for layer in batchnorm_layers(model)}
    for name, replacement in replacements.items():
        model.set_submodule(name, replacement)
    try:
        yield MatchedNetwork(model, list(replacements.values()))
    finally:
        for name, replacement in replacements.items():
            model.set_submodule(name, replacement.layer)


def bn_loss(distances: Sequence[Tensor], first_factor: float, relative: bool = False) -> Tensor:
    """Compute R_BN = sum_l w_l r_l with w_1 = first_factor and w_l = 1 after it (SRe2L, section 3.2).

    The first layer's factor is that of SRe2L's code. Norms over channels are not squared, and layers are summed, not
    averaged, so the term grows with depth and width.

    Args:
        distances: r_l [G] of every layer (BatchNormMatch).
        first_factor: w_1.
        relative: Divide by sum_l w_l. Use it with relative distances (MatchedBatchNorm).

    Returns:
        [G], one value for each group.
    """
    total = torch.stack([first_factor * distances[0], *distances[1:]]).sum(0)
    return total / (first_factor + len(distances) - 1) if relative else total
