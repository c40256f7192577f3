"""Random weights under the names that torchvision and timm give them, the same on every machine."""

import math
import zlib
from collections.abc import Mapping

import torch
from torch import Tensor


SIZES = (64, 95)  # pixels; an odd size shows how a network pads before it subsamples


def weights(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Return float32 tensors of these names and shapes, whose values depend on the name alone."""
    return {name: _values(name, shape) for name, shape in shapes.items()}


def _values(name: str, shape: tuple[int, ...]) -> Tensor:
    draw = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    if name.endswith("running_var"):
        return 0.5 + torch.rand(shape, generator=draw)
    noise = torch.randn(shape, generator=draw)
    if name.endswith(("bias", "running_mean")):
        return 0.1 * noise
    if len(shape) == 1:  # the factors of a BatchNorm
        return 1 + 0.1 * noise
    return noise * math.sqrt(2 / math.prod(shape[1:]))
