"""`condense_dataset`: the pipeline as a function, for programs and notebooks."""

import json
import numbers
import operator
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, SupportsIndex

import torch

from srel_hub.condense import condense
from srel_hub.config import Recipe
from srel_hub.errors import UserError
from srel_hub.runs.run import Run
from srel_hub.runs.stage_cli import named
from srel_hub.stages.evaluate.summary import student_title
from srel_hub.storage.files import read_json, total_bytes


@dataclass(frozen=True)
class Accuracy:
    """The accuracy of a student over several seeds, in [0, 1].

    Attributes:
        mean: The mean over the seeds.
        std: The sample standard deviation over the seeds; None for one seed.
        values: The accuracy of each seed.
    """

    mean: float
    std: float | None
    values: tuple[float, ...]

    @property
    def n(self) -> int:
        """The number of trained seeds."""
        return len(self.values)

    def __str__(self) -> str:
        """Return '97.18 % +- 0.26', or the mean alone for one seed."""
        return f"{100 * self.mean:.2f} %" + ("" if self.std is None else f" +- {100 * self.std:.2f}")


@dataclass(frozen=True)
class StudentResult:
    """The accuracy of one student that was trained on one training set.

    Attributes:
        student: The student's network, such as 'convnet x 1' or 'resnet18 x 0.25'.
        row: The training set, such as 'condensed' or 'random-real'.
        train_images: Number of images in the training set.
        top1, top5: The accuracy on the test images.
    """

    student: str
    row: str
    train_images: int
    top1: Accuracy
    top5: Accuracy


@dataclass(frozen=True)
class CondensedRun:
    """The result of `condense_dataset`: folders, sizes and accuracies.

    Attributes:
        folder: The run directory.
        dataset: The folder of the condensed dataset, for `load_condensed` and `datasets.load_dataset`.
        teacher: The folder of the teacher, a transformers model.
        results: One result per student and training set; empty if the source has no test images.
        image_bytes: The size of the images in bytes.
        label_bytes: The size of the soft labels in bytes.
        dataset_bytes: The size of the whole dataset folder in bytes.
    """

    folder: Path
    dataset: Path
    teacher: Path
    results: tuple[StudentResult, ...]
    image_bytes: int
    label_bytes: int
    dataset_bytes: int

    def result(self, row: str = "condensed", student: str | None = None) -> StudentResult:
        """Return the result of a student, by default the first one, on a training set.

        Raises:
            KeyError: If the run has no result for this student and training set.
        """
        for result in self.results:
            if result.row == row and student in (None, result.student):
                return result
        known = ", ".join(f"{result.student} on {result.row}" for result in self.results) or "none"
        raise KeyError(f"no result of {student or 'any student'} on {row}; results: {known}")


def condense_dataset(recipe: str | Path | Recipe, overrides: Mapping[str, Any] | Sequence[str] = ()) -> CondensedRun:
    """Run the whole pipeline: squeeze, recover, relabel, evaluate, assemble, and publish if the recipe says so.

    It works in the run directory `runs/<name>` (`run.root` and `name` in the recipe). If it is interrupted, the same
    call resumes it. If the run is complete, its result is returned at once.

    In a notebook with several GPUs, use Accelerate's launcher. The launcher returns nothing, so call the function again
    afterwards to get the result:

        accelerate.notebook_launcher(condense_dataset, ("quickstart", {"recover.ipc": 5}), num_processes=4)

    Args:
        recipe: The name of a shipped recipe, a YAML file, a run directory, or a recipe from `load_recipe`.
        overrides: Values that replace those of the recipe: a mapping from dotted names to values, or strings
            `name=value` as on the command line. A recipe from `load_recipe` takes none.

    Returns:
        The folders, the sizes and the accuracies.

    Raises:
        UserError: If the recipe is not valid, or does not fit the data, the machine or the run directory.
        OSError: If a file cannot be read or written, or the Hub cannot be reached. The same call resumes the run.

    Examples:
        >>> from srel_hub import condense_dataset
        >>> run = condense_dataset("quickstart", {"recover.ipc": 5})
        >>> print(run.dataset.as_posix())
        runs/quickstart/dataset
        >>> result = run.result("condensed")
        >>> result.student, result.train_images, result.top1.n
        ('convnet x 1', 50, 3)
        >>> print("top-1 accuracy:", result.top1)
        top-1 accuracy: ... % +- ...
    """
    loaded = _load(recipe, _as_texts(overrides))
    threads = torch.get_num_threads()  # a run sets its own number
    try:
        run = Run(loaded)
        try:
            condense(run)
        finally:
            run.close()
    finally:
        torch.set_num_threads(threads)
    return _read_result(run.folder)


def _load(recipe: str | Path | Recipe, overrides: Sequence[str]) -> Recipe:
    if not isinstance(recipe, Recipe):
        return named(str(recipe), overrides)
    if overrides:
        raise UserError(f"overrides={list(overrides)}: not allowed with a loaded recipe; pass them to load_recipe")
    return recipe


def _as_texts(overrides: Mapping[str, Any] | Sequence[str]) -> list[str]:
    """Return overrides as on the command line. Values are written as JSON, which the YAML parser reads."""
    if isinstance(overrides, str):
        raise UserError(f"overrides={overrides!r}: must be a mapping or a list of strings, not a string")
    if not isinstance(overrides, Mapping):
        return list(overrides)
    texts = []
    for name, value in overrides.items():
        try:
            texts.append(f"{name}={json.dumps(value, ensure_ascii=False, allow_nan=False, default=_plain)}")
        except (TypeError, ValueError) as error:
            raise UserError(
                f"{name}={value!r}: must be a number, a string, a path, None, or a list or mapping of these ({error})"
            ) from None
    return texts


def _plain(value: Any) -> Any:
    """Return a number of numpy or torch, or a path, as a value that JSON has.

    Raises:
        TypeError: For any other value.
    """
    if isinstance(value, SupportsIndex):
        return operator.index(value)
    return float(value) if isinstance(value, numbers.Real) else os.fspath(value)


def _read_result(folder: Path) -> CondensedRun:
    dataset = folder / "dataset"
    results = [
        StudentResult(
            student_title(student), row["row"], row["train_images"], *map(_accuracy, (row["top1"], row["top5"]))
        )
        for student in read_json(folder / "evaluate" / "summary.json")["students"]
        for row in student["rows"]
    ]
    return CondensedRun(
        folder=folder,
        dataset=dataset,
        teacher=folder / "teacher_repo",
        results=tuple(results),
        image_bytes=total_bytes(dataset / "data"),
        label_bytes=total_bytes(dataset / "soft_labels"),
        dataset_bytes=total_bytes(dataset),
    )


def _accuracy(score: Mapping[str, Any]) -> Accuracy:
    return Accuracy(score["mean"], score["std"], tuple(score["values"]))
