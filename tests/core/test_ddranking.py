"""Scores against a calculation by hand, the rows they need, compared runs, and layouts of other tools."""

import csv
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from condensed_runs import FINISHED, condensed_run
from datasets import load_dataset
from PIL import Image

from srel_hub.commands.program import main
from srel_hub.config import Network, load_recipe
from srel_hub.config.protocols import deviations
from srel_hub.core.ddranking import (
    augmentation_robust_score,
    hard_label_recovery,
    improvement_over_random,
    label_robust_score,
)
from srel_hub.evaluate import evaluate
from srel_hub.runs.run import Run
from srel_hub.stages.evaluate.summary import scores
from srel_hub.storage.files import read_json
from srel_hub.teachers import architectures, classifier


# Accuracies of an invented method: all real 0.90, condensed hard 0.50, condensed soft 0.70, random soft 0.60, not
# augmented 0.55 and 0.50. HLR 0.4, IOR 0.1; w IOR - (1 - w) HLR = -0.15;
# (e^-0.15 - e^-1) / (e - e^-1) = (0.860708 - 0.367879) / 2.350402 = 0.209679; (0.1 + 0.05) / 2 = 0.075;
# (e^0.075 - e^-1) / 2.350402 = (1.077884 - 0.367879) / 2.350402 = 0.302078.
BY_HAND = {"hlr": 0.4, "ior": 0.1, "lrs": 0.209679, "ars": 0.302078}


def test_scores_are_those_of_a_calculation_by_hand() -> None:
    hlr, ior = hard_label_recovery(0.90, 0.50), improvement_over_random(0.70, 0.60)
    whole = improvement_over_random(0.55, 0.50)
    computed = {
        "hlr": hlr,
        "ior": ior,
        "lrs": label_robust_score(hlr, ior),
        "ars": augmentation_robust_score(ior, whole),
    }
    assert computed == pytest.approx(BY_HAND, abs=1e-6)
    accuracies = {"real-hard": 0.9, "condensed-hard": 0.5, "condensed": 0.7, "random-real": 0.6}
    accuracies |= {"condensed-whole": 0.55, "random-real-whole": 0.5}
    rows = [{"row": name, "top1": {"mean": value}} for name, value in accuracies.items()]
    assert scores(rows, hard=False) == pytest.approx(BY_HAND, abs=1e-6)


def test_scores_lie_in_0_to_1() -> None:
    assert label_robust_score(-1, 1) == pytest.approx(1) and label_robust_score(1, -1) == pytest.approx(0)
    assert label_robust_score(0.3, 0.2, w=1) == pytest.approx((math.exp(0.2) - math.exp(-1)) / (math.e - math.exp(-1)))


def test_the_rows_of_the_scores_are_trained_and_reported(finished: Path, tmp_path: Path) -> None:
    """Scores that are requested later need no overwriting: finished trainings are kept."""
    shutil.copytree(finished, tmp_path / finished.name)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / finished.name / "evaluate").rglob("metrics.json")}
    options = [*FINISHED, "evaluate.scores=true"]
    run = Run(load_recipe(finished.parent.parent / "colors.yaml", [*options, f"run.root={tmp_path}"]))
    evaluate(run)
    run.close()
    (student,) = read_json(run.path("evaluate", "summary.json"))["students"]
    rows = {row["row"]: row for row in student["rows"]}
    assert list(rows) == [
        *("condensed", "random-real", "random-real-hard"),
        *("condensed-hard", "real-hard", "condensed-whole", "random-real-whole"),
    ]
    assert rows["real-hard"]["train_images"] == 36 and rows["condensed-hard"]["train_images"] == 9
    assert student["scores"] == scores(student["rows"], hard=False)
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())


def test_the_hard_protocol_uses_no_label_of_the_teacher(finished: Path, tmp_path: Path) -> None:
    options = ["protocol=hard", "evaluate.epochs=2", "evaluate.batch_size=4", "evaluate.scores=true"]
    run = condensed_run(finished, tmp_path, *options)
    (student,) = read_json(run.path("evaluate", "summary.json"))["students"]
    assert [row["row"] for row in student["rows"]] == [
        "condensed",
        "random-real",
        "real-hard",
        "condensed-whole",
        "random-real-whole",
    ]
    card = run.path("dataset", "README.md").read_text()
    assert "cross-entropy with the classes" in card and "| condensed images, hard labels |" in card
    assert "| HLR | IOR | LRS | ARS |" in card


@pytest.mark.parametrize(
    "protocol",
    [
        *("sre2lpp", "edc", "lpqld"),
        *(pytest.param(name, marks=pytest.mark.long) for name in ("sre2l-300", "sre2l-tiny", "fadrm", "rded")),
    ],
)
def test_every_protocol_trains(finished: Path, tmp_path: Path, protocol: str) -> None:
    """Two epochs of nine images; in groups where the protocol has them."""
    options = [f"protocol={protocol}", "evaluate.epochs=2", "evaluate.seeds=1", "evaluate.optimizer.warmup_epochs=0"]
    groups = ["relabel.group_size=4"] if protocol in ("sre2lpp", "fadrm") else []
    run = condensed_run(finished, tmp_path, *options, *groups)
    changed = set(deviations(run.recipe))
    warm_up = {"evaluate.optimizer.warmup_epochs"} if protocol == "sre2l-tiny" else set()
    assert changed == {"evaluate.epochs", "evaluate.batch_size", *warm_up} | (
        {"relabel.group_size"} if groups else set()
    )
    card = run.path("dataset", "README.md").read_text()
    assert f"Protocol: {protocol}, but " in card
    assert read_json(run.path("evaluate", "summary.json"))["students"][0]["rows"][0]["n"] == 1


# Side by side


def trial(finished: Path, root: Path, name: str, top1: dict[str, float], **evaluate: Any) -> Path:
    """A copy of a finished run under another name, with other accuracies and another protocol."""
    folder = shutil.copytree(finished, root / name)
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    recipe["name"] = name
    recipe["evaluate"] |= evaluate
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    summary = read_json(folder / "evaluate" / "summary.json")
    for row in summary["students"][0]["rows"]:
        row["top1"]["mean"] = top1.get(row["row"], 0.5)
    (folder / "evaluate" / "summary.json").write_text(json.dumps(summary))
    return folder


def test_different_protocols_never_share_a_column(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = trial(finished, tmp_path, "one", {"condensed": 0.41})
    two = trial(finished, tmp_path, "two", {"condensed": 0.42})
    other = trial(finished, tmp_path, "other", {"condensed": 0.43}, epochs=3)
    named = trial(finished, tmp_path, "named", {"condensed": 0.44}, seeds=2, temperature=7.0)
    paths = [str(folder) for folder in (one, two, other, named)]
    assert main(["compare", *paths, "--csv", str(tmp_path / "all.csv"), "--plot", str(tmp_path / "all.png")]) == 0
    lines = capsys.readouterr().out.splitlines()
    head, *body = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    cells = {row[0]: row[5:8] for row in body if row[2] == "condensed"}
    assert head[5:8] == ["P1", "P2", "P3"]
    filled = {name: [bool(cell) for cell in row] for name, row in cells.items()}
    assert filled["one"] == filled["two"] == [True, False, False]
    assert filled["other"] == [False, True, False] and filled["named"] == [False, False, True]
    assert cells["two"][0].startswith("42.00")
    assert [line.strip() for line in lines if line.startswith("  P")] == [
        *("P1: its own 1", "P2: its own 2", "P3: its own 3")
    ]
    with (tmp_path / "all.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12 and {row["protocol"] for row in rows if row["dataset"] in ("one", "two")} == {"its own 1"}
    with Image.open(tmp_path / "all.png") as picture:
        assert picture.width > 600


def test_a_run_and_its_dataset_compare_alike(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(finished)]) == 0
    run = capsys.readouterr().out
    assert main(["compare", str(finished / "dataset")]) == 0
    dataset = capsys.readouterr().out
    assert run.splitlines()[2].split("|")[3:5] == dataset.splitlines()[2].split("|")[3:5]


def test_what_cannot_be_compared_says_why(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(finished), str(finished)]) == 2
    assert "the same run is given twice" in capsys.readouterr().err
    folder = trial(finished, tmp_path, "none", {})
    (folder / "evaluate" / "summary.json").write_text(json.dumps({"measured": False, "students": []}))
    assert main(["compare", str(folder)]) == 2
    assert "its students were not measured" in capsys.readouterr().err
    assert main(["compare", str(tmp_path / "nowhere")]) in (1, 2)


# Other tools' layouts


def test_the_layout_of_rethinkdc_is_a_dataset_of_image_and_label(finished: Path, tmp_path: Path) -> None:
    target = tmp_path / "exported" / "one"
    assert main(["export", str(finished / "dataset"), "rethinkdc", str(target)]) == 0
    loaded = load_dataset(str(target))
    assert list(loaded) == ["train"] and loaded["train"].column_names == ["image", "label"]
    assert len(loaded["train"]) == 9 and not (target / "soft_labels").exists()
    assert main(["export", str(finished / "dataset"), "rethinkdc", str(target)]) == 2, "nothing is overwritten"


def test_what_ddranking_does_not_take_is_refused(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(finished / "dataset"), "ddranking", str(tmp_path / "no")]
    assert main(["export", *arguments]) == 2
    assert "--dataset: ddranking knows only CIFAR10" in capsys.readouterr().err
    assert main(["export", *arguments, "--dataset", "CIFAR10"]) == 2
    assert "the teacher is a SrelConvNetForImageClassification; only ResNet" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_images_teacher_and_configuration_for_ddranking(finished: Path, tmp_path: Path) -> None:
    resnet = tmp_path / "resnet"
    known = classifier.load(finished / "teacher", torch.device("cpu"))
    built = architectures.build(Network(model="resnet18", width=0.1), known.class_names, known.size, seed=0)
    classifier.save(classifier.Classifier(built, known.mean, known.std, known.class_names, known.size), resnet)
    run = condensed_run(finished, tmp_path, f"relabel.teacher={resnet}", "evaluate.baselines=false")
    target = tmp_path / "exported"
    assert main(["export", str(run.path("dataset")), "ddranking", str(target), "--dataset", "CIFAR10"]) == 0
    assert sorted(folder.name for folder in (target / "images").iterdir()) == ["00000", "00001", "00002"]
    assert all(len(list(folder.glob("*.png"))) == 3 for folder in (target / "images").iterdir())
    weights = torch.load(target / "teacher_models/CIFAR10/ResNet-18-BN/ckpt_best.pt", weights_only=True)
    torch.testing.assert_close(weights["fc.weight"], built.classifier[1].weight.detach())
    settings = yaml.safe_load((target / "config.yaml").read_text())
    assert (settings["dataset"], settings["ipc"], settings["im_size"], settings["soft_label_mode"]) == (
        "CIFAR10",
        3,
        [8, 8],
        "M",
    )
