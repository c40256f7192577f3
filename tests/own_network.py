"""The file of a user's own network, and a folder in which a user works with it."""

import contextlib
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from srel_hub.models import own


TEMPORARY = str(Path(tempfile.gettempdir()).resolve())
NOT_THE_USERS = (sys.prefix, sys.base_prefix, str(Path(__file__).parent.parent))  # also if they are temporary

MY_NET = '''"""My network."""

import torch
from torch import Tensor, nn


class MyNet(nn.Module):
    """Two convolutions with BatchNorm, a constant that is not stored with the weights, and a linear layer."""

    def __init__(self, num_classes: int = 3, width: int = 8) -> None:
        super().__init__()
        layers = []
        for inner, outer in ((3, width), (width, width)):
            layers += [nn.Conv2d(inner, outer, 3, padding=1, bias=False), nn.BatchNorm2d(outer), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.register_buffer("scale", torch.full((1,), 3.0), persistent=False)
        self.rates = [rate.item() for rate in torch.linspace(0, 0.1, 3)]
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)) * self.scale)


def build(num_classes: int) -> nn.Module:
    return MyNet(num_classes)
'''


@contextmanager
def forgetting_own_code() -> Iterator[None]:
    """Afterwards, the user's modules that were imported meanwhile are forgotten, and no longer allowed."""
    allowed, modules = dict(own._ALLOWED), set(sys.modules)
    try:
        yield
    finally:
        own._ALLOWED.clear()
        own._ALLOWED.update(allowed)
        for name in set(sys.modules) - modules:
            if _is_users(sys.modules[name]):
                del sys.modules[name]


def _is_users(module: object) -> bool:
    """Whether a module is neither installed nor in this repository. All folders of users in tests are temporary."""
    file = str(getattr(module, "__file__", None))
    return file.startswith(TEMPORARY) and not file.startswith(NOT_THE_USERS)


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Work in a folder, and forget the code that was imported from it."""
    with contextlib.chdir(folder), forgetting_own_code():
        yield
