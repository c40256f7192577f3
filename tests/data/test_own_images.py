"""Whole runs on a user's own images, a user's own teacher, the ImageNet command line, and an installed wheel."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, SMALL, execute, make_source, small_recipe, write_recipe
from datasets import load_dataset
from PIL import Image

from srel_hub import load_condensed
from srel_hub.condense import condense
from srel_hub.config import load_recipe
from srel_hub.config.resources import RECIPES
from srel_hub.runs.run import Run
from srel_hub.squeeze import squeeze
from srel_hub.storage.condensed_table import encode_png, write_parquet
from srel_hub.storage.files import read_json


KINDS = {  # class: images, mode, suffix, size (width, height)
    "alpha": (3, "RGBA", "png", (40, 31)),
    "bits": (5, "1", "png", (25, 50)),
    "cmyk": (12, "CMYK", "jpg", (64, 48)),
    "deep": (20, "I;16", "png", (33, 33)),
    "gray": (40, "L", "jpg", (28, 28)),
    "palette": (80, "P", "gif", (50, 20)),
    "tall": (150, "RGB", "webp", (17, 90)),
    "turned": (300, "RGB", "jpg", (48, 32)),
}
NO_WARMUP = "squeeze.optimizer.warmup_epochs=0"


def picture(mode: str, size: tuple[int, int], draw: np.random.Generator) -> Image.Image:
    noise = Image.fromarray(draw.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    if mode == "I;16":
        return Image.fromarray(draw.integers(0, 65536, (size[1], size[0]), dtype=np.uint16))
    if mode == "RGBA":
        noise.putalpha(Image.fromarray(draw.integers(0, 256, (size[1], size[0]), dtype=np.uint8)))
    return noise.convert(mode)


@pytest.fixture(scope="module")
def motley(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of class folders: eight sizes and modes, 3 to 300 images a class."""
    folder, draw = tmp_path_factory.mktemp("motley") / "photos", np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, (count, mode, suffix, size) in KINDS.items():
        for split, number in (("train", count), ("test", 2)):
            (folder / split / name).mkdir(parents=True)
            for index in range(number):
                turned = {"exif": exif} if name == "turned" else {}
                picture(mode, size, draw).save(folder / split / name / f"{index}.{suffix}", **turned)
    return folder


def test_a_motley_folder_is_condensed_and_its_class_table_is_right(motley: Path, tmp_path: Path) -> None:
    small = [override for override in SMALL if not override.startswith("evaluate")]
    overrides = [f"source.path={motley}", "source.image_size=16", "recover.ipc=5", NO_WARMUP]
    evaluate = "evaluate={students: [{model: convnet, width: 0.1}], seeds: 1, epochs: 1, batch_size: 8}"
    run = Run(load_recipe("own_images", [*small, *overrides, evaluate, f"run.root={tmp_path}"]))
    condense(run)
    loaded = load_dataset(str(run.path("dataset")), split="train")
    assert len(loaded) == 8 * 5 and loaded.features["label"].names == sorted(KINDS)
    assert {row["image"].size for row in loaded} == {(16, 16)}
    card = run.path("dataset", "README.md").read_text()
    for index, (name, (count, *_)) in enumerate(sorted(KINDS.items())):
        assert f"\n| {index} | {name} | {count} | {min(5, count)} | 5 |\n" in card
    assert "Some classes have fewer than 5 real images" in card
    rows = list(csv.DictReader(run.path("dataset", "classes.csv").open()))
    assert [int(row["real"]) for row in rows] == [count for _, (count, *_) in sorted(KINDS.items())]
    trained_on = {row["row"]: row["train_images"] for row in read_summary(run)["students"][0]["rows"]}
    assert trained_on == {"condensed": 40, "random-real": 38, "random-real-hard": 38}


def read_summary(run: Run) -> dict[str, list[dict[str, list[dict[str, int]]]]]:
    summary: dict[str, list[dict[str, list[dict[str, int]]]]] = read_json(run.path("dataset", "metrics.json"))
    return summary


def test_grayscale_images_of_28_pixels_are_condensed(tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    for split in ("train", "test"):
        for name in ("one", "two"):
            (tmp_path / "gray" / split / name).mkdir(parents=True)
            for index in range(6):
                picture("L", (28, 28), draw).save(tmp_path / "gray" / split / name / f"{index}.png")
    small = [*SMALL, f"source.path={tmp_path}/gray", "source.image_size=null", f"run.root={tmp_path}"]
    run = Run(load_recipe("own_images", [*small, "recover.ipc=2", NO_WARMUP]))
    condense(run)
    condensed = load_condensed(run.path("dataset"))
    assert condensed.pixels.shape == (4, 3, 28, 28) and condensed.manifest.class_names == ("one", "two")
    assert len(set(condensed.manifest.mean)) == len(set(condensed.manifest.std)) == 1  # three equal channels


@pytest.mark.long
def test_ten_thousand_and_one_classes_from_end_to_end(tmp_path: Path) -> None:
    names, draw = [f"n{index:08d}, thing" for index in range(10_001)], torch.Generator().manual_seed(0)
    (tmp_path / "many").mkdir()
    for split in ("train", "test"):
        pixels = torch.randint(0, 256, (len(names), 3, 8, 8), generator=draw, dtype=torch.uint8)
        images = [encode_png(image) for image in pixels]
        write_parquet(tmp_path / "many" / f"{split}.parquet", images, range(len(names)), names)
    overrides = ["source.image_size=null", "recover.ipc=1", "recover.iterations=1", "squeeze.epochs=1", NO_WARMUP]
    overrides += ["recover.patches=null", "recover.statistics=dataset"]  # those of each class would take minutes
    evaluate = "evaluate={students: [{model: convnet, width: 0.1}], seeds: 1, epochs: 1}"
    small = ["squeeze.network={model: convnet, width: 0.1}", "relabel.epochs=1", evaluate, f"run.root={tmp_path}"]
    run = Run(load_recipe("own_images", [f"source.path={tmp_path}/many", *overrides, *small]))
    condense(run)
    loaded = load_dataset(str(run.path("dataset")), split="train")
    assert loaded["label"][:] == list(range(10_001)) and loaded.features["label"].names == names
    item = load_condensed(run.path("dataset"))[0][10_000]
    assert item["logits"].shape == (10_001,)
    assert len(run.path("dataset", "classes.csv").read_text().splitlines()) == 10_002


# The user's own line


@pytest.mark.long
def test_the_users_own_line_runs_to_a_thousand_classes(stand_in: list[str], tmp_path: Path) -> None:
    (tmp_path / "recipes").symlink_to(RECIPES)
    line = ["accelerate", "launch", "-m", "srel_hub.condense", "recipes/in1k_ipc50.yaml"]
    done = execute(*line, *stand_in, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    loaded = load_dataset(str(tmp_path / "runs/in1k_ipc50/dataset"), split="train")
    assert len(loaded) == 1000 and loaded.features["label"].names[:2] == ["tench", "goldfish"]
    assert loaded["label"][:] == list(range(1000))
    card = (tmp_path / "runs/in1k_ipc50/dataset/README.md").read_text()
    assert "random real images, soft and hard labels | | not measured" in card
    assert "There are 1000 classes with 1 condensed image each. `classes.csv` lists them." in card
    teacher = read_json(tmp_path / "runs/in1k_ipc50/teacher_repo/metrics.json")
    assert teacher["top1"] == 1 and teacher["architecture"] == "ResNetForImageClassification"
    assert "import srel_hub" not in (tmp_path / "runs/in1k_ipc50/teacher_repo/README.md").read_text()


def test_the_line_needs_no_images_at_all(stand_in: list[str], tmp_path: Path) -> None:
    without_path = [override for override in stand_in if not override.startswith("source.path")]
    overrides = [*without_path, "source.path=no/where", "source.eval_split=null", f"run.root={tmp_path}"]
    run = Run(load_recipe("in1k_ipc50", overrides))
    condense(run)
    assert "Student accuracy: **not measured**" in run.path("dataset", "README.md").read_text()
    assert len(load_condensed(run.path("dataset")).pixels) == 1000


@pytest.mark.long
def test_a_nameless_teacher_is_proven_by_the_images_it_labeled(stand_in: list[str], tmp_path: Path) -> None:
    """Without names from the recipe the dataset's are taken, and the answers must be right."""
    place = next(override for override in stand_in if "pretrained" in override).partition("=")[2]
    overrides = [*stand_in[1:], f"squeeze.pretrained={place}"]
    run = Run(load_recipe("in1k_ipc50", [*overrides, f"run.root={tmp_path}"]))
    condense(run)
    assert load_condensed(run.path("dataset")).manifest.class_names[999] == "toilet tissue"


# From a wheel


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's content in a folder of its own, outside the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder / "dist")]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, text=True)
    wheel = next((folder / "dist").glob("*.whl"))
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", str(folder / "site")]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True, text=True)
    return folder


def test_a_wheel_runs_a_shipped_recipe_by_name(installed: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(installed / "site"), "HF_HOME": str(installed / "home")}

    def run(*arguments: str) -> str:
        command = [sys.executable, *arguments]
        done = subprocess.run(command, cwd=installed, env=environment, capture_output=True, text=True, timeout=1500)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    where = run(
        "-c",
        "import srel_hub.config.resources as r; print(r.RECIPES, *sorted(p.stem for p in r.RECIPES.glob('*.yaml')))",
    )
    assert where.split()[0] == str(installed / "site/srel_hub/recipes")
    assert where.split()[1:] == sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml"))
    assert "name: in1k_ipc200" in run("-m", "srel_hub", "recipe", "show", "in1k_ipc200")
    small = [*SMALL[:-2], "evaluate={students: [{model: convnet, width: 0.1}], seeds: 1, epochs: 1, batch_size: 8}"]
    output = run("-m", "srel_hub.condense", "quickstart", *small)
    assert re.search(r"^dataset: runs/quickstart/dataset", output, re.MULTILINE)
    assert (
        json.loads((installed / "runs/quickstart/dataset/soft_labels/manifest.json").read_text())["num_images"] == 100
    )


def test_classes_with_few_images_or_no_test_image_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_source(tmp_path / "source", (8, 8), ["red", "green", "blue"], per_class=2)
    test = load_dataset("parquet", data_files=str(folder / "test.parquet"), split="train")
    test.filter(lambda row: row["label"] != 1).to_parquet(folder / "test.parquet")
    squeeze(Run(small_recipe(write_recipe(tmp_path / "colors.yaml", folder, ipc=3), tmp_path / "runs")))
    output = capsys.readouterr().err
    assert "split test: there is no image of green, so these classes are not scored" in output
    assert "fewer training images than recover.ipc=3: red (2), green (2), blue (2); the teacher" in output
