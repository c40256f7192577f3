"""The disk space that a run takes is the space that was estimated before it began."""

from pathlib import Path

import pytest
from conftest import make_source, small_recipe, write_recipe

from srel_hub.condense import condense
from srel_hub.config import load_recipe
from srel_hub.runs.run import Run
from srel_hub.stages.preflight.disk_use import DiskUse, decoded_images
from srel_hub.stages.preflight.prepare import prepare
from srel_hub.storage.mapped_images import map_pixels
from srel_hub.studies.plan.price import plan
from srel_hub.studies.plan.run_plan import gather_facts, machine_of


REAL = "recover={ipc: 2, iterations: 2, patches: {images: 5}, statistics: class, statistics_images: 7, bn_weight: auto}"
SCORES = ["evaluate.scores=true", "evaluate.seeds=1", "evaluate.epochs=1", "relabel.epochs=1"]


def sizes(run: Run) -> dict[str, int]:
    """Return the bytes of every file of a run, each hard link once."""
    files = {file.stat().st_ino: file for file in sorted(run.folder.rglob("*")) if file.is_file()}
    return {file.relative_to(run.folder).as_posix(): file.stat().st_size for file in files.values()}


def test_a_run_stores_the_images_and_bytes_that_were_planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_recipe(tmp_path / "colors.yaml", make_source(tmp_path / "source", (8, 8), ["red", "green", "blue"]))
    run = Run(small_recipe(file, tmp_path / "runs", REAL, *SCORES))
    inputs = prepare(run)
    machine = machine_of(run.device, run.engine.precision, tflops=1)
    planned = plan(gather_facts(run.recipe, inputs, run.folder, machine)).disk
    at_the_end: list[tuple[int, dict[str, int]]] = []

    def measure(run: Run) -> None:
        cached = sum(
            len(map_pixels(file)) for file in run.path("cache").iterdir() if not file.name.startswith("examined-")
        )
        at_the_end.append((cached, sizes(run)))

    monkeypatch.setattr("srel_hub.condense.clear", measure)
    condense(run)
    ((cached, files),) = at_the_end
    assert cached == decoded_images(run.recipe, inputs)

    def taken(*folders: str) -> int:
        return sum(size for name, size in files.items() if name.startswith(folders))

    assert taken("images/", "dataset/data/") <= planned.images + 3 * 4096  # parquet's own bytes
    assert planned.labels <= taken("soft_labels/epoch", "dataset/soft_labels/epoch") <= planned.labels + 8192
    assert planned.real <= taken("patches/", "statistics/") + 4096
    assert planned.teachers == taken("teacher/model.safetensors", "teacher_repo/model.safetensors")


def test_the_caches_of_real_images_are_part_of_the_plan(tmp_path: Path) -> None:
    """best/in1k_ipc50 keeps 300 images of each class for patches, and 1000 for its statistics: 182 GiB."""
    recipe = load_recipe("best/in1k_ipc50")
    assert recipe.recover.patches is not None and recipe.recover.statistics == "class"
    drawn = 1000 * (recipe.recover.patches.images + recipe.recover.statistics_images)
    assert drawn * 3 * 224 * 224 // 1024**3 == 182
    source = make_source(tmp_path / "source", (8, 8), ["red", "green", "blue"])
    run = Run(small_recipe(write_recipe(tmp_path / "colors.yaml", source), tmp_path / "runs"))
    inputs = prepare(run)
    plain = decoded_images(run.recipe, inputs)
    real = Run(small_recipe(tmp_path / "colors.yaml", tmp_path / "runs", REAL, "recover.ipc=3")).recipe
    assert decoded_images(real, inputs) - plain == 3 * 5 + 3 * 7


def test_only_what_there_is_is_listed() -> None:
    text = str(DiskUse(images=2048, labels=0, teachers=1024, real=0, temporary=0, small=0))
    assert text == "3.0 KiB (images 2.0 KiB, teachers 1.0 KiB)"
