"""Summarize the trainings of a continual-learning study, and write a table, a CSV file and a plot."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from srel_hub.reports import plot_style
from srel_hub.reports.tables import markdown_table, write_csv
from srel_hub.stages.evaluate.summary import percent
from srel_hub.storage.files import atomic_write, read_json, write_json, write_text
from srel_hub.studies.continual.protocol import Labels, Setting, Training


LABEL_SOURCES: Mapping[Labels, str] = {
    "step": "soft labels of a teacher trained at every step on the classes seen so far",
    "seen": "soft labels of the run's teacher, only its logits of the classes seen so far",
    "all": "soft labels of the run's teacher, its logits of all classes including future ones",
}


def summarize(setting: Setting, memories: Sequence[str], folder: Path) -> dict[str, Any]:
    """Return mean and sample standard deviation over the seeds, for every memory after every step.

    Args:
        setting: The options of the study.
        memories: Names of the memories.
        folder: The folder with the result files of all trainings.

    Returns:
        `setting`; `classes`, the number of classes seen after each step; and `memories`, which has for each memory its
        `images` and `steps` after each step, and `average`, the spread of each seed's mean over the steps. Accuracies
        are in [0, 1].
    """
    summaries, classes = {}, []
    for memory in memories:
        results = [
            [read_json(folder / f"{Training(step, memory, seed).name}.json") for seed in range(setting.seeds)]
            for step in range(setting.steps)
        ]
        top1 = [[result["top1"] for result in step] for step in results]
        classes = [step[0]["classes"] for step in results]
        summaries[memory] = {
            "images": [step[0]["images"] for step in results],
            "steps": [_spread(step) for step in top1],
            "average": _spread([statistics.fmean(seed) for seed in zip(*top1, strict=True)]),
        }
    return {"setting": asdict(setting), "classes": classes, "memories": summaries}


def _spread(values: Sequence[float]) -> dict[str, Any]:
    std = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "std": std, "values": list(values)}


def table(summary: dict[str, Any]) -> list[str]:
    """Return a Markdown table with a line per memory and a column per step, and lines that explain its numbers."""
    header = ["memory", *(f"{count} classes" for count in summary["classes"]), "average"]
    rows = [
        [memory, *map(percent, row["steps"]), percent(row["average"])] for memory, row in summary["memories"].items()
    ]
    return [*markdown_table(header, rows, right=range(1, len(header))), "", *_legend(Setting(**summary["setting"]))]


def _legend(setting: Setting) -> Iterator[str]:
    spread = f"mean +- standard deviation over {setting.seeds} seeds" if setting.seeds > 1 else "one seed"
    candidates = "all classes" if setting.labels == "all" else "these classes"
    yield f"top-1 % on the eval images of the classes seen so far, chosen among {candidates}; last epoch, {spread};"
    yield f"average: over the steps; {LABEL_SOURCES[setting.labels]};"
    yield "-hard: class labels only; all memories have the same number of images per class"


def _csv_rows(summary: dict[str, Any]) -> Iterator[list[object]]:
    for memory, row in summary["memories"].items():
        for step, score in enumerate(row["steps"]):
            sizes = [summary["classes"][step], row["images"][step]]
            yield [memory, step + 1, *sizes, score["mean"], score["std"], len(score["values"])]


def plot(summary: dict[str, Any], file: Path) -> None:
    """Plot accuracy after each step: one line per memory, dotted if the memory has only hard labels.

    Raises:
        UserError: If matplotlib is missing.
    """
    with plot_style.panels(file, 1, 1, 4.6, 3.6) as panels:
        panel = panels[0][0]
        for index, (memory, row) in enumerate(summary["memories"].items()):
            y = [100 * step["mean"] for step in row["steps"]]
            error = [100 * (step["std"] or 0) for step in row["steps"]]
            style = {"color": plot_style.COLORS[index], "marker": plot_style.MARKERS[index], "capsize": 2}
            dashes = ":" if memory.endswith("hard") else "-"
            panel.errorbar(summary["classes"], y, error, **style, linestyle=dashes, label=memory.replace("-", " "))
        panel.set(xlabel="classes seen", ylabel="top-1 % on the classes seen")
        panel.set_xticks(summary["classes"])
        panel.minorticks_off()
        plot_style.legend_below(panel)


def write_results(summary: dict[str, Any], folder: Path) -> None:
    """Write summary, table, CSV file and plot, and print the table.

    Raises:
        UserError: If matplotlib is missing. The plot comes last, so that the other files exist by then.
    """
    lines = table(summary)
    write_json(folder / "summary.json", summary)
    write_text(folder / "table.md", "\n".join(lines) + "\n")
    with atomic_write(folder / "table.csv") as temporary:
        write_csv(temporary, ["memory", "step", "classes", "images", "top1", "std", "n"], _csv_rows(summary))
    print("\n".join([*lines, f"written: {folder}: table.md, table.csv, plot.png"]))
    plot(summary, folder / "plot.png")
