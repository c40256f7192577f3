"""Recover by each class's own statistics: what is measured, what is matched, which images share it."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import make_source, small_recipe, write_recipe
from runs import PARTS, arguments, bytes_of, finish, start, until, wait, world
from stages.recover.test_optimize import LABELS, NAMES, SIZE, SPEC, classifier  # noqa: F401
from torch import Tensor, nn

from srel_hub.condense import condense
from srel_hub.config import Recipe, RecipeError, Recover, load_recipe
from srel_hub.core.augment import normalize
from srel_hub.core.crop_transform import still
from srel_hub.recover import recover
from srel_hub.runs.run import Run
from srel_hub.squeeze import squeeze
from srel_hub.stages.recover import class_statistics as class_statistics
from srel_hub.stages.recover import optimize
from srel_hub.stages.recover import patches as patches
from srel_hub.stages.recover.objective import Objective
from srel_hub.stages.recover.units import units as all_units
from srel_hub.storage import condensed_table
from srel_hub.storage.condensed_table import read_rows
from srel_hub.teachers import classifier as teacher
from srel_hub.teachers.classifier import Classifier


CPU = torch.device("cpu")
BY_CLASS = replace(SPEC, statistics="class", crop="none", flip=False, roll=(0, 0), l2_weight=0.0, tv_weight=0.0)


def real(count: int = 5) -> tuple[Tensor, list[Tensor]]:
    """Images of four classes, and where those of each are."""
    pixels = torch.randint(0, 256, (4 * count, 3, *SIZE), generator=torch.Generator().manual_seed(2)).to(torch.uint8)
    return pixels, list(torch.randperm(4 * count, generator=torch.Generator().manual_seed(3)).split(count))


def measured(classifier: Classifier, file: Path) -> class_statistics.Statistics:  # noqa: F811
    class_statistics.save(file, list(class_statistics.of_each_class(classifier, *real())))
    return class_statistics.load(file, CPU)


def test_they_are_the_mean_and_variance_of_what_each_layer_sees(
    classifier: Classifier,  # noqa: F811
    tmp_path: Path,
) -> None:
    pixels, members = real()
    found = measured(classifier, tmp_path / "x.safetensors")
    layers = [module for module in classifier.model.modules() if isinstance(module, nn.BatchNorm2d)]
    seen: dict[nn.Module, Tensor] = {}
    for layer in layers:
        layer.register_forward_hook(lambda module, args, _: seen.__setitem__(module, args[0]))
    for label, places in enumerate(members):
        classifier.model(normalize(pixels[places], classifier.table(CPU)))
        for layer, (mean, var) in zip(layers, found, strict=True):
            torch.testing.assert_close(mean[label], seen[layer].mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(var[label], seen[layer].var((0, 2, 3), correction=0), rtol=1e-3, atol=1e-5)


def test_a_classs_own_images_are_at_no_distance(classifier: Classifier, tmp_path: Path) -> None:  # noqa: F811
    pixels, members = real()
    goals = measured(classifier, tmp_path / "x.safetensors")
    x = torch.stack([normalize(pixels[places], classifier.table(CPU)) for places in members])
    labels, moves = torch.arange(4).repeat_interleave(5), still(SIZE, 4, CPU)
    with Objective([classifier], BY_CLASS, goals=[goals]) as objective:
        own = objective(x, labels, moves, 0)[1]["bn"]
        others = objective(x.roll(1, 0), labels, moves, 0)[1]["bn"]
    assert (own < 1e-2 * others).all(), (own, others)


def test_with_the_layers_own_statistics_for_every_class_it_is_the_plain_term(classifier: Classifier) -> None:  # noqa: F811
    layers = [module for module in classifier.model.modules() if isinstance(module, nn.BatchNorm2d)]
    goals = [
        (layer.running_mean.expand(4, -1), layer.running_var.expand(4, -1))
        for layer in layers
        if layer.running_mean is not None and layer.running_var is not None
    ]
    x, labels, moves = torch.randn(4, 3, 3, *SIZE), torch.arange(4).repeat_interleave(3), still(SIZE, 4, CPU)
    with Objective([classifier], BY_CLASS, goals=[goals]) as objective:
        by_class = objective(x, labels, moves, 0)
    with Objective([classifier], BY_CLASS) as objective:
        plain = objective(x, labels, moves, 0)
    torch.testing.assert_close(by_class, plain)


def test_classes_that_share_a_pass_do_not_know_of_each_other(classifier: Classifier, tmp_path: Path) -> None:  # noqa: F811
    goals = measured(classifier, tmp_path / "x.safetensors")
    spec = replace(BY_CLASS, iterations=5, crop="resized")

    def final(classes: range) -> Tensor:
        with Objective([classifier], spec, goals=[goals]) as objective:
            *_, last = optimize.synthesize(objective, optimize.Unit(range(3), classes, by_class=True), 11)
        return last.x

    together = final(range(4))
    for label in LABELS:
        torch.testing.assert_close(together[label], final(range(label, label + 1))[0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("stack", "count"), [(1, 23), (4, 6), (23, 1)])
def test_units_cover_every_image_once(stack: int, count: int) -> None:
    units = all_units(Recover(ipc=5, statistics="class"), 23, stack)
    assert len(units) == count == len({unit.name for unit in units})
    covered = [(ipc, label) for unit in units for ipc in unit.ipcs for label in unit.classes]
    assert sorted(covered) == [(ipc, label) for ipc in range(5) for label in range(23)]


@pytest.mark.parametrize("by_class", [False, True])
def test_labels_are_those_of_the_images_in_their_groups(by_class: bool) -> None:
    unit = optimize.Unit(range(2, 5), range(3, 5), by_class)
    images = torch.tensor([[(ipc, label) for label in unit.classes] for ipc in unit.ipcs])
    groups = unit.turned(images)
    assert groups.flatten(0, 1)[:, 1].tolist() == unit.labels.tolist()
    assert len(groups) == len(unit.draws(0)) == (2 if by_class else 3)
    assert torch.equal(unit.turned(groups), images)


def a_recipe(folder: Path, *more: str) -> Recipe:
    names = ["red", "green", "blue"]
    file = write_recipe(folder / "colors.yaml", make_source(folder / "source", (8, 8), names), ipc=2)
    asked = ["recover.statistics=class", "recover.statistics_images=5", "recover.stack=2"]
    return small_recipe(file, folder, *asked, *more)


def test_patches_begin_at_their_classes_and_images_end_there(tmp_path: Path) -> None:
    run = Run(a_recipe(tmp_path, "recover.patches={images: 6, crops: 2}", "recover.iterations=1", "recover.lr=1.0e-9"))
    squeeze(run)
    recover(run)
    begun = [
        row for file in sorted(run.path("patches").glob("*.parquet")) for row in condensed_table.read_parquet(file)
    ]
    assert len(begun) == 6 and sorted(begun) == sorted(read_rows(run.path("images")))
    kept = teacher.load(run.path("teacher"), CPU)
    assert [int(label) for _, label in begun] == [0, 1, 0, 1, 2, 2]
    assert run.path("statistics", "teacher.safetensors").is_file() and len(kept.class_names) == 3


def test_a_whole_run_tells_it(tmp_path: Path) -> None:
    run = Run(a_recipe(tmp_path, "recover.bn_weight=auto"))
    condense(run)
    assert "each class's own statistics" in run.path("dataset", "README.md").read_text()
    terms = [json.loads(line) for line in run.path("metrics.jsonl").read_text().splitlines()]
    assert [line for line in terms if line["stage"] == "statistics"]


def test_without_a_training_split_it_is_refused() -> None:
    with pytest.raises(RecipeError, match="statistics=class: needs the training split"):
        load_recipe("in1k_ipc50", ["recover.statistics=class", "source.train_split=null"])


@pytest.mark.long
def test_killed_and_shared_it_is_the_same(tmp_path: Path) -> None:
    asked = ("recover={ipc: 2, iterations: 15, stack: 1, statistics: class, statistics_images: 6, bn_weight: auto}",)
    recipe = world(tmp_path)
    finish(arguments(recipe, tmp_path / "whole", *asked), tmp_path / "whole.txt")
    shared = arguments(recipe, tmp_path / "shared", *asked, "run.cooperate=true")
    pid = start(shared, tmp_path / "killed.txt")
    assert until(lambda: list((tmp_path / "shared/world/units/statistics").glob("*.json")), pid)
    os.kill(pid, signal.SIGKILL)
    assert wait(pid) == -signal.SIGKILL
    statuses = [wait(pid) for pid in [start(shared, tmp_path / f"{number}.txt") for number in range(2)]]
    assert statuses == [0, 0], (tmp_path / "0.txt").read_text()[-2000:]
    whole, together = (bytes_of(tmp_path / name / "world", (*PARTS, "statistics")) for name in ("whole", "shared"))
    assert whole == together and "statistics/teacher.safetensors" in whole
