"""What continual learning came to: means over the seeds, a table, a CSV and a plot, from the trainings' files."""

import csv
import io
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from srel_hub.reports import plot_style as drawing
from srel_hub.stages.evaluate.summary import percent
from srel_hub.storage.files import read_json, write_json, write_text
from srel_hub.studies.continual.protocol import Labels, Setting, Training


KNOWLEDGE: Mapping[Labels, str] = {
    "step": "labels of a teacher trained at every step on the classes seen so far",
    "seen": "labels of the run's teacher, its logits of the classes seen so far",
    "all": "labels of the run's teacher, its logits of all classes, future ones included",
}


def summarize(setting: Setting, memories: Sequence[str], folder: Path) -> dict[str, Any]:
    """Mean and sample standard deviation over the seeds, of every memory after every step, and of each seed's mean
    over the steps; accuracies are in [0, 1].
    """
    rows, classes = {}, []
    for memory in memories:
        told = [
            [read_json(folder / f"{Training(step, memory, seed).name}.json") for seed in range(setting.seeds)]
            for step in range(setting.steps)
        ]
        classes = [step[0]["classes"] for step in told]
        rows[memory] = {
            "images": [step[0]["images"] for step in told],
            "steps": [_spread([each["top1"] for each in step]) for step in told],
            "average": _spread([statistics.fmean(each["top1"] for each in seed) for seed in zip(*told, strict=True)]),
        }
    return {"setting": asdict(setting), "classes": classes, "memories": rows}


def _spread(values: Sequence[float]) -> dict[str, Any]:
    std = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "std": std, "values": list(values)}


def table(summary: dict[str, Any]) -> Iterator[str]:
    """Markdown: a line a memory, a column a step, and what the numbers are."""
    classes, setting = summary["classes"], Setting(**summary["setting"])
    yield f"| memory | {' | '.join(f'{count} classes' for count in classes)} | average |"
    yield f"| --- | {'---: | ' * len(classes)}---: |"
    for memory, row in summary["memories"].items():
        yield f"| {memory} | {' | '.join(percent(step) for step in row['steps'])} | {percent(row['average'])} |"
    spread = f"mean +- standard deviation over {setting.seeds} seeds" if setting.seeds > 1 else "one seed"
    among = "all classes" if setting.labels == "all" else "these classes"
    yield ""
    yield f"top-1 % on the eval images of the classes seen, chosen among {among}; last epoch, {spread}; average: of"
    yield f"the steps; {KNOWLEDGE[setting.labels]};"
    yield "-hard: the classes alone; every memory has as many images of a class"


def write_csv(summary: dict[str, Any], file: Path) -> None:
    """A line a memory and step; top1 and std are in [0, 1]."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["memory", "step", "classes", "images", "top1", "std", "n"])
    for memory, row in summary["memories"].items():
        for index, score in enumerate(row["steps"]):
            told = (summary["classes"][index], row["images"][index], score["mean"], score["std"], len(score["values"]))
            writer.writerow([memory, index + 1, *told])
    write_text(file, text.getvalue())


def plot(summary: dict[str, Any], file: Path) -> None:
    """Accuracy after each step: a line a memory, dotted those with the classes alone.

    Raises:
        UserError: without matplotlib.
    """
    with drawing.panels(file, 1, 1, 4.6, 3.6) as panels:
        panel = panels[0][0]
        for index, (memory, row) in enumerate(summary["memories"].items()):
            y = [100 * step["mean"] for step in row["steps"]]
            error = [100 * (step["std"] or 0) for step in row["steps"]]
            style = {"color": drawing.COLORS[index], "marker": drawing.MARKERS[index], "capsize": 2}
            dashes = ":" if memory.endswith("hard") else "-"
            panel.errorbar(summary["classes"], y, error, **style, linestyle=dashes, label=memory.replace("-", " "))
        panel.set(xlabel="classes seen", ylabel="top-1 % on the classes seen")
        panel.set_xticks(summary["classes"])
        panel.minorticks_off()
        drawing.legend_below(panel)


def conclude(summary: dict[str, Any], folder: Path) -> None:
    """Write summary, table, CSV and plot; print the table."""
    lines = list(table(summary))
    write_json(folder / "summary.json", summary)
    write_text(folder / "table.md", "\n".join(lines) + "\n")
    write_csv(summary, folder / "table.csv")
    print("\n".join([*lines, f"written: {folder}: table.md, table.csv, plot.png"]))
    plot(summary, folder / "plot.png")  # last: it may find matplotlib missing
