"""A ResNet written from the paper, with weights under torchvision's names."""

import torch
import torch.nn.functional as F
from torch import Tensor


State = dict[str, Tensor]


def random_state(blocks: list[int], convolutions: int, classes: int = 7, base: int = 64, seed: int = 0) -> State:
    """Weights under torchvision's names; running statistics far from 0 and 1."""
    draw = torch.Generator().manual_seed(seed)
    state: State = {}

    def convolution(name: str, outer: int, inner: int, side: int) -> None:
        fan = inner * side * side
        state[f"{name}.weight"] = torch.randn(outer, inner, side, side, generator=draw) * (2 / fan) ** 0.5

    def norm(name: str, channels: int) -> None:
        state[f"{name}.weight"] = 0.2 + torch.rand(channels, generator=draw)
        state[f"{name}.bias"] = torch.randn(channels, generator=draw)
        state[f"{name}.running_mean"] = 3 * torch.randn(channels, generator=draw)
        state[f"{name}.running_var"] = 0.1 + 9 * torch.rand(channels, generator=draw)
        state[f"{name}.num_batches_tracked"] = torch.tensor(1000)

    convolution("conv1", base, 3, 7)
    norm("bn1", base)
    expansion, inner = (4 if convolutions == 3 else 1), base
    for stage, count in enumerate(blocks):
        width = base * 2**stage
        for block in range(count):
            name = f"layer{stage + 1}.{block}"
            outer = width * expansion
            shapes = [(width, inner, 3), (width, width, 3)]
            if convolutions == 3:
                shapes = [(width, inner, 1), (width, width, 3), (outer, width, 1)]
            for index, shape in enumerate(shapes):
                convolution(f"{name}.conv{index + 1}", *shape)
                norm(f"{name}.bn{index + 1}", shape[0])
            if inner != outer or (block == 0 and stage > 0):
                convolution(f"{name}.downsample.0", outer, inner, 1)
                norm(f"{name}.downsample.1", outer)
            inner = outer
    state["fc.weight"] = torch.randn(classes, inner, generator=draw) / inner**0.5
    state["fc.bias"] = torch.randn(classes, generator=draw)
    return state


def forward(state: State, x: Tensor) -> Tensor:
    """He et al. (2016), torchvision's variant: a bottleneck's stride is in its 3x3 convolution."""

    def norm(name: str, x: Tensor) -> Tensor:
        mean, var, weight, bias = (
            state[f"{name}.{part}"].to(x)[:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    def convolution(name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = state[f"{name}.weight"].to(x)
        return F.conv2d(x, weight, stride=stride, padding=weight.shape[2] // 2)

    x = F.max_pool2d(norm("bn1", convolution("conv1", x, 2)).relu(), 3, 2, 1)
    for stage in range(1, 5):
        block = 0
        while f"layer{stage}.{block}.conv1.weight" in state:
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            deep = f"{name}.conv3.weight" in state
            y = norm(f"{name}.bn1", convolution(f"{name}.conv1", x, 1 if deep else stride)).relu()
            y = norm(f"{name}.bn2", convolution(f"{name}.conv2", y, stride if deep else 1))
            if deep:
                y = norm(f"{name}.bn3", convolution(f"{name}.conv3", y.relu()))
            if f"{name}.downsample.0.weight" in state:
                x = norm(f"{name}.downsample.1", convolution(f"{name}.downsample.0", x, stride))
            x, block = (x + y).relu(), block + 1
    return F.linear(x.mean((2, 3)), state["fc.weight"].to(x), state["fc.bias"].to(x))
