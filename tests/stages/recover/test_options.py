"""Each knob of recover by what it must do: crop curriculum, moves per image, the relative BatchNorm term and its own
weight, stages and residual, several teachers, real patches.
"""

import copy
import json
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import make_source, small_recipe, write_recipe
from PIL import Image
from runs import PARTS, arguments, bytes_of, finish, start, until, wait, world
from stages.recover.test_optimize import LABELS, NAMES, SIZE, SPEC, UNIT, classifier
from torch import Tensor, nn

from srel_hub.condense import condense
from srel_hub.config import Network, Patches, RecipeError, Recover, load_recipe
from srel_hub.core.bn_matching import matched
from srel_hub.core.crop_transform import Moves, lowest_scale, move_matrices, sample_moves, stacked, view
from srel_hub.core.engine import FLOAT32
from srel_hub.core.seeds import generator
from srel_hub.data.sources import open_source
from srel_hub.errors import UserError
from srel_hub.recover import recover
from srel_hub.runs.run import Run
from srel_hub.squeeze import squeeze
from srel_hub.stages.recover import optimize
from srel_hub.stages.recover import patches as patches
from srel_hub.stages.recover.objective import Objective
from srel_hub.stages.recover.optimize import resized, stages, synthesize
from srel_hub.storage.condensed_table import decode_image, read_parquet, read_rows
from srel_hub.teachers import architectures as networks
from srel_hub.teachers import classifier as teacher
from srel_hub.teachers.classifier import Classifier


__all__ = ["classifier"]
T = 40


def steps(classifiers: list[Classifier], spec: Recover, start: Tensor | None = None) -> Iterator[optimize.Step]:
    with Objective(classifiers, spec, FLOAT32, 11) as objective:
        yield from synthesize(objective, UNIT, 11, start)


def final(classifiers: list[Classifier], spec: Recover, start: Tensor | None = None) -> Tensor:
    return list(steps(classifiers, spec, start))[-1].x


def pixels(seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (1, 4, 3, *SIZE), generator=torch.Generator().manual_seed(seed)).byte()


# The lower bound of the crop


@pytest.mark.parametrize("milestone", [1.0, 0.5])
@pytest.mark.parametrize("curriculum", ["none", "cosine", "linear", "step"])
def test_the_lower_bound_falls_from_the_upper_one_to_the_lowest(curriculum: Any, milestone: float) -> None:
    spec = replace(SPEC, curriculum=curriculum, milestone=milestone, scale=(0.08, 1.0))
    bound = lowest_scale(spec, torch.arange(T + 1))
    down = int(milestone * T)
    assert float(bound[0]) == (0.08 if curriculum == "none" else pytest.approx(1.0))
    assert torch.equal(bound[down:], torch.full_like(bound[down:], 0.08))
    assert bool((bound.diff() <= 0).all())
    expected = {"none": 0.08, "cosine": 0.54, "linear": 0.54, "step": 1.0}[curriculum]
    assert float(bound[down // 2]) == pytest.approx(expected)


def test_crops_obey_the_curriculum() -> None:
    spec = replace(SPEC, iterations=2000, curriculum="linear", ratio=(1.0, 1.0))
    boxes = sample_moves(spec, range(2000), 4, (100, 100), generator(0, "a")).boxes[:, 0]
    share = (boxes[:, 2] * boxes[:, 3]).double() / 100**2
    assert bool((share > lowest_scale(spec, torch.arange(2000)) - 0.02).all())
    assert float(share[:100].min()) > 0.9 and float(share[-100:].min()) < 0.3


# One crop, flip and roll for each image


def test_each_image_moves_by_itself() -> None:
    spec = replace(SPEC, per_image=True)
    drawn = [sample_moves(spec, range(T), 4, SIZE, generator(0, ipc)) for ipc in range(2)]
    moves, x = stacked(drawn, torch.device("cpu")).at(3), torch.randn(2, 4, 3, *SIZE, dtype=torch.float64)
    together = view(x, *move_matrices(moves, SIZE)).view_as(x)
    assert len({tuple(box.tolist()) for box in moves.boxes.flatten(0, 1)}) > 4
    for g in range(2):
        for b in range(4):
            top, left, height, width = moves.boxes[g, b].tolist()
            cut = x[g, b : b + 1, :, top : top + height, left : left + width]
            seen = F.interpolate(cut, SIZE, mode="bilinear", align_corners=False)
            seen = seen.flip(3) if moves.flips[g, b] else seen
            torch.testing.assert_close(together[g, b], seen.roll(moves.rolls[g, b].tolist(), (2, 3))[0])


def test_one_move_for_all_is_the_same_move_for_each() -> None:
    moves = stacked([sample_moves(SPEC, range(T), 4, SIZE, generator(0, "a"))], torch.device("cpu")).at(0)
    each = Moves(moves.boxes.expand(1, 4, 4), moves.flips.expand(1, 4), moves.rolls.expand(1, 4, 2))
    x = torch.randn(1, 4, 3, *SIZE)
    alike, apart = (view(x, *(matrix.float() for matrix in move_matrices(shown, SIZE))) for shown in (moves, each))
    assert torch.equal(alike, apart)


# The BatchNorm term


class Doubled(nn.Module):
    """A layer, and the same with every channel there twice; `factor` scales what flows in."""

    def __init__(self, factor: float = 1.0, twice: bool = False) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(1)
        mean, var = torch.randn(5, generator=draw) * factor, (torch.rand(5, generator=draw) + 0.2) * factor**2
        self.norm = nn.BatchNorm2d(10 if twice else 5).eval()
        self.norm.running_mean, self.norm.running_var = (torch.cat([v, v]) if twice else v for v in (mean, var))
        self.factor, self.twice = factor, twice

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.factor
        return self.norm(torch.cat([x, x], 1) if self.twice else x)  # type: ignore[no-any-return]


def distance(model: nn.Module, relative: bool) -> float:
    x = torch.randn(8, 5, 3, 3, generator=torch.Generator().manual_seed(2))
    with matched(model, relative) as network:
        model(x)
        return float(network.layers[0].take_distance())


def test_the_relative_term_knows_neither_width_nor_scale() -> None:
    plain = distance(Doubled(), relative=True)
    assert distance(Doubled(twice=True), relative=True) == pytest.approx(plain, rel=1e-5)
    assert distance(Doubled(factor=30.0), relative=True) == pytest.approx(plain, rel=1e-5)
    raw = distance(Doubled(), relative=False)
    assert distance(Doubled(twice=True), relative=False) == pytest.approx(2**0.5 * raw, rel=1e-5)


def test_the_relative_term_is_a_mean_over_layers(classifier: Classifier) -> None:
    """Two equal networks' layers one after the other would change a sum, and not this."""
    from srel_hub.core.bn_matching import bn_loss

    distances = [torch.tensor([value]) for value in (3.0, 1.0, 2.0)]
    once = bn_loss(distances, 1.0, relative=True)
    assert float(once) == pytest.approx(2.0)
    assert torch.equal(bn_loss([*distances, *distances], 1.0, relative=True), once)


@pytest.mark.parametrize("term", ["sum", "relative"])
@pytest.mark.parametrize("ratio", [1.0, 20.0])
def test_the_weight_that_is_found_gives_the_ratio_asked_for(classifier: Classifier, term: Any, ratio: float) -> None:
    spec = replace(SPEC, bn_weight="auto", bn_ratio=ratio, bn_term=term)
    whole = replace(spec, crop="none", flip=False, roll=(0, 0), l2_weight=0.0, tv_weight=0.0)
    with Objective([classifier], whole, FLOAT32, 11) as objective:
        noise = torch.randn(1, 4, 3, *SIZE, generator=generator(11, "recover", "bn_weight"))
        moves = stacked([sample_moves(whole, range(1), 4, SIZE, generator(0, "a"))], noise.device).at(0)
        loss, terms = objective(noise, torch.tensor(LABELS), moves, 0)
        weight = objective.members[0].weight
    assert float(weight * terms["bn"] / terms["cross_entropy"]) == pytest.approx(ratio, rel=1e-4)
    assert float(loss) == pytest.approx((1 + ratio) * float(terms["cross_entropy"]), rel=1e-4)


# Stages and residual


def test_without_stages_and_residual_it_is_plain(classifier: Classifier) -> None:
    assert torch.equal(
        final([classifier], replace(SPEC, sizes=(10,), patches=Patches()), pixels()),
        final([classifier], SPEC, pixels()),
    )


@pytest.mark.parametrize("residual", [0.5, 0.99])
def test_the_patches_share_comes_back_after_every_stage(classifier: Classifier, residual: float) -> None:
    spec = replace(SPEC, patches=Patches(), residual=residual, sizes=(10, 10))
    start = pixels()
    made = list(steps([classifier], spec, start))
    begun, plain = made[0].x, list(steps([classifier], replace(spec, residual=0.0), start))
    torch.testing.assert_close(made[T // 2].x, torch.lerp(plain[T // 2].x, begun, residual))
    nearer = float((made[-1].x - begun).norm() / (plain[-1].x - begun).norm())
    assert nearer < 1 - residual / 2


def test_stages_share_the_iterations_and_end_at_full_size() -> None:
    spec = replace(SPEC, iterations=10, sizes=(5, 10, 10))
    assert [(s.iterations, s.size) for s in stages(spec, SIZE)] == [
        (range(0, 3), (6, 5)),
        (range(3, 6), (12, 10)),
        (range(6, 10), (12, 10)),
    ]
    model = networks.build(Network(model="resnet18", width=0.1), NAMES, SIZE, seed=3).eval()
    found = Classifier(model.requires_grad_(False), (0.5,) * 3, (0.25,) * 3, NAMES, SIZE)
    made = list(steps([found], replace(spec, patches=Patches(), residual=0.5), pixels()))
    assert len(made) == 11 and made[-1].x.shape[-2:] == SIZE and made[1].x.shape[-2:] == (6, 5)
    assert made[3].x.shape[-2:] == SIZE


def test_resizing_is_that_of_pillow_within_a_step() -> None:
    x = pixels().float()
    half = resized(x, (6, 5))[0, 0].round().byte()
    by_pillow = Image.fromarray(pixels()[0, 0].permute(1, 2, 0).numpy()).resize((5, 6), Image.Resampling.BILINEAR)
    assert np.abs(half.permute(1, 2, 0).numpy().astype(int) - np.asarray(by_pillow)).max() <= 1
    assert torch.equal(resized(x, SIZE), x)


# Several teachers


def other(classifier: Classifier) -> Classifier:
    """The same network, its weights otherwise, normalized otherwise."""
    model = copy.deepcopy(classifier.model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    return replace(classifier, model=model, mean=(0.3, 0.4, 0.5), std=(0.3, 0.25, 0.35))


@pytest.mark.parametrize("turns", ["cycle", "committee"])
def test_one_teacher_twice_is_the_plain_method(classifier: Classifier, turns: Any) -> None:
    twin = replace(classifier, model=copy.deepcopy(classifier.model))
    plain = final([classifier], replace(SPEC, iterations=6))
    assert torch.equal(final([classifier], replace(SPEC, iterations=6, turns=turns)), plain)
    torch.testing.assert_close(final([classifier, twin], replace(SPEC, iterations=6, turns=turns)), plain)


def test_teachers_take_turns_or_are_averaged(classifier: Classifier) -> None:
    x, second = torch.randn(1, 4, 3, *SIZE), other(classifier)
    moves = stacked([sample_moves(SPEC, range(T), 4, SIZE, generator(0, "a"))], x.device)
    labels = torch.tensor(LABELS)

    def losses(of: list[Classifier], turns: Any) -> list[Tensor]:
        with Objective(of, replace(SPEC, turns=turns)) as objective:
            return [objective(x, labels, moves.at(0), t)[0] for t in range(3)]

    (first, *_), (cycled, mean) = (
        losses([classifier], "cycle"),
        (losses([classifier, second], "cycle"), losses([classifier, second], "committee")),
    )
    assert torch.equal(cycled[0], first) and torch.equal(cycled[2], first) and not torch.equal(cycled[1], first)
    torch.testing.assert_close(mean[0], (cycled[0] + cycled[1]) / 2)


def test_each_teacher_sees_pixels_as_it_normalizes_them(classifier: Classifier) -> None:
    """A teacher with another normalization gives, on the same pixels, what it gives when it is the first."""
    spec, second = replace(SPEC, l2_weight=0.0, tv_weight=0.0), other(classifier)
    shown = torch.rand(1, 4, 3, *SIZE)
    moves = stacked([sample_moves(spec, range(T), 4, SIZE, generator(0, "a"))], shown.device).at(0)

    def loss(of: list[Classifier], t: int) -> Tensor:
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (of[0].mean, of[0].std))
        with Objective(of, spec) as objective:
            return objective((shown - mean) / std, torch.tensor(LABELS), moves, t)[0]

    torch.testing.assert_close(loss([classifier, second], 1), loss([second], 0), rtol=1e-4, atol=1e-5)


# Real patches


def test_patches_are_ranked_by_what_the_teacher_says() -> None:
    losses = torch.tensor([[3.0, 1.0], [0.5, 4.0], [2.0, 2.5]])
    assert patches.ranked(losses, "easiest").tolist() == [2, 1, 4, 5, 0, 3]
    confidence = (-losses).exp()
    nearest = (confidence - confidence.median()).abs().flatten()[patches.ranked(losses, "median")]
    assert bool((nearest[:3].diff() >= 0).all()) and bool((nearest[3:].diff() >= 0).all())


@pytest.fixture(params=[1, 2])
def patched(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    """A run of three classes that starts from patches, as far as recover."""
    file = write_recipe(tmp_path / "colors.yaml", make_source(tmp_path / "source", (8, 8), ["red", "green", "blue"]))
    more = [f"recover.patches={{images: 6, crops: 3, tiles: {request.param}}}", "recover.ipc=2", "recover.stack=1"]
    run = Run(small_recipe(file, tmp_path, *more))
    squeeze(run)
    recover(run)
    return run


def test_recover_begins_with_the_pixels_of_the_source(patched: Run) -> None:
    """Every patch is the crop that its origin names, and iteration 0 shows it to the last bit."""
    spec = patched.recipe.recover
    assert spec.patches is not None
    kept = teacher.load(patched.path("teacher"), patched.device)
    train = open_source(patched.recipe.source, patched.progress).train
    assert train is not None
    rows = list(read_parquet(patched.path("patches", "class-00000.parquet")))
    origins = json.loads(patched.path("patches", "class-00000.json").read_text())
    assert [label for _, label in rows] == [0, 1, 2, 0, 1, 2]
    for (png, label), told in zip(rows, origins, strict=True):
        assert len(told) == spec.patches.tiles**2
        assert [int(train.labels[each["row"]]) for each in told] == [label] * len(told)
        cuts = [train.images(kept.frame, torch.tensor([each["row"]])).pixels[0] for each in told]
        assert torch.equal(decode_image(png), patches.tiled(cuts, [each["box"] for each in told], spec.patches.tiles))
    start = patches.read_patches(patched.path("patches"), range(1, 2), range(3))
    with Objective([kept], spec) as objective:
        first = next(synthesize(objective, optimize.Unit(range(1, 2), range(3)), 0, start))
    assert torch.equal(optimize.to_uint8(first.x, kept), start)
    assert torch.equal(start[0, 1], decode_image(rows[4][0]))


def test_the_first_images_are_those_of_a_smaller_set(patched: Run, tmp_path: Path) -> None:
    tiles = asked.tiles if (asked := patched.recipe.recover.patches) else 0
    more = ["name=smaller", "recover.ipc=1", f"recover.patches={{images: 6, crops: 3, tiles: {tiles}}}"]
    smaller = Run(small_recipe(tmp_path / "colors.yaml", tmp_path, *more))
    squeeze(smaller)
    recover(smaller)
    few, many = (list(read_rows(run.path("images"))) for run in (smaller, patched))
    assert few == many[: len(few)]


def test_a_whole_run_from_patches_says_that_real_pixels_remain(tmp_path: Path) -> None:
    file = write_recipe(tmp_path / "colors.yaml", make_source(tmp_path / "source", (8, 8), ["red", "green", "blue"]))
    more = ["recover.patches={}", "recover.residual=0.5", "recover.sizes=[8, 8]", "recover.per_image=true"]
    run = Run(small_recipe(file, tmp_path, *more))
    condense(run)
    card = run.path("dataset", "README.md").read_text()
    assert "Real pixels remain" in card and "with a share of 50 %" in card and "from noise" not in card
    assert "They are\n  not samples of the real data" not in card


def test_more_teachers_are_kept_and_told(tmp_path: Path) -> None:
    file = write_recipe(tmp_path / "colors.yaml", make_source(tmp_path / "source", (8, 8), ["red", "green", "blue"]))
    first = Run(small_recipe(file, tmp_path, "name=first", "seed=4"))
    squeeze(first)
    first.close()
    run = Run(small_recipe(file, tmp_path, f"recover.teachers=[{first.path('teacher')}]", "recover.bn_weight=auto"))
    condense(run)
    assert run.path("recover_teacher-1", "model.safetensors").is_file()
    assert "BatchNorm weight" in run.path("log.txt").read_text()
    card = run.path("dataset", "README.md").read_text()
    assert "2 networks in turn" in card and str(tmp_path) not in card


FAULTS = {
    "residual": (["recover.residual=0.5"], "recover.residual: residual=0.5: requires patches to mix in"),
    "curriculum": (["recover.curriculum=cosine", "recover.crop=none"], "curriculum=cosine: requires a crop"),
    "sizes": (["recover.sizes=[4,4,4,4,8]", "recover.iterations=3"], "5 stages need at least as many iterations"),
    "no training split": (
        ["recover.patches={}", "source.train_split=null", "squeeze.pretrained=x"],
        "recover.patches: need the training split",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_knob_that_cannot_be_is_refused(name: str, tmp_path: Path) -> None:
    overrides, message = FAULTS[name]
    with pytest.raises(RecipeError) as refused:
        load_recipe("quickstart", overrides)
    assert message.split(": ", 1)[-1] in str(refused.value)


LATER_FAULTS = {
    "the last size": (["recover.sizes=[8, 4]"], "the last size must be the images' shorter side, 8"),
    "a network of one size": (["recover.sizes=[4, 8]"], "squeeze.network accepts only images of 8 pixels"),
    "too few images": (["recover.ipc=3000", "recover.patches={}"], "need 3000 crops of every class"),
}


@pytest.mark.parametrize("name", LATER_FAULTS)
def test_a_knob_that_does_not_fit_is_refused_before_squeeze(name: str, tmp_path: Path) -> None:
    overrides, message = LATER_FAULTS[name]
    run = Run(load_recipe("quickstart", [*overrides, f"run.root={tmp_path}"]))
    with pytest.raises(UserError, match=message):
        condense(run)
    assert not run.path("teacher").exists()


PATCHED = ["recover.patches={images: 6, crops: 3}", "recover.residual=0.3", "recover.sizes=[8, 8]"]


@pytest.mark.long
def test_killed_and_shared_it_is_the_same(tmp_path: Path) -> None:
    """From patches: one run that nobody stopped, one that was killed amid its patches and then shared."""
    recipe = world(tmp_path)
    finish(arguments(recipe, tmp_path / "whole", *PATCHED), tmp_path / "whole.txt")
    shared = arguments(recipe, tmp_path / "shared", *PATCHED, "run.cooperate=true")
    pid = start(shared, tmp_path / "killed.txt")
    assert until(lambda: list((tmp_path / "shared/world/units/patches").glob("*.json")), pid)
    os.kill(pid, signal.SIGKILL)
    assert wait(pid) == -signal.SIGKILL
    statuses = [wait(pid) for pid in [start(shared, tmp_path / f"{number}.txt") for number in range(2)]]
    assert statuses == [0, 0], (tmp_path / "0.txt").read_text()[-2000:]
    whole, together = (bytes_of(tmp_path / name / "world", (*PARTS, "patches")) for name in ("whole", "shared"))
    assert whole == together and "patches/class-00000.parquet" in whole


@pytest.mark.parametrize(("weight", "warns"), [("1e4", True), ("0.01", False), ("auto", False)])
def test_a_batchnorm_term_that_dominates_is_mentioned_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], weight: str, warns: bool
) -> None:
    file = write_recipe(tmp_path / "colors.yaml", make_source(tmp_path / "source", SIZE, ["red", "green", "blue"]))
    run = Run(small_recipe(file, tmp_path, f"recover.bn_weight={weight}", "recover.stack=1", "recover.bn_ratio=20"))
    squeeze(run)
    recover(run)
    lines = [line for line in capsys.readouterr().err.splitlines() if "the BatchNorm term is" in line]
    logged = [line for line in run.path("log.txt").read_text().splitlines() if "the BatchNorm term is" in line]
    assert len(lines) == len(logged) == warns
    assert all(line.startswith("warning: recover.bn_weight=10000: ") for line in lines)
    assert all(line.endswith("; set recover.bn_weight=auto") for line in lines)
