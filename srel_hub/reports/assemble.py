"""Assemble the two repositories of a run, byte for byte what the Hub gets: `dataset/` and `teacher_repo/`."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

from srel_hub import __version__
from srel_hub.config import Recipe, RunSettings, as_dict, fingerprint, published
from srel_hub.config.yaml_io import to_yaml
from srel_hub.data.sources import add_builtin_metadata
from srel_hub.errors import UserError
from srel_hub.labels.manifest import OtherFile, read_manifest
from srel_hub.reports.card import classes_csv, dataset_card, teacher_card
from srel_hub.reports.plot_style import MOST_BYTES
from srel_hub.reports.run_pictures import drawing_of
from srel_hub.runs.run import Run
from srel_hub.storage.condensed_table import class_grid, read_rows, write_split
from srel_hub.storage.files import atomic_write, read_json, sha256, write_json


GRID_COLUMNS, GRID_ROWS = 20, 10
GRID_WIDTHS = (1000, 700, 500)  # pixels; the first that gives a small enough file
LARGEST_CELL = 120


def assemble(run: Run, place: Path) -> tuple[Path, Path]:
    """Assemble both trees anew in the folder `place` from the stages' artifacts.

    Returns:
        the dataset's folder and the teacher's.

    Raises:
        UserError: where a stage has not run yet.
    """
    missing = [
        name for name in (*run.recipe.label_folders, "images", "soft_labels", "evaluate") if not run.path(name).is_dir()
    ]
    if missing:
        raise UserError(f"{run.folder}: {', '.join(missing)} missing; run condense on it first")
    teacher_repo, dataset = place / "teacher_repo", place / "dataset"
    with atomic_write(teacher_repo) as tree:
        link_tree(run.path(run.recipe.label_folder), tree)
        if run.recipe.relabel.teacher is not None:
            link_tree(run.path("teacher"), tree / "recover")
        for folder in run.recipe.label_folders[1:]:
            link_tree(run.path(folder), tree / folder.removeprefix("label_"))
        (tree / "README.md").write_text(teacher_card(run.folder, run.recipe), encoding="utf-8")
    with atomic_write(dataset) as tree:
        assemble_dataset(run.folder, run.recipe, tree)
    return dataset, teacher_repo


def assembled(run: Run) -> tuple[Path, Path]:
    """As `assemble`, in the run directory; what is assembled already from the same recipe is kept."""
    places = run.path("dataset"), run.path("teacher_repo")
    unit = assembly(run)
    if not run.is_done("assemble", unit):
        with run.locked("assemble"):
            if not run.is_done("assemble", unit):
                assemble(run, run.folder)
                files = [file for place in places for file in sorted(place.rglob("*")) if file.is_file()]
                manifest = read_manifest(places[0] / "soft_labels" / "manifest.json")
                known = {f"dataset/soft_labels/{file.name}": file.sha256 for file in manifest.files}
                run.marks.mark("assemble", unit, files, known)
    return places


def assembly(run: Run) -> str:
    """The name of what is assembled from a recipe, by this version, with these results."""
    told = as_dict(replace(run.recipe, run=RunSettings()))
    results = [run.marks.digests("relabel", "manifest"), read_json(run.path("evaluate", "summary.json"))]
    results.append(run.marks.digests("pictures", drawing_of(run)))
    return f"dataset-{fingerprint([told, __version__, results])[:16]}"


def assemble_dataset(folder: Path, recipe: Recipe, tree: Path) -> None:
    """Lay out the complete dataset repository at `tree`."""
    manifest = read_manifest(folder / "soft_labels" / "manifest.json")
    for name in ("data", "assets", "soft_labels"):
        (tree / name).mkdir(parents=True)
    write_split(tree / "data", "train", folder / "images", manifest.class_names)
    columns, rows = min(GRID_COLUMNS, manifest.num_classes), min(GRID_ROWS, recipe.recover.ipc)
    for width in GRID_WIDTHS:
        grid = class_grid(read_rows(folder / "images"), columns, rows, min(LARGEST_CELL, width // columns))
        grid.save(tree / "assets" / "grid.png", optimize=True)
        if (tree / "assets" / "grid.png").stat().st_size <= MOST_BYTES:
            break
    if recipe.pictures and (folder / "pictures").is_dir():
        link_tree(folder / "pictures", tree / "assets")
    told = replace(recipe, source=add_builtin_metadata(recipe.source))
    (tree / "recipe.yaml").write_text(to_yaml(published(told)), encoding="utf-8")
    (tree / "classes.csv").write_text(classes_csv(folder, recipe), encoding="utf-8")
    link(folder / "evaluate" / "summary.json", tree / "metrics.json")
    others = tuple(
        OtherFile(name=file.relative_to(tree).as_posix(), bytes=file.stat().st_size, sha256=sha256(file))
        for file in sorted(path for path in tree.rglob("*") if path.is_file())
    )
    repo_id = recipe.publish.teacher
    teacher = replace(manifest.teacher, repo_id=repo_id, tag=None if repo_id is None else recipe.publish.pinned)
    manifest = replace(manifest, teacher=teacher, others=others)
    write_json(tree / "soft_labels" / "manifest.json", as_dict(manifest))
    for label_file in manifest.files:
        link(folder / "soft_labels" / label_file.name, tree / "soft_labels" / label_file.name)
    (tree / "README.md").write_text(dataset_card(folder, recipe, tree), encoding="utf-8")


def link_tree(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for file in sorted(source.iterdir()):
        link(file, target / file.name)


def link(source: Path, target: Path) -> None:
    """A copy, or for tensors, which are large and do not change, a hard link where the file system has them."""
    if source.suffix == ".safetensors":
        try:
            os.link(source, target)
            return
        except OSError:
            pass
    shutil.copyfile(source, target)
