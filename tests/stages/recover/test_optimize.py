"""Recover against a float64 transcription of the published formulas, written here without the package's own code."""

import copy
import itertools
import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from srel_hub.config import Network, Recover, load_recipe
from srel_hub.core import bn_matching as priors
from srel_hub.core import crop_transform, image_priors
from srel_hub.core import crop_transform as moving
from srel_hub.core.crop_transform import Moves
from srel_hub.core.engine import FLOAT32, Engine
from srel_hub.core.seeds import blocks, generator
from srel_hub.runs.run import Run
from srel_hub.squeeze import squeeze
from srel_hub.stages.recover import optimize
from srel_hub.stages.recover.objective import Objective
from srel_hub.stages.recover.units import units as all_units
from srel_hub.teachers import architectures as networks
from srel_hub.teachers import classifier as teacher
from srel_hub.teachers.classifier import Classifier


SIZE = (12, 10)
MEAN, STD = (0.45, 0.5, 0.4), (0.25, 0.2, 0.3)
NAMES = ("a", "b", "c", "d")
SPEC = Recover(
    ipc=2, iterations=40, lr=0.2, bn_weight=0.05, first_bn_factor=10, roll=(-2, 3), l2_weight=0.003, tv_weight=0.002
)
UNIT = optimize.Unit(range(1, 2), range(0, 4))
LABELS = [0, 1, 2, 3]


@pytest.fixture(params=["resnet18", "convnet", pytest.param("bn_vit_tiny", marks=pytest.mark.long)])
def classifier(request: pytest.FixtureRequest) -> Classifier:
    """Random weights and running statistics far from 0 and 1."""
    model = networks.build(Network(model=request.param, width=0.1), NAMES, SIZE, seed=3)
    draw = torch.Generator().manual_seed(5)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.copy_(torch.randn(module.num_features, generator=draw))  # type: ignore[union-attr]
            module.running_var.copy_(torch.rand(module.num_features, generator=draw) + 0.5)  # type: ignore[union-attr]
            module.weight.data.copy_(torch.rand(module.num_features, generator=draw) + 0.5)
    return Classifier(model.eval().requires_grad_(False), MEAN, STD, NAMES, SIZE)


class Float64:
    """The published loop in float64: plain slicing, F.interpolate, torch.flip, torch.roll, numpy's formulas."""

    def __init__(self, classifier: Classifier, x: Tensor, moves: Moves) -> None:
        self.model = copy.deepcopy(classifier.model).double()
        self.layers = [m for m in self.model.modules() if isinstance(m, nn.BatchNorm2d)]
        self.inputs: dict[nn.Module, Tensor] = {}
        for layer in self.layers:
            layer.register_forward_hook(lambda m, args, _: self.inputs.__setitem__(m, args[0]))
        self.x, self.moves = x.double(), moves
        self.m, self.v = torch.zeros_like(self.x), torch.zeros_like(self.x)

    def seen(self, x: Tensor, t: int) -> Tensor:
        top, left, height, width = self.moves.boxes[t, 0].tolist()
        cut = x[:, :, top : top + height, left : left + width]
        seen = F.interpolate(cut, SIZE, mode="bilinear", align_corners=False)
        if self.moves.flips[t, 0]:
            seen = torch.flip(seen, [3])
        return torch.roll(seen, self.moves.rolls[t, 0].tolist(), [2, 3])

    def terms(self, x: Tensor, t: int, labels: list[int]) -> dict[str, Tensor]:
        seen = self.seen(x, t)
        logits = self.model(seen).logits
        log_softmax = logits - logits.exp().sum(1, keepdim=True).log()
        bn = torch.zeros((), dtype=torch.float64)
        for number, layer in enumerate(self.layers):
            u = self.inputs[layer]
            mu = u.sum((0, 2, 3)) / (u.shape[0] * u.shape[2] * u.shape[3])
            var = ((u - mu[:, None, None]) ** 2).sum((0, 2, 3)) / (u.shape[0] * u.shape[2] * u.shape[3])
            distance = ((var - layer.running_var) ** 2).sum() ** 0.5 + ((mu - layer.running_mean) ** 2).sum() ** 0.5
            bn = bn + (SPEC.first_bn_factor if number == 0 else 1) * distance
        l2 = torch.stack([(image**2).sum() ** 0.5 for image in seen]).mean()
        tv = torch.zeros((), dtype=torch.float64)
        for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
            a = seen[:, :, : SIZE[0] - dy, max(0, -dx) : SIZE[1] - max(0, dx)]
            b = seen[:, :, dy:, max(0, dx) : SIZE[1] + min(0, dx)]
            tv = tv + ((a - b) ** 2).sum() ** 0.5
        return {"cross_entropy": -log_softmax[range(len(labels)), labels].mean(), "bn": bn, "l2": l2, "tv": tv}

    def step(self, t: int, labels: list[int]) -> dict[str, float]:
        x = self.x.clone().requires_grad_(True)
        terms = self.terms(x, t, labels)
        loss = (
            terms["cross_entropy"]
            + SPEC.bn_weight * terms["bn"]
            + SPEC.l2_weight * terms["l2"]
            + SPEC.tv_weight * terms["tv"]
        )
        (g,) = torch.autograd.grad(loss, x)
        self.m, self.v = 0.5 * self.m + 0.5 * g, 0.9 * self.v + 0.1 * g**2
        m_hat, v_hat = self.m / (1 - 0.5 ** (t + 1)), self.v / (1 - 0.9 ** (t + 1))
        lr = SPEC.lr * (1 + math.cos(math.pi * t / SPEC.iterations)) / 2
        moved = self.x - lr * m_hat / (v_hat**0.5 + 1e-8)
        low, high = (((np.array([edge] * 3) - MEAN) / STD).reshape(1, 3, 1, 1) for edge in (0, 1))
        self.x = torch.from_numpy(np.clip(moved.numpy(), low, high))
        return {name: value.item() for name, value in terms.items()}


def drawn() -> tuple[Tensor, Moves]:
    """The starting noise and the moves that the unit draws from its own generator."""
    draw = generator(11, "recover", 1, 0, 4)
    return torch.randn(4, 3, *SIZE, generator=draw), moving.sample_moves(SPEC, range(40), 4, SIZE, draw)


def shown(x: Tensor, moves: Moves, t: int) -> Tensor:
    """The package's own view of the images."""
    here = moving.stacked([moves], x.device).at(t)
    return crop_transform.view(x[None], *(matrix.to(x) for matrix in moving.move_matrices(here, SIZE)))


def synthesized(
    classifier: Classifier, spec: Recover, unit: optimize.Unit, seed: int, engine: Engine = FLOAT32
) -> Iterator[optimize.Step]:
    with Objective([classifier], spec, engine) as objective:
        yield from optimize.synthesize(objective, unit, seed)


def test_loss_and_adam_step_agree_with_float64(classifier: Classifier) -> None:
    """In float64, so that only the formulas can differ."""
    x, moves = drawn()
    reference = Float64(classifier, x, moves)
    exact = replace(classifier, model=copy.deepcopy(classifier.model).double())
    steps = synthesized(exact, SPEC, UNIT, 11)
    assert torch.equal(next(steps).x[0], x.double())
    for t in range(8):
        expected, step = reference.step(t, LABELS), next(steps)
        for name in ("cross_entropy", "bn"):
            assert float(step.terms[name]) == pytest.approx(expected[name], rel=1e-6)
        np.testing.assert_allclose(step.x[0].numpy(), reference.x.numpy(), rtol=1e-6, atol=1e-6)


def test_float32_loss_and_adam_step_agree_with_float64(classifier: Classifier) -> None:
    x, moves = drawn()
    reference = Float64(classifier, x, moves)
    steps = synthesized(classifier, SPEC, UNIT, 11)
    assert torch.equal(next(steps).x[0], x)
    expected, step = reference.step(0, LABELS), next(steps)
    for name in ("cross_entropy", "bn"):
        assert float(step.terms[name]) == pytest.approx(expected[name], rel=1e-6)
    # Adam's first step is lr g / (|g| + eps): where g itself is near 1e-8, its float32 rounding shows.
    agree = np.isclose(step.x[0].numpy(), reference.x.numpy(), rtol=1e-6, atol=1e-6)
    assert agree.mean() > 0.995


def test_priors_agree_with_float64(classifier: Classifier) -> None:
    x, moves = drawn()
    terms = Float64(classifier, x, moves).terms(x.double(), 3, LABELS)
    seen = shown(x, moves, 3)
    assert float(image_priors.l2_prior(seen, 1)) == pytest.approx(float(terms["l2"]), rel=1e-6)
    assert float(image_priors.tv_prior(seen, 1)) == pytest.approx(float(terms["tv"]), rel=1e-6)


def test_crop_flip_and_roll_are_the_usual_functions(classifier: Classifier) -> None:
    x, moves = drawn()
    reference = Float64(classifier, x, moves)
    for t in range(SPEC.iterations):
        torch.testing.assert_close(shown(x, moves, t).double(), reference.seen(x.double(), t), rtol=0, atol=2e-6)
    assert moves.flips.any() and not moves.flips.all()
    assert int(moves.rolls.min()) == -2 and int(moves.rolls.max()) == 3


def test_statistics_are_of_the_batchnorm_inputs(classifier: Classifier) -> None:
    x = torch.randn(6, 3, *SIZE)
    layers = [module for module in classifier.model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    before = [(layer.running_mean.clone(), layer.running_var.clone()) for layer in layers]
    with priors.matched(classifier.model) as network:
        expected_logits, measured = network(x, groups=1)
        distances = [float(distance) for distance in measured]
    assert len(distances) == len(layers)
    counts: dict[int, int] = {}
    for index, layer in enumerate(layers):
        layer.register_forward_pre_hook(
            lambda _, args, index=index: counts.__setitem__(index, args[0].numel() // args[0].shape[1])
        )
    torch.testing.assert_close(classifier.model(x).logits, expected_logits)
    first = layers[0]
    first.momentum = None  # cumulative: after one training pass the running mean is the batch's own
    first.reset_running_stats()
    classifier.model.train()(x)
    mean, var = first.running_mean, first.running_var * (counts[0] - 1) / counts[0]  # theirs is unbiased
    assert float((mean - before[0][0]).norm() + (var - before[0][1]).norm()) == pytest.approx(distances[0], rel=1e-5)


def test_the_closed_backward_pass_is_the_derivative() -> None:
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(6, 3, 4, 2, generator=draw, dtype=torch.float64)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_(True)
    mean, gamma, beta = torch.randn(3, 3, generator=draw, dtype=torch.float64)
    var = torch.rand(3, generator=draw, dtype=torch.float64) + 0.5
    units = torch.tensor([0.7, 1.9], dtype=torch.float64)

    def match(x: Tensor, *goal: Tensor) -> tuple[Tensor, Tensor]:
        rest = (mean, var, gamma, beta, 1e-3, *goal, units, 2)
        return priors.BatchNormMatch.apply(x, *rest)  # type: ignore[no-any-return]

    assert torch.autograd.gradcheck(match, (x, mean[None], var[None]))
    assert torch.autograd.gradcheck(match, (x, torch.stack([mean, beta]), torch.stack([var, var + 0.3])))
    y, distance = match(x, mean[None], var[None])
    plain = torch.nn.functional.batch_norm(x, mean, var, gamma, beta, eps=1e-3)
    torch.testing.assert_close(y, plain)
    first = x[:3].transpose(0, 1).flatten(1)
    expected = (first.var(1, correction=0) - var).norm() / 1.9 + (first.mean(1) - mean).norm() / 0.7
    torch.testing.assert_close(distance[0], expected)


def test_statistics_of_bfloat16_are_float32() -> None:
    x = (torch.randn(64, 8, 16, 16) + 3).bfloat16().contiguous(memory_format=torch.channels_last)
    mean, var = torch.full((8,), 2.9), torch.full((8,), 1.05)
    plain = torch.ones(8), torch.zeros(8)
    y, distance = priors.BatchNormMatch.apply(x, mean, var, *plain, 1e-5, mean[None], var[None], torch.ones(2), 1)
    exact = x.double()
    expected = (exact.var((0, 2, 3), correction=0) - var).norm() + (exact.mean((0, 2, 3)) - mean).norm()
    assert y.dtype == torch.bfloat16 and float(distance) == pytest.approx(float(expected), rel=1e-4)


def test_a_channel_that_matches_exactly_has_no_direction() -> None:
    x = torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1).requires_grad_(True)
    one, zero = torch.ones(1), torch.zeros(1)
    y, distance = priors.BatchNormMatch.apply(x, zero, one, one, zero, 0.0, zero[None], one[None], torch.ones(2), 1)
    (y.sum() + distance.sum()).backward()
    assert float(distance) == 0 and x.grad is not None and torch.equal(x.grad, torch.ones_like(x))


@pytest.mark.parametrize(
    "network",
    [Network(model="convnet"), pytest.param(Network(model="resnet18", width=0.25), marks=pytest.mark.long)],
    ids=["convnet", "resnet18"],
)
def test_gradients_of_a_real_teacher(tmp_path: Path, network: Network) -> None:
    """float64, written out, against what the loop takes: cosine 0.999 in float32, 0.99 in bfloat16."""
    found = [f"squeeze.network={{model: {network.model}, width: {network.width}}}", "squeeze.epochs=3"]
    run = Run(load_recipe("quickstart", [*found, "precision=float32", f"run.root={tmp_path}"]))
    real = teacher.load(squeeze(run), torch.device("cpu"))
    run.close()
    unit, spec = optimize.Unit(range(2), range(10)), Recover(ipc=2, iterations=20, bn_weight=1.0)
    draws = [generator(5, "recover", ipc, 0, 10) for ipc in unit.ipcs]
    x = torch.stack([torch.randn(10, 3, *real.size, generator=draw) for draw in draws])
    drawn = [moving.sample_moves(spec, range(spec.iterations), 10, real.size, draw) for draw in draws]
    moves = moving.stacked(drawn, x.device)
    labels = torch.arange(10).repeat(2)

    def gradient(of: Classifier, engine: Engine = FLOAT32) -> Tensor:
        pixels = x.to(next(of.model.parameters())).requires_grad_(True)
        with Objective([of], spec, engine) as objective:
            loss, _ = objective(pixels, labels, moves.at(7), 7)
        loss.sum().backward()
        assert pixels.grad is not None
        return pixels.grad.double()

    exact = torch.stack([transcribed(real, spec, x[g], moves, g, 7) for g in range(2)])
    for engine, least in ((FLOAT32, 0.999), (Engine("bfloat16"), 0.99)):
        cosines = torch.cosine_similarity(gradient(real, engine).flatten(2), exact.flatten(2), dim=2)
        assert cosines.min() >= least


def transcribed(real: Classifier, spec: Recover, x: Tensor, moves: Moves, g: int, t: int) -> Tensor:
    """The gradient of one index's loss in float64 by plain slicing, F.interpolate, hooks and autograd."""
    model, inputs = copy.deepcopy(real.model).double(), dict[nn.Module, Tensor]()
    layers = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for layer in layers:
        layer.register_forward_hook(lambda module, args, _: inputs.__setitem__(module, args[0]))
    pixels = x.double().requires_grad_(True)
    top, left, height, width = moves.boxes[t, g, 0].tolist()
    cut = pixels[:, :, top : top + height, left : left + width]
    seen = F.interpolate(cut, real.size, mode="bilinear", align_corners=False)
    seen = torch.flip(seen, [3]) if moves.flips[t, g, 0] else seen
    loss = F.cross_entropy(model(torch.roll(seen, moves.rolls[t, g, 0].tolist(), [2, 3])).logits, torch.arange(len(x)))
    for number, layer in enumerate(layers):
        u = inputs[layer].transpose(0, 1).flatten(1)
        distance = (u.var(1, correction=0) - layer.running_var).norm() + (u.mean(1) - layer.running_mean).norm()
        loss = loss + spec.bn_weight * (spec.first_bn_factor if number == 0 else 1) * distance
    return torch.autograd.grad(loss, pixels)[0]


@pytest.mark.long
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a compiler")
@pytest.mark.timeout(3600)
def test_compiled_is_the_same_mathematics(classifier: Classifier) -> None:
    plain = list(itertools.islice(synthesized(classifier, SPEC, UNIT, 11), 4))[-1]
    fast = list(itertools.islice(synthesized(classifier, SPEC, UNIT, 11, Engine(compiled=True)), 4))[-1]
    torch.testing.assert_close(fast.terms, plain.terms, rtol=1e-4, atol=0)
    torch.testing.assert_close(fast.x, plain.x, rtol=1e-2, atol=1e-2)


def test_stacked_indices_are_the_same_mathematics(classifier: Classifier) -> None:
    spec = replace(SPEC, ipc=3, iterations=5)

    def final(ipcs: range) -> optimize.Step:
        unit = optimize.Unit(ipcs, range(0, 4))
        return list(synthesized(classifier, spec, unit, 11))[-1]

    together = final(range(3))
    for ipc in range(3):
        alone = final(range(ipc, ipc + 1))
        torch.testing.assert_close(together.terms["bn"][ipc], alone.terms["bn"][0], rtol=1e-5, atol=0)
        torch.testing.assert_close(together.x[ipc], alone.x[0], rtol=1e-3, atol=1e-3)


def test_pixels_are_rounded_not_truncated(classifier: Classifier) -> None:
    values = torch.tensor([-1.0, 0.0, 100.4, 100.6, 254.7, 300.0]) / 255
    x = (values.view(1, 1, 6).expand(3, 1, 6) - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    assert optimize.to_uint8(x, classifier)[1, 0].tolist() == [0, 0, 100, 101, 255, 255]


def test_the_last_iterate_stays_within_black_and_white(classifier: Classifier) -> None:
    *_, last = synthesized(classifier, replace(SPEC, lr=5.0), UNIT, 0)
    low, high = (edge.float() for edge in optimize.pixel_range(classifier))
    assert (last.x >= low).all() and (last.x <= high).all()
    assert (last.x == low).any() and (last.x == high).any()


def test_units_cover_every_image_once() -> None:
    units = all_units(Recover(ipc=5, class_block=11), 23, stack=2)
    covered = [(ipc, label) for unit in units for ipc in unit.ipcs for label in unit.classes]
    assert sorted(covered) == [(ipc, label) for ipc in range(5) for label in range(23)]
    assert [len(block) for block in blocks(23, 11)] == [11, 12]  # a block of one joins the one before
    assert len({unit.name for unit in units}) == len(units)


def test_a_batchnorm_layer_without_running_statistics_is_left_out() -> None:
    kept, plain = torch.nn.BatchNorm2d(3), torch.nn.BatchNorm2d(3, track_running_stats=False)
    model = torch.nn.Sequential(plain, kept)
    with priors.matched(model) as network:
        model(torch.randn(4, 3, 2, 2))
        [layer] = network.layers
        assert layer.layer is kept and layer.take_distance().shape == (1,)
    assert list(model) == [plain, kept]
