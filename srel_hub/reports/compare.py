"""Compare: condensed datasets side by side, a column for each protocol.

    srel-hub compare runs/one runs/two org/srel-three --csv results.csv --plot results.png

Numbers of different protocols never share a column or a picture's panel: a protocol is all that decides how a student
is trained and scored, whatever its name.
"""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from srel_hub.config import Recipe, fingerprint, load_recipe
from srel_hub.config.protocols import protocol_of, protocol_title
from srel_hub.errors import UserError
from srel_hub.hub.repository import Store, open_store
from srel_hub.labels.manifest import MANIFEST, read_manifest
from srel_hub.reports import plot_style as drawing
from srel_hub.stages.evaluate.summary import percent, student_title
from srel_hub.storage.files import format_bytes, read_json


SUMMARIES = ("metrics.json", "evaluate/summary.json")  # of a dataset, of a run


@dataclass(frozen=True)
class Result:
    """One student on one row of one dataset; `protocol` is a title that no other protocol has here."""

    dataset: str
    source: str
    student: str
    row: str
    images: int
    label_bytes: int
    labels: str
    protocol: str
    top1: float
    std: float | None
    n: int

    @property
    def cell(self) -> str:
        return percent({"mean": self.top1, "std": self.std})


def results(paths: Sequence[str]) -> list[Result]:
    """Every result of these runs, folders and Hub datasets.

    Raises:
        UserError: for a path that is none, is given twice, or holds no results.
    """
    if len(set(paths)) != len(paths):
        raise UserError("the same run is given twice")
    found = [(path, *_read(path)) for path in paths]
    titles = _titles([recipe for _, recipe, _, _ in found])
    names = _names([(path, recipe) for path, recipe, _, _ in found])
    return [
        Result(
            dataset=names[path],
            source=recipe.source.title or recipe.source.path or str(recipe.source.builtin),
            student=student_title(student),
            row=row["row"],
            images=row["train_images"],
            label_bytes=0 if _is_hard(recipe, row["row"]) else store_bytes,
            labels="" if _is_hard(recipe, row["row"]) else labels,
            protocol=titles[_key(recipe)],
            top1=row["top1"]["mean"],
            std=row["top1"]["std"],
            n=row["n"],
        )
        for path, recipe, summary, (store_bytes, labels) in found
        for student in summary["students"]
        for row in student["rows"]
    ]


def _read(path: str) -> tuple[Recipe, dict[str, Any], tuple[int, str]]:
    """The recipe, the summary, and the labels' bytes and encoding."""
    store = open_store(path, "dataset", None, MANIFEST)
    names = store.names()
    summary = next((name for name in SUMMARIES if name in names), None)
    if summary is None:
        raise UserError(f"{store}: holds no results; run evaluate on it first")
    found = read_json(store.fetch(summary))
    if not found["measured"]:
        raise UserError(f"{store}: its students were not measured (source.eval_split is null)")
    manifest_file = store.fetch(MANIFEST)
    manifest = read_manifest(manifest_file)
    size = manifest_file.stat().st_size + sum(file.bytes for file in manifest.files)
    return _recipe(store), found, (size, f"{manifest.coding}, {manifest.epochs} epochs")


def _recipe(store: Store) -> Recipe:
    try:
        return load_recipe(store.fetch("recipe.yaml"))
    except UserError as error:
        raise UserError(f"{store}: its recipe cannot be read by this version: {error}") from None


def _is_hard(recipe: Recipe, row: str) -> bool:
    """Whether a row needs no soft labels."""
    return recipe.evaluate.loss == "hard" or row in ("condensed-hard", "random-real-hard", "real-hard")


def _key(recipe: Recipe) -> str:
    return fingerprint(protocol_of(recipe))


def _titles(recipes: Sequence[Recipe]) -> dict[str, str]:
    """A title for each protocol, by its fingerprint; equal titles of different protocols are numbered."""
    titles: dict[str, str] = {}
    for recipe in recipes:
        titles.setdefault(_key(recipe), protocol_title(recipe))
    same = {title: [key for key in titles if titles[key] == title] for title in titles.values()}
    return {
        key: title if len(same[title]) == 1 else f"{title} {same[title].index(key) + 1}"
        for key, title in titles.items()
    }


def _names(recipes: Sequence[tuple[str, Recipe]]) -> dict[str, str]:
    """A name for each path: its recipe's, or the path where two have the same."""
    names = [recipe.name for _, recipe in recipes]
    return {path: recipe.name if names.count(recipe.name) == 1 else path for path, recipe in recipes}


def table(found: Sequence[Result]) -> Iterator[str]:
    """A Markdown table: a line for each dataset, student and row, a column for each protocol."""
    protocols = list(dict.fromkeys(result.protocol for result in found))
    letters = {protocol: f"P{index + 1}" for index, protocol in enumerate(protocols)}
    yield f"| dataset | student | trained on | images | soft labels | {' | '.join(letters.values())} | n |"
    yield f"| --- | --- | --- | ---: | --- | {'---: | ' * len(protocols)}---: |"
    for result in found:
        cells = [result.cell if result.protocol == protocol else "" for protocol in protocols]
        labels = f"{result.labels}, {format_bytes(result.label_bytes)}" if result.labels else "none"
        head = f"{result.dataset} | {result.student} | {result.row} | {result.images:,} | {labels}"
        yield f"| {head} | {' | '.join(cells)} | {result.n} |"
    yield ""
    yield "top-1 %, mean +- standard deviation over n seeds, last epoch; a column is one protocol:"
    yield from (f"  {letter}: {protocol}" for protocol, letter in letters.items())


def write_csv(found: Sequence[Result], file: Path) -> None:
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, [field.name for field in fields(Result)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(result) for result in found)


def plot(found: Sequence[Result], file: Path) -> None:
    """Accuracy against images and against label bytes; a line of panels for each protocol.

    Raises:
        UserError: without matplotlib.
    """
    protocols = list(dict.fromkeys(result.protocol for result in found))
    with drawing.panels(file, len(protocols), 2, 4.5, 3.2) as panels:
        for panel, protocol in zip(panels, protocols, strict=True):
            here = [result for result in found if result.protocol == protocol]
            for axes, of, label in zip(
                panel, ("images", "label_bytes"), ("training images", "soft labels, bytes"), strict=True
            ):
                if not any(getattr(result, of) for result in here):
                    axes.set_axis_off()
                    axes.text(0.5, 0.5, "no soft labels", ha="center")
                    continue
                _draw(axes, here, of)
                axes.margins(0.2)
                axes.set(xlabel=label, ylabel="top-1 %", xscale="log")
                axes.set_title(protocol if of == "images" else "")
            panel[0].legend()


def _draw(axes: Any, found: Sequence[Result], of: str) -> None:
    """One marker for each row."""
    rows = list(dict.fromkeys(result.row for result in found))
    for row, color, marker in zip(rows, drawing.COLORS, drawing.MARKERS, strict=False):
        here = [result for result in found if result.row == row and getattr(result, of)]
        if not here:
            continue
        x, y = [getattr(result, of) for result in here], [100 * result.top1 for result in here]
        error = [100 * (result.std or 0) for result in here]
        axes.errorbar(x, y, error, color=color, marker=marker, capsize=2, linestyle="none", label=row)
        if row == rows[0] and of == "label_bytes":
            for result, *point in zip(here, x, y, strict=True):
                axes.annotate(result.labels, point, (0, -12), textcoords="offset points", fontsize=6, ha="center")
