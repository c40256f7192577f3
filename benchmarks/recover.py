"""Time recover: the loop as published, ours, and a bare forward and backward pass, in one process.

python benchmarks/recover.py        the cases for this machine's kind of device (benchmarks/all.py runs all benchmarks)
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import measured
import torch
import torch.nn.functional as F
from measured import DEVICE
from torch import Tensor, nn

from srel_hub.config import Network, Recover
from srel_hub.core.engine import DTYPES, FLOAT32, Engine, best_precision
from srel_hub.stages.recover.objective import Objective
from srel_hub.stages.recover.optimize import synthesize
from srel_hub.stages.recover.units import Unit
from srel_hub.teachers.architectures import build
from srel_hub.teachers.classifier import Classifier
from srel_hub.teachers.cost_model import build_on_meta, measure_cost


@dataclass(frozen=True)
class Case:
    """Work of one iteration: `stack` ipc indices with one image of `side` x `side` pixels for each class."""

    network: Network
    side: int
    classes: int
    stack: int = 1

    @property
    def images(self) -> int:
        """Number of images that are optimized together."""
        return self.classes * self.stack

    def classifier(self) -> Classifier:
        """Return a network with random weights, the same in every call."""
        names = tuple(str(index) for index in range(self.classes))
        model = build(self.network, names, (self.side, self.side), seed=0).to(DEVICE)
        return Classifier(model.eval().requires_grad_(False), (0.5,) * 3, (0.25,) * 3, names, (self.side, self.side))


SMALL, IMAGENET, FIFTY = (
    Network(model="resnet18"),
    Network(model="resnet18", stem="imagenet"),
    Network(model="resnet50", stem="imagenet"),
)
ITERATIONS = 1000  # more than are ever timed
CPU = {
    "resnet18-32": Case(SMALL, 32, 100),
    "resnet18-64": Case(SMALL, 64, 100),
}
GPU = CPU | {"resnet18-224": Case(IMAGENET, 224, 100), "resnet50-224": Case(FIFTY, 224, 100)}
STACKS = {
    "digits-resnet18x0.5": Case(Network(model="resnet18", width=0.5), 8, 10, stack=10),
    "digits-resnet18": Case(SMALL, 8, 10, stack=10),
    "digits-convnet": Case(Network(model="convnet"), 8, 10, stack=10),
}


class PublishedHook:
    """The distance of a BatchNorm layer's statistics as the published code computes it: on a transposed copy."""

    def __init__(self, layer: nn.BatchNorm2d) -> None:
        self.distance = torch.zeros(())
        layer.register_forward_hook(self.watch)

    def watch(self, layer: nn.BatchNorm2d, inputs: tuple[Tensor], _: Tensor) -> None:
        """Compute the distance for one forward pass."""
        x, channels = inputs[0], inputs[0].shape[1]
        mean = x.mean([0, 2, 3])
        var = x.permute(1, 0, 2, 3).contiguous().view([channels, -1]).var(1, unbiased=False)
        assert layer.running_mean is not None and layer.running_var is not None
        self.distance = torch.norm(layer.running_var - var, 2) + torch.norm(layer.running_mean - mean, 2)


def published(case: Case) -> Iterator[float]:
    """Run SRe2L's recover (section 3.2) as its repository writes it, in float32 and NCHW, for one ipc index.

    That includes hooks, both image priors with weight 0, reading the loss in each iteration, and a copy of the best
    images.

    Yields:
        A value of the best images after each iteration.
    """
    model = case.classifier().model
    hooks = [PublishedHook(layer) for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    x = torch.randn(case.classes, 3, case.side, case.side, device=DEVICE, requires_grad=True)
    labels = torch.arange(case.classes, device=DEVICE)
    optimizer = torch.optim.Adam([x], lr=0.1, betas=(0.5, 0.9), eps=1e-8)
    draw, lowest, best = torch.Generator().manual_seed(0), float("inf"), x.detach().clone()
    while True:
        top, left = (int(torch.randint(1 + case.side // 4, (), generator=draw)) for _ in range(2))
        cut = x[:, :, top : top + case.side * 3 // 4, left : left + case.side * 3 // 4]
        seen = F.interpolate(cut, (case.side, case.side), mode="bilinear", align_corners=False)
        seen = torch.roll(torch.flip(seen, (3,)), (2, 3), (2, 3))
        optimizer.zero_grad()
        entropy = F.cross_entropy(model(seen).logits, labels)
        bn = 10 * hooks[0].distance + sum(hook.distance for hook in hooks[1:])
        tv = (
            sum(
                (seen[..., dy:, dx:] - seen[..., : case.side - dy, : case.side - dx]).norm()
                for dy, dx in ((0, 1), (1, 0), (1, 1))
            )
            + (seen[..., 1:, :-1] - seen[..., :-1, 1:]).norm()
        )
        l2 = torch.norm(seen.reshape(case.classes, -1), dim=1).mean()
        loss = entropy + 0.01 * bn + 0 * tv + 0 * l2
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for channel in range(3):
                x[:, channel] = torch.clamp(x[:, channel], -2, 2)
        if loss.item() < lowest:
            lowest = loss.item()
            best = x.detach().clone()
        yield float(best[0, 0, 0, 0])


def ours(case: Case, engine: Engine, stack: int | None = None) -> Iterator[object]:
    """Run our recover, an iteration per step, on `stack` ipc indices (None: those of the case)."""
    spec = Recover(ipc=case.stack, iterations=ITERATIONS)
    with Objective([case.classifier()], spec, engine) as objective:
        steps = synthesize(objective, Unit(range(stack or case.stack), range(case.classes)), seed=0)
        next(steps)
        yield from steps


def bare(case: Case, engine: Engine) -> Callable[[], None]:
    """Return a function that runs only the forward and backward pass, which every recover needs."""
    network = engine.network(case.classifier().model)
    images = torch.randn(case.images, 3, case.side, case.side, device=DEVICE)
    labels = torch.arange(case.classes, device=DEVICE).repeat(case.stack)

    def work() -> None:
        F.cross_entropy(network(images.detach().requires_grad_(True)), labels).backward()

    return work


def flops(case: Case) -> int:
    """Return the floating-point operations of one iteration."""
    size = (case.side, case.side)
    model = build_on_meta(case.network, case.classes, size)
    names = tuple(str(index) for index in range(case.classes))
    classifier = Classifier(model.eval(), (0.5,) * 3, (0.25,) * 3, names, size)
    with Objective([classifier], Recover(ipc=case.stack, iterations=2)) as objective:
        return measure_cost(synthesize(objective, Unit(range(case.stack), range(case.classes)), 0), "cpu").flops


def compare_with_published(case: Case, compiled: bool = False, warm_up: int = 1) -> dict[str, object]:
    """Time an iteration of the published loop, of ours, and of the bare passes."""
    engine = Engine(best_precision(), compiled)
    reference, fast, float32 = published(case), ours(case, engine), ours(case, FLOAT32)
    works = {
        "published": lambda: next(reference),
        "ours": lambda: next(fast),
        "bare": bare(case, engine),
    }
    if engine != FLOAT32:
        works["ours in float32"] = measured.in_true_float32(lambda: next(float32))
    seconds = measured.alternate(works, warm_up=3 if compiled else warm_up)
    measured.reset_peak()
    next(fast)
    times = measured.per_image(seconds, case.images)
    rate = flops(case) / (times["ours"]["ms_per_image"] * case.images / 1000)
    return {
        "precision": engine.precision,
        "compiled": compiled,
        "times": times,
        "ratio_to_published": round(times["published"]["ms_per_image"] / times["ours"]["ms_per_image"], 2),
        "ratio_to_bare": round(times["ours"]["ms_per_image"] / times["bare"]["ms_per_image"], 3),
        "share_of_matmul_rate": round(rate / measured.matmul_rate(DTYPES[engine.precision]), 3),
        "peak_mib": measured.peak_memory(),
    }


def compare_with_one_by_one(case: Case) -> dict[str, object]:
    """Time an iteration of all ipc indices in one pass, and in one pass each."""
    engine = Engine(best_precision())
    together, alone = ours(case, engine), ours(case, engine, stack=1)

    def one_by_one() -> None:
        for _ in range(case.stack):
            next(alone)

    seconds = measured.alternate({"stacked": lambda: next(together), "one by one": one_by_one}, repeats=7)
    times = measured.per_image(seconds, case.images)
    ratio = times["one by one"]["ms_per_image"] / times["stacked"]["ms_per_image"]
    return {"precision": engine.precision, "times": times, "ratio": round(ratio, 2)}


def cases() -> dict[str, Callable[[], dict[str, object]]]:
    """Return the benchmarks for this machine's kind of device, by name."""
    # A round at 64 pixels takes half a minute on a CPU, which the case before at 32 pixels has warmed up.
    warm_up = {"resnet18-64": 0 if DEVICE.type == "cpu" else 1}
    benchmarks = {
        f"recover {name}": lambda name=name, case=case: compare_with_published(case, warm_up=warm_up.get(name, 1))
        for name, case in CPU.items()
    }
    if DEVICE.type == "cuda":
        for compiled in (False, True):
            for name, case in GPU.items():
                benchmarks[f"recover {name}{' compiled' * compiled}"] = lambda case=case, compiled=compiled: (
                    compare_with_published(case, compiled)
                )
    return benchmarks | {
        f"stack {name}": lambda case=case: compare_with_one_by_one(case) for name, case in STACKS.items()
    }


if __name__ == "__main__":
    measured.run("recover", cases())
