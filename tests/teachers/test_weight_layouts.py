"""torchvision's ResNet layout against a forward pass written from the paper and torchvision's names alone."""

from pathlib import Path

import pytest
import torch
from reference_resnet import forward, random_state
from safetensors.torch import save_file

from srel_hub.config import Pretrained
from srel_hub.errors import UserError
from srel_hub.teachers.layouts import convert
from srel_hub.teachers.pretrained import load_pretrained


LAYOUTS = {
    "resnet18": ([2, 2, 2, 2], 2),
    "resnet34": ([3, 4, 6, 3], 2),
    "resnet50": ([3, 4, 6, 3], 3),
    "resnet101": ([3, 4, 23, 3], 3),
}


@pytest.mark.parametrize("name", LAYOUTS)
@torch.no_grad()
def test_the_converted_network_answers_as_the_torchvision_layout_does(name: str) -> None:
    state = random_state(*LAYOUTS[name])
    model = convert(state, name)[0].eval()
    x = torch.randn(2, 3, 64, 64)
    expected, answer = forward(state, x), model(x).logits
    assert (answer - expected).abs().max() <= 1e-5 * expected.abs().max()
    exact, answer = forward(state, x.double()), model.double()(x.double()).logits
    assert (answer - exact).abs().max() <= 1e-10 * exact.abs().max()


@pytest.mark.parametrize("convolutions", [2, 3])
def test_a_missing_an_extra_and_a_misshapen_key_are_named_at_once(convolutions: int) -> None:
    state = random_state([1, 2, 1, 1], convolutions, base=8)
    del state["layer2.1.conv1.weight"]
    state["layer1.0.se.weight"] = torch.zeros(3)
    state["layer3.0.bn2.bias"] = torch.zeros(5)
    with pytest.raises(UserError) as caught:
        convert(state, "weights")
    problems = str(caught.value).splitlines()
    assert problems == [
        "weights: the key layer2.1.conv1.weight is missing",
        "weights: the key layer1.0.se.weight is not part of a ResNet",
        "weights: the key layer3.0.bn2.bias has the shape [5], expected [32]",
    ]


@pytest.mark.parametrize("key", ["conv1.weight", "fc.weight", "layer4.0.conv2.weight"])
def test_a_missing_key_that_defines_the_layout_is_named(key: str) -> None:
    state = random_state([1, 1, 1, 1], 2, base=8)
    del state[key]
    with pytest.raises(UserError, match=f"the key {key} is missing"):
        convert(state, "weights")


def test_counters_may_be_missing_and_half_precision_becomes_float32() -> None:
    state = {name: t for name, t in random_state([1, 1, 1, 1], 2, base=8).items() if not name.endswith("tracked")}
    model, _ = convert({name: tensor.half() for name, tensor in state.items()}, "weights")
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_a_resnet_with_layer_norms_is_refused_by_name(tmp_path: Path) -> None:
    state = random_state([1, 1, 1, 1], 2, base=8)
    state = {n: t for n, t in state.items() if not n.endswith(("running_mean", "running_var", "tracked"))}
    save_file(state, tmp_path / "layernorm.safetensors")
    with pytest.raises(UserError, match="a ResNet without BatchNorm statistics .*LayerNorm or GroupNorm"):
        load_pretrained(Pretrained(path=str(tmp_path / "layernorm.safetensors")), "squeeze.pretrained")
