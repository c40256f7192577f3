"""Compare condensed datasets side by side, with one column per protocol.

    srel-hub compare runs/one runs/two org/srel-three --csv results.csv --plot results.png

A protocol is the set of all settings that affect how a student is trained and scored, whatever its name. Results of
different protocols never share a column or a panel, because the protocol changes accuracy more than most methods do.
"""

from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

from srel_hub.config import Recipe, fingerprint, load_recipe
from srel_hub.config.places import expanded
from srel_hub.config.protocols import protocol_of, protocol_title
from srel_hub.errors import ErrorCollector, UserError, first_line, reading
from srel_hub.hub.repository import Store, open_store
from srel_hub.labels.manifest import MANIFEST
from srel_hub.labels.read_manifest import read_manifest
from srel_hub.reports import plot_style, tables
from srel_hub.stages.evaluate.summary import percent, student_title
from srel_hub.storage.files import format_bytes, read_json


SUMMARIES = ("metrics.json", "evaluate/summary.json")  # in a dataset, in a run


@dataclass(frozen=True)
class Result:
    """The accuracy of one student, trained on one training set of one dataset.

    Attributes:
        dataset: The name of the recipe, or the path if two recipes have the same name.
        source: The real dataset.
        student: The network, such as 'resnet18 x 0.25'.
        row: The training set, by its name in `metrics.json`.
        images: Training images.
        label_bytes: Size of the soft labels; 0 for hard labels.
        labels: Encoding and number of epochs of the soft labels; empty for hard labels.
        protocol: The title of the protocol, unique among the compared results.
        top1: Mean top-1 accuracy in [0, 1].
        std: Sample standard deviation over the seeds; None with one seed.
        n: Number of seeds.
    """

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
        """The accuracy in percent, such as '97.10 +- 0.32'."""
        return percent({"mean": self.top1, "std": self.std})


class _NotEvaluatedError(Exception):
    """A run or dataset is complete enough to be read, but has no results."""


@dataclass(frozen=True)
class _Measured:
    """The facts that are read from one compared dataset."""

    path: str
    recipe: Recipe
    summary: dict[str, Any]
    label_bytes: int
    labels: str


@dataclass(frozen=True)
class Comparison:
    """The results of several datasets.

    Attributes:
        results: The results of all datasets that were evaluated.
        not_evaluated: For each of the others, why it has no results, and what to do.
    """

    results: list[Result]
    not_evaluated: list[str]


def compare(paths: Sequence[str]) -> Comparison:
    """Return every result of the given runs, dataset folders and Hub datasets.

    Raises:
        UserError: If a path occurs twice, or is not a run or dataset, or if none of them was evaluated. The message
            lists all problems.
    """
    errors, datasets, not_evaluated = ErrorCollector(), list[_Measured](), list[str]()
    places = [str(expanded(path).resolve()) if expanded(path).exists() else path for path in paths]
    twice = dict.fromkeys(path for path, place in zip(paths, places, strict=True) if places.count(place) > 1)
    errors.extend(f"{path}: the same path occurs twice; pass each path once" for path in twice)
    for path in paths if not twice else ():
        with errors.collect():
            try:
                datasets.append(_read(path))
            except _NotEvaluatedError as error:
                not_evaluated.append(str(error))
    errors.raise_all()
    if not datasets:
        raise UserError("\n".join(not_evaluated))
    titles = _titles([dataset.recipe for dataset in datasets])
    names = [dataset.recipe.name for dataset in datasets]
    results = [
        result
        for dataset in datasets
        for result in _results_of(
            dataset,
            dataset.recipe.name if names.count(dataset.recipe.name) == 1 else dataset.path,
            titles[_key(dataset.recipe)],
        )
    ]
    return Comparison(results, not_evaluated)


def _results_of(dataset: _Measured, name: str, protocol: str) -> Iterator[Result]:
    recipe = dataset.recipe
    try:
        for student in dataset.summary["students"]:
            for row in student["rows"]:
                hard = _is_hard(recipe, row["row"])
                yield Result(
                    dataset=name,
                    source=_source_title(recipe),
                    student=student_title(student),
                    row=row["row"],
                    images=int(row["train_images"]),
                    label_bytes=0 if hard else dataset.label_bytes,
                    labels="" if hard else dataset.labels,
                    protocol=protocol,
                    top1=float(row["top1"]["mean"]),
                    std=row["top1"]["std"],
                    n=int(row["n"]),
                )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _malformed(dataset.path, error) from None


def _malformed(where: str, error: Exception) -> UserError:
    reason = f"{type(error).__name__} {first_line(error)}"
    return UserError(f"{where}: its results are not in the form that srel_hub writes ({reason}); write them again")


def _source_title(recipe: Recipe) -> str:
    """Return the title of a source, with what makes its classes or eval images differ from the whole dataset's."""
    source = recipe.source
    parts = [source.title or source.path or str(source.builtin)]
    parts += [f"{len(source.classes)} of its classes"] if source.classes is not None else []
    parts += [f"eval_fraction {source.eval_fraction:g}"] if source.eval_fraction is not None else []
    return ", ".join(parts)


def _read(path: str) -> _Measured:
    store = open_store(path, "dataset", None, MANIFEST)
    names = store.names()
    file = next((name for name in SUMMARIES if name in names), None)
    if file is None:
        if "recipe.yaml" not in names:
            raise UserError(f"{path}: this is neither a run nor a condensed dataset, because it has no recipe.yaml")
        raise _NotEvaluatedError(f"{store}: there are no results; run `srel-hub evaluate {path}` first")
    path_of_summary = store.fetch(file)
    with reading(f"{store}: {file}: its results are not in the form that srel_hub writes", "write them again"):
        summary = read_json(path_of_summary)
        measured = summary["measured"]
    if not measured:
        raise _NotEvaluatedError(f"{store}: no students were evaluated, because source.eval_split is null")
    manifest_file = store.fetch(MANIFEST)
    manifest = read_manifest(manifest_file)
    size = manifest_file.stat().st_size + sum(file.bytes for file in manifest.files)
    return _Measured(path, _recipe(store), summary, size, f"{manifest.coding}, {manifest.epochs} epochs")


def _recipe(store: Store) -> Recipe:
    try:
        return load_recipe(store.fetch("recipe.yaml"))
    except UserError as error:
        raise UserError(f"{store}: this version of srel_hub cannot read the recipe: {error}") from None


def _is_hard(recipe: Recipe, row: str) -> bool:
    """Return whether a training set needs no soft labels."""
    return recipe.evaluate.loss == "hard" or row in ("condensed-hard", "random-real-hard", "real-hard")


def _key(recipe: Recipe) -> str:
    return fingerprint(protocol_of(recipe))


def _titles(recipes: Sequence[Recipe]) -> dict[str, str]:
    """Return a title for each protocol, by its fingerprint. If different protocols have equal titles, add a number."""
    titles: dict[str, str] = {}
    for recipe in recipes:
        titles.setdefault(_key(recipe), protocol_title(recipe))
    same = {title: [key for key in titles if titles[key] == title] for title in titles.values()}
    return {
        key: title if len(same[title]) == 1 else f"{title} {same[title].index(key) + 1}"
        for key, title in titles.items()
    }


def table(rows: Sequence[Result]) -> Iterator[str]:
    """Yield the lines of a Markdown table and its legend; a line per result, a column per protocol."""
    protocols = list(dict.fromkeys(result.protocol for result in rows))
    letters = {protocol: f"P{index + 1}" for index, protocol in enumerate(protocols)}
    header = ["dataset", "student", "trained on", "images", "soft labels", *letters.values(), "n"]
    yield from tables.markdown_table(header, [_line(result, protocols) for result in rows], {3, *range(5, len(header))})
    yield ""
    yield "top-1 %, mean +- standard deviation over n seeds, after the last epoch; one column per protocol:"
    yield from (f"  {letter}: {protocol}" for protocol, letter in letters.items())


def _line(result: Result, protocols: Sequence[str]) -> list[str]:
    cells = [result.cell if result.protocol == protocol else "" for protocol in protocols]
    labels = f"{result.labels}, {format_bytes(result.label_bytes)}" if result.labels else "none"
    return [result.dataset, result.student, result.row, f"{result.images:,}", labels, *cells, str(result.n)]


def write_csv(rows: Sequence[Result], file: Path) -> None:
    """Write the results as CSV, with the fields of `Result` as columns."""
    tables.write_csv(file, [field.name for field in fields(Result)], [astuple(result) for result in rows])


def plot(rows: Sequence[Result], file: Path) -> None:
    """Plot accuracy over images and over label bytes, with one line of panels per protocol.

    Raises:
        UserError: If matplotlib is missing.
    """
    protocols = list(dict.fromkeys(result.protocol for result in rows))
    with plot_style.panels(file, len(protocols), 2, 4.5, 3.2) as panels:
        for panel, protocol in zip(panels, protocols, strict=True):
            results_here = [result for result in rows if result.protocol == protocol]
            for axes, field, label in zip(
                panel, ("images", "label_bytes"), ("training images", "soft labels, bytes"), strict=True
            ):
                # A logarithmic axis has no place for the 0 bytes of hard labels.
                if not any(getattr(result, field) for result in results_here):
                    axes.set_axis_off()
                    axes.text(0.5, 0.5, "no soft labels", ha="center")
                    continue
                _draw(axes, results_here, field)
                axes.margins(0.2)
                axes.set(xlabel=label, ylabel="top-1 %", xscale="log")
                axes.set_title(protocol if field == "images" else "")
            panel[0].legend()


def _draw(axes: Any, rows: Sequence[Result], field: str) -> None:
    """Draw one marker per training set, over the given field of the results."""
    kinds = list(dict.fromkeys(result.row for result in rows))
    for kind, color, marker in zip(kinds, plot_style.COLORS, plot_style.MARKERS, strict=False):
        points = [result for result in rows if result.row == kind and getattr(result, field)]
        if not points:
            continue
        x, y = [getattr(result, field) for result in points], [100 * result.top1 for result in points]
        error = [100 * (result.std or 0) for result in points]
        axes.errorbar(x, y, error, color=color, marker=marker, capsize=2, linestyle="none", label=kind)
        # The other training sets have the same labels, so one of them is named.
        if kind == kinds[0] and field == "label_bytes":
            for result, *point in zip(points, x, y, strict=True):
                axes.annotate(result.labels, point, (0, -12), textcoords="offset points", fontsize=6, ha="center")
