"""Protocols: complete, merged between a recipe and its overrides, and reported with their deviations.

Also the losses, schedules and averaged weights that they choose.
"""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml
from conftest import ROOT, small_recipe
from torch import nn

from srel_hub.commands.program import main
from srel_hub.config import Augment, Cooling, Evaluate, Network, Optimizer, as_dict
from srel_hub.config.loading import RecipeError, load_recipe
from srel_hub.config.protocols import TRAININGS, deviations, protocol_of, protocol_title
from srel_hub.config.recipe_files import protocol_names
from srel_hub.core.augment import Views, render, sample_views, shuffle_patches
from srel_hub.core.losses import soft_loss, teacher_temperature
from srel_hub.core.optim import learning_rate
from srel_hub.errors import UserError
from srel_hub.stages.evaluate.student import Student
from srel_hub.stages.preflight.recipe_checks import undivided_patches
from srel_hub.teachers import architectures as networks


NAMES = ["edc", "fadrm", "hard", "lpqld", "rded", "sre2l-300", "sre2l-tiny", "sre2lpp"]


def test_eight_protocols_are_shipped_with_a_title_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert protocol_names() == NAMES
    assert main(["recipe", "protocols"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == NAMES and all(len(line.split()) > 4 for line in lines)


@pytest.mark.parametrize("name", NAMES)
def test_a_protocol_sets_every_field_that_decides(name: str) -> None:
    """Check that no value of the recipe below a protocol remains in effect."""
    protocol = yaml.safe_load((ROOT / "recipes" / "protocols" / f"{name}.yaml").read_text())
    complete = protocol_of(load_recipe("quickstart"))
    assert protocol.keys() == complete.keys() and protocol["relabel"].keys() == complete["relabel"].keys()
    assert protocol["evaluate"].keys() == complete["evaluate"].keys()
    assert protocol["relabel"]["augment"].keys() == complete["relabel"]["augment"].keys()
    assert protocol["evaluate"]["optimizer"].keys() == complete["evaluate"]["optimizer"].keys()
    for recipe in ("quickstart", "cifar10_ipc10", "tiny_imagenet_ipc50", "in1k_ipc50"):
        loaded = load_recipe(recipe, [f"protocol={name}"])
        assert deviations(loaded) == {} and protocol_title(loaded) == name
    assert protocol_of(load_recipe("quickstart", [f"protocol={name}"])) == protocol_of(
        load_recipe("tiny_imagenet_ipc50", [f"protocol={name}"])
    )


def test_all_protocols_differ() -> None:
    contents = {str(protocol_of(load_recipe("quickstart", [f"protocol={name}"]))) for name in NAMES}
    assert len(contents) == len(NAMES)


def test_a_protocol_is_merged_between_the_extended_recipe_and_the_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("extends: quickstart\nprotocol: rded\nevaluate: {epochs: 30}\n")
    recipe = load_recipe(file, ["evaluate.seeds=2"])
    assert recipe.evaluate.epochs == 30 and recipe.evaluate.batch_size == 100 and recipe.evaluate.seeds == 2
    assert recipe.relabel.augment.mix == "cutmix" and recipe.relabel.epochs == 100, (
        "the protocol does not set the number of stored epochs"
    )
    assert recipe.evaluate.students == load_recipe("quickstart").evaluate.students
    assert protocol_title(recipe) == "rded, but evaluate.epochs 30 instead of 300"
    other = load_recipe(file, ["evaluate.batch_size=50", "protocol=edc"])
    assert (other.evaluate.loss, other.evaluate.batch_size, other.evaluate.epochs) == ("mse", 50, 300)
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(yaml.safe_dump(as_dict(other)))
    assert load_recipe(resolved) == other


def test_a_recipe_without_protocol_and_an_unknown_protocol() -> None:
    assert protocol_title(load_recipe("quickstart")) == "its own"
    with pytest.raises(UserError, match="protocol=sre2l: must be one of edc, .*; did you mean sre2lpp"):
        load_recipe("quickstart", ["protocol=sre2l"])


def test_seeds_and_students_are_not_part_of_a_protocol() -> None:
    mine = load_recipe("quickstart", ["evaluate.seeds=9", "evaluate.baselines=false", "relabel.encoding=uint8"])
    assert protocol_of(mine) == protocol_of(load_recipe("quickstart"))
    assert not set(TRAININGS) & set(protocol_of(mine)["evaluate"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["evaluate.loss=hard", "evaluate.hard_weight=0.5"], "loss=hard is already the cross-entropy alone"),
        (["evaluate.groups=true"], "must be a multiple of relabel.group_size=None"),
        (["relabel.group_size=8", "evaluate.groups=true", "evaluate.batch_size=20"], "evaluate.batch_size=20"),
        (["relabel.augment.patches=2"], "labels of shuffled patches cannot be stored; set encoding: none"),
        (["evaluate.scores=true", "evaluate.baselines=false"], "evaluate.scores=true: needs"),
        (["relabel.group_size=1"], "relabel.group_size"),
        (["evaluate.ema=1"], "evaluate.ema"),
        (["relabel.top_k=0"], "relabel.top_k"),
    ],
)
def test_contradicting_settings_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(RecipeError) as refusal:
        load_recipe("quickstart", overrides)
    assert message in str(refusal.value)


# Schedules and losses


def test_a_smoothed_cosine_ends_at_half() -> None:
    plain, smooth = Optimizer(lr=1.0), Optimizer(lr=1.0, smoothing=2)
    assert learning_rate(plain, 50, 100) == pytest.approx(0.5) and learning_rate(plain, 100, 100) == pytest.approx(0)
    assert learning_rate(smooth, 100, 100) == pytest.approx(0.5)
    assert learning_rate(smooth, 50, 100) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))


def test_the_teachers_temperature_falls_in_steps_to_its_floor() -> None:
    spec = Evaluate(temperature=20, cooling=Cooling(factor=0.7, every=30, floor=2))
    assert [round(teacher_temperature(spec, epoch), 3) for epoch in (0, 29, 30, 60, 299)] == [20, 20, 14, 9.8, 2]
    assert teacher_temperature(Evaluate(temperature=1, cooling=Cooling()), 299) == 1, (
        "never above the initial temperature"
    )


def test_losses_match_their_papers() -> None:
    draw = torch.Generator().manual_seed(0)
    student, answers = torch.randn(6, 5, generator=draw), torch.randn(6, 5, generator=draw)
    spec = Evaluate(temperature=8, student_temperature=0.5, cooling=Cooling(factor=0.5, every=1, floor=2))
    p, q = (answers / 4).softmax(1), (student / 0.5).softmax(1)
    expected = (p * (p.log() - q.log())).sum(1).mean()
    torch.testing.assert_close(soft_loss(spec, 1, student, answers), expected)
    mse = soft_loss(Evaluate(loss="mse"), 0, student, answers)
    torch.testing.assert_close(mse, F.mse_loss(student, answers))


def test_averaged_weights_are_the_moving_average() -> None:
    model = networks.build(Network(model="convnet", width=0.1), ["a", "b"], (8, 8), seed=0)
    student = Student(model, Evaluate(ema=0.9))
    expected: dict[str, torch.Tensor] = {}
    for step in range(4):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 * (step + 1)
        student.update_average()
        for name, value in model.named_parameters():
            now = value.detach().clone()
            expected[name] = now if step == 0 else 0.9 * expected[name] + 0.1 * now
    for name, value in student.scored.named_parameters():
        torch.testing.assert_close(value, expected[name])
    assert Student(model, Evaluate()).scored is model and isinstance(student.state, nn.ModuleList)


# Patches


def test_shuffled_patches_are_a_permutation_and_the_identity_leaves_them() -> None:
    images = torch.randint(0, 256, (3, 3, 6, 9), dtype=torch.uint8)
    order = torch.arange(9).repeat(3, 1)
    assert torch.equal(shuffle_patches(images, order), images)
    order[1] = torch.tensor([8, 1, 2, 3, 4, 5, 6, 7, 0])
    moved = shuffle_patches(images, order)
    assert torch.equal(moved[1, :, :2, :3], images[1, :, 4:, 6:]) and torch.equal(
        moved[1, :, 4:, 6:], images[1, :, :2, :3]
    )
    assert torch.equal(moved[1, :, 2:4], images[1, :, 2:4]) and torch.equal(moved[0], images[0])


def test_views_of_patches_show_all_of_them() -> None:
    images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    views = sample_views(Augment(patches=2, crop="none", flip=False), 4, (8, 8), torch.Generator().manual_seed(1))
    assert views.patches is not None and views.patches.sort(1).values.tolist() == [[0, 1, 2, 3]] * 4
    shown = render(images, views, torch.arange(4))
    assert torch.equal(shown, shuffle_patches(images, views.patches.long()))
    assert torch.equal(shown.flatten(2).sort(2).values, images.flatten(2).sort(2).values)
    plain = Views(views.boxes, views.flips)
    assert torch.equal(render(images, plain, torch.arange(4)), images)


def test_patches_that_do_not_fit_are_refused(recovered: tuple[Path, Path], tmp_path: Path) -> None:
    recipe = small_recipe(recovered[0], tmp_path, "relabel.encoding=none", "relabel.augment.patches=3")
    [problem] = undivided_patches(recipe, (8, 8))
    assert "relabel.augment.patches=3: images of 8 x 8 pixels cannot be cut" in problem
    assert not undivided_patches(recipe, (9, 12))
