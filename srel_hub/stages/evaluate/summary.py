"""The trainings of evaluate, and the summary of their results."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srel_hub import config
from srel_hub.config import Network, network_title
from srel_hub.core.ddranking import (
    augmentation_robust_score,
    hard_label_recovery,
    improvement_over_random,
    label_robust_score,
)
from srel_hub.storage.files import read_json


@dataclass(frozen=True)
class Training:
    """One unit of work.

    Attributes:
        student: The network to train.
        training_set: The name of the training set, a key of TRAINING_SETS.
        seed: Number of the training, from 0.
    """

    student: Network
    training_set: str
    seed: int

    @property
    def name(self) -> str:
        """Name of the unit and of its folder."""
        return f"{self.student.name}-{self.training_set}-seed{self.seed}"


def trainings(spec: config.Evaluate, training_sets: Sequence[str]) -> list[Training]:
    """Return all trainings of a recipe."""
    return [
        Training(student, name, seed)
        for student in spec.students
        for seed in range(spec.seeds)
        for name in training_sets
    ]


def summarize(folder: Path, spec: config.Evaluate, training_sets: Sequence[str]) -> dict[str, Any]:
    """Compute mean and sample standard deviation over the seeds, for every student and training set.

    Args:
        folder: The run's folder `evaluate`.
        spec: The recipe's section.
        training_sets: Names of the training sets; empty if no student was trained.

    Returns:
        The content of summary.json.
    """
    if not training_sets:
        return {"measured": False, "students": []}
    students = []
    for student in spec.students:
        rows = []
        for training_set in training_sets:
            names = [Training(student, training_set, seed).name for seed in range(spec.seeds)]
            metrics = [read_json(folder / name / "metrics.json") for name in names]
            rows.append({"row": training_set, "n": len(metrics), "train_images": metrics[0]["train_images"]})
            for key in ("top1", "top5"):
                values = [metric[key] for metric in metrics]
                std = statistics.stdev(values) if len(values) > 1 else None
                rows[-1][key] = {"mean": statistics.fmean(values), "std": std, "values": values}
        named = {"model": student.shown, "width": student.width, "stem": student.stem}
        named["revision"] = metrics[0].get("revision")
        scored = {"scores": scores(rows, spec.loss == "hard")} if spec.scores else {}
        students.append({**named, "rows": rows, **scored})
    return {"measured": True, "students": students}


def scores(rows: Sequence[dict[str, Any]], hard: bool) -> dict[str, float]:
    """Compute DD-Ranking's scores of one student from the mean top-1 of its rows (Li et al., 2025)."""
    top1 = {row["row"]: row["top1"]["mean"] for row in rows}
    hlr = hard_label_recovery(top1["real-hard"], top1["condensed" if hard else "condensed-hard"])
    ior = improvement_over_random(top1["condensed"], top1["random-real"])
    whole = improvement_over_random(top1["condensed-whole"], top1["random-real-whole"])
    return {"hlr": hlr, "ior": ior, "lrs": label_robust_score(hlr, ior), "ars": augmentation_robust_score(ior, whole)}


def results_table(summary: dict[str, Any]) -> list[str]:
    """Return the summary as lines of text."""
    if not summary["measured"]:
        return ["student accuracy: not measured (source.eval_split is null)"]
    lines = [f"{'student':<16} {'trained on':<18} {'images':>7} {'top-1':>16} {'top-5':>16}   n"]
    for student in summary["students"]:
        for row in student["rows"]:
            name = student_title(student)
            cells = (percent(row["top1"]), percent(row["top5"]))
            lines.append(
                f"{name:<16} {row['row']:<18} {row['train_images']:>7} {cells[0]:>16} {cells[1]:>16} {row['n']:>3}"
            )
        if "scores" in student:
            values = ", ".join(f"{key.upper()} {student['scores'][key]:.3f}" for key in ("hlr", "ior", "lrs", "ars"))
            lines.append(f"{name:<16} {values} (fractions)")
    return lines


def student_title(student: dict[str, Any]) -> str:
    """Return a student's name, such as 'resnet18 x 0.25', with its commit if it came from the Hub."""
    title = network_title(student["model"], student["width"], student.get("stem", "small"))
    return f"{title} at {student['revision'][:7]}" if student.get("revision") else title


def percent(score: dict[str, Any]) -> str:
    """Return '97.10 +- 0.32', or the mean alone if there is one seed."""
    spread = "" if score["std"] is None else f" +- {score['std']:.2%}"
    return f"{score['mean']:.2%}{spread}".replace("%", "")
