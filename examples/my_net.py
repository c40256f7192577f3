"""A network of your own, as a teacher or student (docs/guides/teachers.md).

srel-hub condense quickstart run.imports=[my_net] "squeeze.network={factory: my_net:build}"
"""

from torch import nn


def build(num_classes: int) -> nn.Module:
    """Return an untrained network from images [B, 3, H, W] to logits [B, num_classes]."""

    def block(inner: int, outer: int) -> tuple[nn.Module, ...]:
        return nn.Conv2d(inner, outer, 3, padding=1, bias=False), nn.BatchNorm2d(outer), nn.ReLU()

    return nn.Sequential(
        *block(3, 16), *block(16, 32), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, num_classes)
    )
