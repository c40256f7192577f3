"""Weights of torchvision and timm give the logits that these libraries compute.

tests/golden/layouts.json has the names and shapes of their tensors, and the logits of their own networks in float64.
It was written with torchvision 0.29.1 and timm 1.0.31: each network, built with 7 classes, got the weights of
other_weights.py for its own names and shapes, and answered in eval mode for the images that the test below draws.
"""

import functools
import json
from typing import Any

import pytest
import torch
from conftest import ROOT
from other_weights import SIZES, weights
from torch import Tensor

from srel_hub.errors import UserError
from srel_hub.teachers.layouts import convert


GOLDEN: dict[str, dict[str, Any]] = json.loads((ROOT / "tests" / "golden" / "layouts.json").read_text())
NORM = ("weight", "bias", "running_mean", "running_var")


@functools.lru_cache(1)
def weights_of(network: str) -> dict[str, Tensor]:
    golden = GOLDEN[network]
    norms = {f"{layer}.{leaf}": (width,) for layer, width in golden["norms"].items() for leaf in NORM}
    return weights(norms | {name: tuple(shape) for name, shape in golden["tensors"].items()})


def state_of(network: str) -> dict[str, Tensor]:
    """Weights of a network, such as `timm/resnet18`, by that library's names."""
    return dict(weights_of(network))


def architecture_of(network: str) -> str | None:
    """The architecture in timm's config.json; torchvision has none."""
    library, name = network.split("/")
    return name if library == "timm" else None


QUICK = ("torchvision/shufflenet_v2_x0_5", "torchvision/mobilenet_v3_small", "timm/regnety_002", "timm/efficientnet_b0")
NETWORKS = [network if network in QUICK else pytest.param(network, marks=pytest.mark.long) for network in GOLDEN]


@pytest.mark.parametrize("network", NETWORKS)
@torch.no_grad()
def test_the_logits_are_those_of_the_other_library(network: str) -> None:
    model = convert(state_of(network), network, architecture_of(network))[0].double().eval()
    for size in SIZES:
        images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(size), dtype=torch.float64)
        expected = torch.tensor(GOLDEN[network]["logits"][str(size)], dtype=torch.float64)
        assert (model(images).logits - expected).abs().max() <= 1e-6 * expected.abs().max()


SPOILED = {
    "a missing key": lambda state: state.pop(next(name for name in state if name.endswith("running_mean"))),
    "an additional key": lambda state: state.update({"extra.weight": torch.zeros(3)}),
    "another shape": lambda state: state.update({last_norm(state): torch.zeros(3)}),
    "integers": lambda state: state.update({last_norm(state): state[last_norm(state)].long()}),
}


def last_norm(state: dict[str, Tensor]) -> str:
    return [name for name in state if name.endswith("running_var")][-1]


@pytest.mark.parametrize("how", SPOILED)
@pytest.mark.parametrize("network", NETWORKS)
def test_weights_that_differ_are_refused_by_the_key(network: str, how: str) -> None:
    state = state_of(network)
    SPOILED[how](state)
    with pytest.raises(UserError, match="the key "):
        convert(state, network, architecture_of(network))


@pytest.mark.parametrize(
    "architecture",
    [
        "resnetblur18",
        "resnetaa50",
        "resnet18d",
        "seresnet18",
        "resnetrs50",
        "ecaresnet26t",
        "ese_vovnet19b",
        "resnest14d",
    ],
)
def test_an_architecture_whose_tensors_only_look_like_a_resnets_is_refused(architecture: str) -> None:
    with pytest.raises(UserError, match=f"architecture '{architecture}', whose weights look like those of a ResNet"):
        convert(state_of("timm/resnet18"), "weights", architecture)


@pytest.mark.parametrize(
    ("network", "architecture"),
    [
        ("timm/efficientnet_b0", "efficientnet_lite0"),  # lite has no squeeze-and-excitation
        ("timm/efficientnet_lite0", "efficientnet_b0"),
        ("timm/efficientnet_b0", "mobilenetv2_100"),
        ("timm/efficientnet_b0", "mobilenetv3_large_100"),
        ("timm/mobilenetv2_100", "efficientnet_b0"),
        ("timm/mobilenetv2_100", "mobilenetv3_small_100"),
        ("timm/mobilenetv3_small_100", "efficientnet_b0"),
        ("timm/mobilenetv3_large_100", "mobilenetv2_100"),
        ("timm/efficientnet_b0", "efficientnet_es"),
        ("timm/efficientnet_b0", "mnasnet_100"),
        ("timm/efficientnet_b0", "efficientnetv2_s"),
        ("timm/efficientnet_b0", None),
        ("timm/efficientnet_b0", "mobilenetv3_rw"),
        ("timm/efficientnet_b0", "spnasnet_100"),
        ("timm/densenet121", "densenetblur121d"),
        ("timm/regnety_002", "regnetz_b16"),
        ("timm/regnetx_002", "resnet18"),
        ("torchvision/mobilenet_v2", "mobilenet_v3_large"),
        ("torchvision/mobilenet_v3_small", "vit_b_16"),
        ("torchvision/efficientnet_b0", "mobilenet_v2"),
        ("torchvision/shufflenet_v2_x0_5", "resnet18"),
    ],
)
def test_an_architecture_that_contradicts_the_weights_is_refused(network: str, architecture: str | None) -> None:
    with pytest.raises(UserError) as caught:
        convert(state_of(network), "weights", architecture)
    assert all(line.startswith("weights: ") for line in str(caught.value).splitlines())
