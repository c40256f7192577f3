"""What a step costs: FLOPs and peak memory of the stages' own arithmetic.

Taken on torch's meta device, where tensors have shapes and no content.
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
from srel_hub.teachers import architectures as networks


META = torch.device("meta")
# glibc's malloc keeps blocks of up to 32 MiB in a heap that shrinks at its top only: ResNet-18 at 64 pixels held 1.5
# to 2.4 times what was alive; with every block mapped by itself it held what was alive, and took 1.5 times as long.
HEAP_BYTES, HEAP_FACTOR = 32 * 1024**2, 1.8
SAMPLED_VIEWS = 1000  # whose memory is measured, and scaled
MATMUL_SIDE, MATMUL_SECONDS = {"cpu": 1024, "cuda": 8192}, 0.2


@dataclass(frozen=True)
class Cost:
    """FLOPs (a multiply-add is two), and peak bytes of tensors without the weights, those of the heap apart."""

    flops: int
    memory: int
    heap: int


def build_on_meta(network: Network, num_classes: int, size: tuple[int, int]) -> nn.Module:
    """The network without its weights' content."""
    with META:
        built: nn.Module = networks.build(network, [str(index) for index in range(num_classes)], size, seed=0)
    return built.requires_grad_(False)


def on_meta(network: nn.Module) -> nn.Module:
    """A copy without the weights' content, frozen."""
    hollow: dict[int, Any] = {
        id(parameter): nn.Parameter(parameter.detach().to(META), requires_grad=False)
        for parameter in network.parameters()
    }
    hollow |= {id(buffer): buffer.to(META) for buffer in network.buffers()}
    return copy.deepcopy(network, hollow)


def in_precision(network: nn.Module, precision: str) -> nn.Module:
    """A copy whose weights, and so all it computes, are of this precision: autocast has no meta device."""
    return copy.deepcopy(network).to(DTYPES[precision])


def weights_bytes(network: nn.Module) -> int:
    """Size of the model.safetensors that `teacher.save` writes."""
    layout = {
        name: (f"{'F' if tensor.is_floating_point() else 'I'}{8 * tensor.itemsize}", tuple(tensor.shape))
        for name, tensor in network.state_dict().items()
    }
    return file_bytes(layout, {"format": "pt"})


class _Watch(TorchDispatchMode):
    """Counts FLOPs and follows the bytes of tensors made within it; `peaks` are of those on a host's heap (True) and
    others.

    Tensors on the meta device stand for the run's device, others are a host's, and nothing to a GPU.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._is_host = kind == "cpu"
        self.flops = 0
        self._now, self.peaks = {True: 0, False: 0}, {True: 0, False: 0}
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
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
        if key not in self._known:
            self._known.add(key)
            small = self._is_host and size <= HEAP_BYTES
            self._now[small] += size
            self.peaks[small] = max(self.peaks[small], self._now[small])
            weakref.finalize(storage, self._forget, key, small, size)

    def _forget(self, key: int, small: bool, size: int) -> None:
        self._known.discard(key)
        self._now[small] -= size


def measure_cost(two_steps: Iterable[object], kind: str) -> Cost:
    """What one of two equal steps costs on a device of this kind ('cpu', 'cuda').

    The second finds the optimizer's state, so that the peak is a later one's.
    """
    watch = _Watch(kind)
    with torch.random.fork_rng(devices=[]), watch:
        for _ in two_steps:
            pass
    return Cost(watch.flops // 2, watch.peaks[False], watch.peaks[True])


def training_steps(
    network: nn.Module,
    optimizer: Optimizer,
    augment: Augment,
    batch: int,
    size: tuple[int, int],
    labeller: nn.Module | None = None,
) -> Iterator[None]:
    """Two steps of squeeze or evaluate; with a labeller, on random real images, which are labeled as they come."""
    model = copy.deepcopy(network).requires_grad_(True).train()
    chosen = make_optimizer(model, optimizer)
    labels, shares = (torch.zeros(batch, dtype=kind, device=META) for kind in (torch.int64, torch.float32))
    for _ in range(2):
        x = _shown(augment, batch, size).to(next(model.parameters()).dtype)
        if labeller is None:
            loss = mixed_cross_entropy(model(x).logits, labels, labels, shares)
        else:
            with torch.no_grad():
                logits = labeller(x).logits
            loss = distillation_loss(model(x).logits, logits, 1.0, squared=False)
        descend(chosen, loss)
        yield


@torch.no_grad()
def inference_steps(
    network: nn.Module, augment: Augment | None, batch: int, size: tuple[int, int]
) -> Iterator[object]:
    """Two batches of relabel, or of scoring, which shows images whole."""
    for _ in range(2):
        yield network.eval()(_shown(augment, batch, size).to(next(network.parameters()).dtype))


def _shown(augment: Augment | None, batch: int, size: tuple[int, int]) -> Tensor:
    """float32 [batch, 3, H, W]: normalized images, in random views as every stage shows them, or whole."""
    images = torch.empty(batch, 3, *size, dtype=torch.uint8, device=META)
    if augment is not None:
        views = sample_views(augment, batch, size, torch.Generator()).to(META)
        images = render(images, views, torch.arange(batch))
    return normalize(images, torch.empty(3, 256, device=META))


def drawing_cost(augment: Augment, count: int, size: tuple[int, int]) -> Cost:
    """The drawing of an epoch's views."""
    some = min(count, SAMPLED_VIEWS)
    found = measure_cost((sample_views(augment, some, size, torch.Generator()) for _ in range(2)), kind="cpu")
    return Cost(0, 0, found.memory * count // some)


def scoring_cost(network: nn.Module, count: int, size: tuple[int, int], kind: str) -> Cost:
    """A batch of `count` whole images that a network is scored on (training.predictions)."""
    batch = min(count, prediction_batch(size))
    return measure_cost(inference_steps(network, None, batch, size), kind)


def state_bytes(network: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in network.state_dict().values())


@functools.cache
def matmul_tflops(kind: str, precision: str) -> float:
    """How fast this machine multiplies square matrices, in 10^12 operations a second."""
    side = MATMUL_SIDE[kind]
    a = torch.ones(side, side, device=kind, dtype=DTYPES[precision])
    begun, done = time.monotonic(), 0
    while time.monotonic() - begun < MATMUL_SECONDS:
        float((a @ a)[0, 0])  # reading it waits for the device
        done += 1
    return 2 * side**3 * done / (time.monotonic() - begun) / 1e12
