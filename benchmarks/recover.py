"""Recover: the published way of writing the loop, ours, and a bare forward and backward pass, in one process.

python benchmarks/recover.py        the cases of this machine (CPU or GPU); all benchmarks: benchmarks/all.py
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
from srel_hub.teachers import architectures as networks
from srel_hub.teachers.classifier import Classifier
from srel_hub.teachers.cost_model import build_on_meta, measure_cost


@dataclass(frozen=True)
class Case:
    """`classes` images of `side` pixels in each of `stack` ipc indices."""

    network: Network
    side: int
    classes: int
    stack: int = 1

    @property
    def images(self) -> int:
        return self.classes * self.stack

    def classifier(self) -> Classifier:
        """Random weights; those of one case are the same each time."""
        names = tuple(str(index) for index in range(self.classes))
        model = networks.build(self.network, names, (self.side, self.side), seed=0).to(DEVICE)
        return Classifier(model.eval().requires_grad_(False), (0.5,) * 3, (0.25,) * 3, names, (self.side, self.side))


SMALL, IMAGENET, FIFTY = (
    Network(model="resnet18"),
    Network(model="resnet18", stem="imagenet"),
    Network(model="resnet50", stem="imagenet"),
)
ITERATIONS = 1000  # more than are timed
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
    """A BatchNorm layer's distance as the published code computes it: a transposed copy, the mean apart."""

    def __init__(self, layer: nn.BatchNorm2d) -> None:
        self.distance = torch.zeros(())
        layer.register_forward_hook(self.watch)

    def watch(self, layer: nn.BatchNorm2d, inputs: tuple[Tensor], _: Tensor) -> None:
        x, channels = inputs[0], inputs[0].shape[1]
        mean = x.mean([0, 2, 3])
        var = x.permute(1, 0, 2, 3).contiguous().view([channels, -1]).var(1, unbiased=False)
        assert layer.running_mean is not None and layer.running_var is not None
        self.distance = torch.norm(layer.running_var - var, 2) + torch.norm(layer.running_mean - mean, 2)


def published(case: Case) -> Iterator[float]:
    """SRe2L, section 3.2, in float32 and NCHW, as its repository describes: an iteration a step, one ipc index.

    Hooks, both image priors at weight 0, the loss read each iteration, a copy of the best images kept.
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
    spec = Recover(ipc=case.stack, iterations=ITERATIONS)
    with Objective([case.classifier()], spec, engine) as objective:
        steps = synthesize(objective, Unit(range(stack or case.stack), range(case.classes)), seed=0)
        next(steps)
        yield from steps


def bare(case: Case, engine: Engine) -> Callable[[], None]:
    """The forward and backward pass that no recover can do without."""
    network = engine.network(case.classifier().model)
    images = torch.randn(case.images, 3, case.side, case.side, device=DEVICE)
    labels = torch.arange(case.classes, device=DEVICE).repeat(case.stack)

    def work() -> None:
        F.cross_entropy(network(images.detach().requires_grad_(True)), labels).backward()

    return work


def flops(case: Case) -> int:
    """Of one iteration."""
    size = (case.side, case.side)
    model = build_on_meta(case.network, case.classes, size)
    names = tuple(str(index) for index in range(case.classes))
    hollow = Classifier(model.eval(), (0.5,) * 3, (0.25,) * 3, names, size)
    with Objective([hollow], Recover(ipc=case.stack, iterations=2)) as objective:
        return measure_cost(synthesize(objective, Unit(range(case.stack), range(case.classes)), 0), "cpu").flops


def against_published(case: Case, compiled: bool = False, warm_up: int = 1) -> dict[str, object]:
    engine = Engine(best_precision(), compiled)
    reference, fast, float32 = published(case), ours(case, engine), ours(case, FLOAT32)
    works = {
        "published": lambda: next(reference),
        "ours": lambda: next(fast),
        "bare": bare(case, engine),
    }
    if engine != FLOAT32:
        works["ours in float32"] = lambda: next(float32)
    seconds = measured.alternate(works, warm_up=3 if compiled else warm_up)
    measured.forget_peak()
    next(fast)
    times = measured.told(seconds, case.images)
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


def against_one_at_a_time(case: Case) -> dict[str, object]:
    engine = Engine(best_precision())
    together, alone = ours(case, engine), ours(case, engine, stack=1)

    def one_by_one() -> None:
        for _ in range(case.stack):
            next(alone)

    seconds = measured.alternate({"stacked": lambda: next(together), "one by one": one_by_one}, repeats=7)
    times = measured.told(seconds, case.images)
    ratio = times["one by one"]["ms_per_image"] / times["stacked"]["ms_per_image"]
    return {"precision": engine.precision, "times": times, "ratio": round(ratio, 2)}


def cases() -> dict[str, Callable[[], dict[str, object]]]:
    # Half a minute a round: at 64 pixels a CPU is warm from 32.
    warm_up = {"resnet18-64": 0 if DEVICE.type == "cpu" else 1}
    found = {
        f"recover {name}": lambda name=name, case=case: against_published(case, warm_up=warm_up.get(name, 1))
        for name, case in CPU.items()
    }
    if DEVICE.type == "cuda":
        for compiled in (False, True):
            for name, case in GPU.items():
                found[f"recover {name}{' compiled' * compiled}"] = lambda case=case, compiled=compiled: (
                    against_published(case, compiled)
                )
    return found | {f"stack {name}": lambda case=case: against_one_at_a_time(case) for name, case in STACKS.items()}


if __name__ == "__main__":
    measured.run("recover", cases())
