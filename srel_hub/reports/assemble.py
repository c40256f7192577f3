"""Assemble the two repositories of a run, byte for byte as they are pushed: `dataset/` and `teacher_repo/`."""

import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from srel_hub import __version__
from srel_hub.config import Recipe, RunSettings, as_dict, fingerprint, published
from srel_hub.config.yaml_io import to_yaml
from srel_hub.data.sources import add_builtin_metadata
from srel_hub.errors import UserError
from srel_hub.hub.push_plan import Progress
from srel_hub.labels.manifest import OtherFile, manifest_values
from srel_hub.labels.packing import groups, pack
from srel_hub.labels.read_manifest import read_manifest
from srel_hub.reports.card import dataset_card, teacher_card, write_class_table
from srel_hub.reports.plot_style import MOST_BYTES
from srel_hub.reports.run_pictures import drawing_of
from srel_hub.runs.completion import Marks
from srel_hub.storage.condensed_table import class_grid, read_rows, write_split
from srel_hub.storage.files import atomic_write, read_json, sha256, write_json


PACKED = "packed_labels"  # a folder
GRID_COLUMNS, GRID_ROWS = 20, 10  # classes and images per class, at most
GRID_WIDTHS = (1000, 700, 500)  # pixels; the first whose file is at most MOST_BYTES is used
LARGEST_CELL = 120  # pixels; few classes would otherwise be enlarged to the full width


def assemble(run_folder: Path, recipe: Recipe, target: Path, progress: Progress) -> tuple[Path, Path]:
    """Assemble both repositories in the folder `target` from the results of the stages, replacing earlier ones.

    Args:
        run_folder: The run directory.
        recipe: Its recipe.
        target: The folder in which `dataset/` and `teacher_repo/` are created.
        progress: Shows a progress bar while many label files are packed.

    Returns:
        The dataset's folder and the teacher's folder.

    Raises:
        UserError: If the results of a stage are missing.
    """
    parts = (*recipe.label_folders, "images", "soft_labels", "evaluate")
    missing = [name for name in parts if not (run_folder / name).is_dir()]
    if missing:
        raise UserError(
            f"{run_folder}: the run has no {', '.join(missing)}; run `srel-hub condense {run_folder}` first"
        )
    teacher_repo, dataset = target / "teacher_repo", target / "dataset"
    with atomic_write(teacher_repo) as tree:
        assemble_teacher(run_folder, recipe, tree)
    labels = packed_labels(run_folder, target, progress)
    with atomic_write(dataset) as tree:
        assemble_dataset(run_folder, recipe, tree, labels)
    return dataset, teacher_repo


def packed_labels(run_folder: Path, target: Path, progress: Progress) -> Path:
    """Return the folder with the label files to publish, after packing many files into fewer ones.

    Args:
        run_folder: The run directory.
        target: The folder in which `packed_labels/` is created, unless the run directory has it already.
        progress: Shows a progress bar.
    """
    labels = run_folder / "soft_labels"
    manifest = read_manifest(labels / "manifest.json")
    packs = groups(manifest)
    if not packs:
        return labels
    sources = sha256(labels / "manifest.json")  # it has the digest of every label file
    for folder in (run_folder / PACKED, target / PACKED):
        if _holds_packs(folder, sources):
            return folder
    with atomic_write(target / PACKED) as folder:
        folder.mkdir()
        pack(labels, manifest, folder, progress(packs, len(packs), "pack soft labels", "file"))
        (folder / "sources.txt").write_text(sources)
    return target / PACKED


def _holds_packs(folder: Path, sources: str) -> bool:
    """Return whether a folder has all packed files of the label files with this digest."""
    if not (folder / "sources.txt").is_file() or (folder / "sources.txt").read_text() != sources:
        return False
    files = read_manifest(folder / "manifest.json").files
    return all((folder / file.name).is_file() and (folder / file.name).stat().st_size == file.bytes for file in files)


def ensure_assembled(
    recipe: Recipe, marks: Marks, locked: Callable[[str], AbstractContextManager[None]], progress: Progress
) -> tuple[Path, Path]:
    """Assemble both repositories in the run directory, unless they already exist for the current results.

    Args:
        recipe: The recipe of the run.
        marks: The completion marks of the run, whose folder is the run directory.
        locked: A function that returns the run's lock of a name (`Run.locked`).
        progress: Shows a progress bar (`Run.progress`).

    Returns:
        The dataset's folder and the teacher's folder.

    Raises:
        UserError: See `assemble`.
    """
    folders = marks.folder / "dataset", marks.folder / "teacher_repo"
    unit = assembly_of(recipe, marks)
    if not marks.is_done("assemble", unit):
        with locked("assemble"):
            # Another process may have assembled them while this one waited for the lock.
            if not marks.is_done("assemble", unit):
                assemble(marks.folder, recipe, marks.folder, progress)
                files = [file for folder in folders for file in sorted(folder.rglob("*")) if file.is_file()]
                manifest = read_manifest(folders[0] / "soft_labels" / "manifest.json")
                # Relabel has hashed the label files, which are the largest; do not read them again.
                known = {f"dataset/soft_labels/{file.name}": file.sha256 for file in manifest.files}
                marks.mark("assemble", unit, files, known)
    return folders


def assembly_of(recipe: Recipe, marks: Marks) -> str:
    """Return the name of the unit of work that assembles the current results with this recipe and version."""
    on_cards = as_dict(replace(recipe, run=RunSettings()))  # how a run computes is not on the cards
    results = [marks.digests("relabel", "manifest"), read_json(marks.folder / "evaluate" / "summary.json")]
    results.append(marks.digests("pictures", drawing_of(recipe, marks)))
    return f"dataset-{fingerprint([on_cards, __version__, results])[:16]}"


def assemble_teacher(run_folder: Path, recipe: Recipe, tree: Path) -> None:
    """Write the complete teacher repository to the folder `tree`: the labeling teacher and the run's other teachers."""
    _link_tree(run_folder / recipe.label_folder, tree)
    if recipe.relabel.teacher is not None:
        _link_tree(run_folder / "teacher", tree / "recover")
    for folder in recipe.label_folders[1:]:
        _link_tree(run_folder / folder, tree / folder.removeprefix("label_"))
    (tree / "README.md").write_text(teacher_card(run_folder, recipe), encoding="utf-8")


def assemble_dataset(run_folder: Path, recipe: Recipe, tree: Path, labels: Path) -> None:
    """Write the complete dataset repository to the folder `tree`, with the label files in the folder `labels`."""
    manifest = read_manifest(labels / "manifest.json")
    for name in ("data", "assets", "soft_labels"):
        (tree / name).mkdir(parents=True)
    write_split(tree / "data", "train", run_folder / "images", manifest.class_names)
    rows = min(GRID_ROWS, recipe.recover.ipc)
    _write_grid(tree / "assets" / "grid.png", run_folder / "images", min(GRID_COLUMNS, manifest.num_classes), rows)
    if recipe.pictures and (run_folder / "pictures").is_dir():
        _link_tree(run_folder / "pictures", tree / "assets")
    described_recipe = replace(recipe, source=add_builtin_metadata(recipe.source))
    (tree / "recipe.yaml").write_text(to_yaml(published(described_recipe)), encoding="utf-8")
    write_class_table(tree / "classes.csv", run_folder, recipe)
    _link(run_folder / "evaluate" / "summary.json", tree / "metrics.json")
    # The manifest lists every file that exists by now. The labels have entries of their own, and the card is written
    # last because it has the manifest's size.
    others = tuple(
        OtherFile(name=file.relative_to(tree).as_posix(), bytes=file.stat().st_size, sha256=sha256(file))
        for file in sorted(path for path in tree.rglob("*") if path.is_file())
    )
    repo_id = recipe.publish.teacher
    teacher = replace(manifest.teacher, repo_id=repo_id, tag=None if repo_id is None else recipe.publish.pinned)
    manifest = replace(manifest, teacher=teacher, others=others)
    write_json(tree / "soft_labels" / "manifest.json", manifest_values(manifest))
    for label_file in manifest.files:
        _link(labels / label_file.name, tree / "soft_labels" / label_file.name)
    (tree / "README.md").write_text(dataset_card(run_folder, recipe, tree), encoding="utf-8")


def _write_grid(file: Path, images: Path, columns: int, rows: int) -> None:
    """Write a PNG with one column per class, small enough for a card."""
    for width in GRID_WIDTHS:
        class_grid(read_rows(images), columns, rows, min(LARGEST_CELL, width // columns)).save(file, optimize=True)
        if file.stat().st_size <= MOST_BYTES:
            break


def _link_tree(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for file in sorted(source.iterdir()):
        _link(file, target / file.name)


def _link(source: Path, target: Path) -> None:
    """Copy a file, or hard-link it if it holds tensors, which are large and never change in place."""
    if source.suffix == ".safetensors":
        try:
            os.link(source, target)
            return
        except OSError:  # the file system has no hard links, or the target is on another one
            pass
    shutil.copyfile(source, target)
