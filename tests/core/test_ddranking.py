"""Scores are those of a calculation by hand, and the rows that they need are trained."""

import math
import shutil
from pathlib import Path

import pytest
from condensed_runs import FINISHED, condensed_run

from srel_hub.config import load_recipe
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
    assert "cross-entropy with hard labels" in card and "| condensed images, hard labels |" in card
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
