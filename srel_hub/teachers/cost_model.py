"""Estimate the cost of a step of a stage: run the stage's own code on torch's meta device, and count.

Tensors on the meta device have shapes but no content, so a step of any size takes no memory and little time.
"""

import copy
import functools
import time
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from srel_hub.config import Augment, Network, Optimizer
from srel_hub.core.augment import normalize, render, sample_views
from srel_hub.core.engine import DTYPES
from srel_hub.core.losses import distillation_loss, mixed_cross_entropy
from srel_hub.core.metrics import prediction_batch
from srel_hub.core.optim import descend, make_optimizer
from srel_hub.storage.safetensors_writer import file_bytes
from srel_hub.teachers import architectures
from srel_hub.teachers.class_subset import complete_network


META = torch.device("meta")
# glibc's malloc keeps blocks of up to 32 MiB in a heap that shrinks only at its top. ResNet-18 at 64 pixels therefore
# used 1.5 to 2.4 times the memory of its live tensors. With every block mapped separately it used no more than that,
# but took 1.5 times as long.
HEAP_BYTES, HEAP_FACTOR = 32 * 1024**2, 1.8
SAMPLED_VIEWS = 1000  # the memory of more views is extrapolated
MATMUL_SIDE, MATMUL_SECONDS = {"cpu": 1024, "cuda": 8192}, 0.2


@dataclass(frozen=True)
class Cost:
    """The cost of one step.

    Attributes:
        flops: floating-point operations; a multiply-add counts as two.
        memory: peak bytes of tensors that were created, without those on the heap.
        heap: peak bytes of tensors on the heap of a CPU (HEAP_BYTES); their real memory is HEAP_FACTOR times that.
    """

    flops: int
    memory: int
    heap: int


def build_on_meta(network: Network, num_classes: int, size: tuple[int, int]) -> nn.Module:
    """Return a frozen network on the meta device, for images of `size` (height, width)."""
    with META:
        built: nn.Module = architectures.build(network, [str(index) for index in range(num_classes)], size, seed=0)
    return built.to(META).requires_grad_(False)  # an own network is built on the CPU


def on_meta(network: nn.Module) -> nn.Module:
    """Return a frozen copy of a network on the meta device."""
    # Given to deepcopy as already copied, so that the weights themselves are never copied.
    copies: dict[int, Any] = {
        id(parameter): nn.Parameter(parameter.detach().to(META), requires_grad=False)
        for parameter in network.parameters()
    }
    copies |= {id(buffer): buffer.to(META) for buffer in network.buffers()}
    return copy.deepcopy(network, copies)


def in_precision(network: nn.Module, precision: str) -> nn.Module:
    """Return a copy with weights in the given precision, because autocast does not support the meta device."""
    return copy.deepcopy(network).to(DTYPES[precision])


def weights_bytes(network: nn.Module) -> int:
    """Return the size of the model.safetensors that `classifier.save` writes."""
    layout = {
        name: (f"{'F' if tensor.is_floating_point() else 'I'}{8 * tensor.itemsize}", tuple(tensor.shape))
        for name, tensor in complete_network(network).state_dict().items()
    }
    return file_bytes(layout, {"format": "pt"})


class _CostMode(TorchDispatchMode):
    """Counts FLOPs, and the bytes of live tensors that were created while it is active.

    Tensors on the meta device represent those on the run's device. Other tensors are on the CPU, and are not counted if
    the run's device is a GPU.

    Attributes:
        flops: the number of FLOPs so far.
        peaks: peak bytes of tensors on the heap (True) and of other tensors (False).
    """

    def __init__(self, kind: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._is_host = kind == "cpu"
        self.flops = 0
        self._now, self.peaks = {True: 0, False: 0}, {True: 0, False: 0}
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and account for it."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func.overloadpacket in flop_registry:
            self.flops += flop_registry[func.overloadpacket](*args, **kwargs, out_val=result)
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and (self._is_host or tensor.is_meta):
                self._follow(tensor.untyped_storage())
        return result

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:  # a view shares the storage of another tensor
            self._known.add(key)
            on_heap = self._is_host and size <= HEAP_BYTES
            self._now[on_heap] += size
            self.peaks[on_heap] = max(self.peaks[on_heap], self._now[on_heap])
            weakref.finalize(storage, self._forget, key, on_heap, size)

    def _forget(self, key: int, on_heap: bool, size: int) -> None:
        self._known.discard(key)
        self._now[on_heap] -= size


def measure_cost(two_steps: Iterable[object], kind: str) -> Cost:
    """Return the cost of one of two equal steps.

    The first step creates the optimizer's state. The second step has this state, as all later steps do, so its peak is
    correct.

    Args:
        two_steps: an iterable that runs a step for each of its two items.
        kind: of the device, 'cpu' or 'cuda'.
    """
    mode = _CostMode(kind)
    with torch.random.fork_rng(devices=[]), mode:
        for _ in two_steps:
            pass
    return Cost(mode.flops // 2, mode.peaks[False], mode.peaks[True])


def training_steps(
    network: nn.Module,
    optimizer: Optimizer,
    augment: Augment,
    batch: int,
    size: tuple[int, int],
    labeller: nn.Module | None = None,
) -> Iterator[None]:
    """Run two training steps of squeeze or evaluate.

    Args:
        network: on the meta device.
        optimizer: the recipe's section.
        augment: the recipe's section.
        batch: images per step.
        size: (height, width) of the images, in pixels.
        labeller: a teacher on the meta device that computes the labels of each batch; None for hard labels.

    Yields:
        None after each step.
    """
    model = copy.deepcopy(network).requires_grad_(True).train()
    stepper = make_optimizer(model, optimizer)
    labels, shares = (torch.zeros(batch, dtype=kind, device=META) for kind in (torch.int64, torch.float32))
    for _ in range(2):
        x = _pixel_values(augment, batch, size).to(next(model.parameters()).dtype)
        if labeller is None:
            loss = mixed_cross_entropy(model(x).logits, labels, labels, shares)
        else:
            with torch.no_grad():
                logits = labeller(x).logits
            loss = distillation_loss(model(x).logits, logits, 1.0, squared=False)
        descend(stepper, loss)
        yield


@torch.no_grad()
def inference_steps(network: nn.Module, augment: Augment | None, batch: int, size: tuple[int, int]) -> Iterator[object]:
    """Run two forward passes, as relabel does, or with `augment` None on whole images, as scoring does.

    Yields:
        the network's output of each batch.
    """
    for _ in range(2):
        yield network.eval()(_pixel_values(augment, batch, size).to(next(network.parameters()).dtype))


def _pixel_values(augment: Augment | None, batch: int, size: tuple[int, int]) -> Tensor:
    """Return normalized images float32 [batch, 3, H, W] on the meta device, augmented, or whole without `augment`."""
    images = torch.empty(batch, 3, *size, dtype=torch.uint8, device=META)
    if augment is not None:
        views = sample_views(augment, batch, size, torch.Generator()).to(META)
        images = render(images, views, torch.arange(batch))
    return normalize(images, torch.empty(3, 256, device=META))


def drawing_cost(augment: Augment, count: int, size: tuple[int, int], kind: str) -> Cost:
    """Return the cost of drawing an epoch's views of `count` images, which are drawn on the host."""
    if kind == "cuda":
        return Cost(0, 0, 0)
    sampled = min(count, SAMPLED_VIEWS)
    cost = measure_cost((sample_views(augment, sampled, size, torch.Generator()) for _ in range(2)), kind="cpu")
    drawn = (cost.memory + cost.heap) * count // sampled
    return Cost(0, 0, drawn) if drawn <= HEAP_BYTES else Cost(0, drawn, 0)


def scoring_cost(network: nn.Module, count: int, size: tuple[int, int], kind: str) -> Cost:
    """Return the cost of one batch when a network is scored on `count` whole images (metrics.predictions)."""
    batch = min(count, prediction_batch(size))
    return measure_cost(inference_steps(network, None, batch, size), kind)


def state_bytes(network: nn.Module) -> int:
    """Return the bytes of a network's weights and buffers in memory."""
    return sum(tensor.nbytes for tensor in network.state_dict().values())


@functools.cache
def matmul_tflops(kind: str, precision: str) -> float:
    """Measure the speed of square matrix products on this machine, in 10^12 floating-point operations per second.

    Args:
        kind: Type of the device: 'cpu' or 'cuda'.
        precision: 'float32' or 'bfloat16'.
    """
    side = MATMUL_SIDE[kind]
    a = torch.ones(side, side, device=kind, dtype=DTYPES[precision])
    float((a @ a)[0, 0])  # the first product starts CUDA and cuBLAS: measured with it, an H200 had half its speed
    begun, done = time.monotonic(), 0
    while time.monotonic() - begun < MATMUL_SECONDS:
        float((a @ a)[0, 0])  # reading it waits for the device
        done += 1
    return 2 * side**3 * done / (time.monotonic() - begun) / 1e12
