"""stages.evaluate.summary."""

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
    """One unit of work: which student, on which row, with which seed."""

    student: Network
    row: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.student.name}-{self.row}-seed{self.seed}"


def trainings(spec: config.Evaluate, rows: Sequence[str]) -> list[Training]:
    """All trainings of a recipe."""
    return [Training(student, row, seed) for student in spec.students for seed in range(spec.seeds) for row in rows]


def summarize(folder: Path, spec: config.Evaluate, row_names: Sequence[str]) -> dict[str, Any]:
    """Mean and sample standard deviation over the seeds of every student and row."""
    if not row_names:
        return {"measured": False, "students": []}
    students = []
    for student in spec.students:
        rows = []
        for row in row_names:
            names = [Training(student, row, seed).name for seed in range(spec.seeds)]
            metrics = [read_json(folder / name / "metrics.json") for name in names]
            rows.append({"row": row, "n": len(metrics), "train_images": metrics[0]["train_images"]})
            for key in ("top1", "top5"):
                values = [metric[key] for metric in metrics]
                spread = statistics.stdev(values) if len(values) > 1 else None
                rows[-1][key] = {"mean": statistics.fmean(values), "std": spread, "values": values}
        named = {"model": student.shown, "width": student.width, "stem": student.stem}
        named["revision"] = metrics[0].get("revision")
        scored = {"scores": scores(rows, spec.loss == "hard")} if spec.scores else {}
        students.append({**named, "rows": rows, **scored})
    return {"measured": True, "students": students}


def scores(rows: Sequence[dict[str, Any]], hard: bool) -> dict[str, float]:
    """DD-Ranking's scores of one student, from its rows' mean top-1."""
    top1 = {row["row"]: row["top1"]["mean"] for row in rows}
    hlr = hard_label_recovery(top1["real-hard"], top1["condensed" if hard else "condensed-hard"])
    ior = improvement_over_random(top1["condensed"], top1["random-real"])
    whole = improvement_over_random(top1["condensed-whole"], top1["random-real-whole"])
    return {"hlr": hlr, "ior": ior, "lrs": label_robust_score(hlr, ior), "ars": augmentation_robust_score(ior, whole)}


def results_table(summary: dict[str, Any]) -> list[str]:
    """The summary as lines of text."""
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
            told = ", ".join(f"{key.upper()} {student['scores'][key]:.3f}" for key in ("hlr", "ior", "lrs", "ars"))
            lines.append(f"{name:<16} {told} (fractions)")
    return lines


def student_title(student: dict[str, Any]) -> str:
    """'resnet18 x 0.25', as network_title has it."""
    title = network_title(student["model"], student["width"], student.get("stem", "small"))
    return f"{title} at {student['revision'][:7]}" if student.get("revision") else title


def percent(score: dict[str, Any]) -> str:
    """'97.10 +- 0.32', or the mean alone where there was one seed."""
    spread = "" if score["std"] is None else f" +- {score['std']:.2%}"
    return f"{score['mean']:.2%}{spread}".replace("%", "")
