"""`srel-hub init`: what it looks at, what it refuses, and that its recipes can be planned and run."""

import shutil
from pathlib import Path

import pytest
import torch
from commands.test_program import failure
from conftest import make_source
from PIL import Image

from srel_hub.commands.program import main
from srel_hub.config import load_recipe
from srel_hub.storage.files import read_json


OPTIONS = ["--method", "sre2l", "--ipc", "3", "--out", "my.yaml", "--hours", "0.0001"]
QUICKER = [
    "precision=float32",
    "pictures=false",
    "squeeze.epochs=1",
    "squeeze.optimizer.warmup_epochs=0",
    "recover.iterations=2",
    "relabel.epochs=1",
    "evaluate.epochs=1",
    "evaluate.seeds=1",
    "run.cpu_threads=1",
]


def make_folder(root: Path, classes: dict[str, int], sides: tuple[int, ...] = (36, 40, 44)) -> Path:
    """Write so many images of each class, of several sizes, to train/ and test/."""
    draw = torch.Generator().manual_seed(0)
    for split in ("train", "test"):
        for name, count in classes.items():
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                side = sides[index % len(sides)]
                pixels = torch.randint(0, 256, (side, side + 7, 3), dtype=torch.uint8, generator=draw)
                Image.fromarray(pixels.numpy()).save(folder / f"{index}.png")
    return root


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_folder_of_images_becomes_a_recipe_that_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_folder(tmp_path / "flowers", {"daisy": 24, "rose": 20})
    assert main(["init", "flowers", "--hours", "0.00001"]) == 0
    printed = capsys.readouterr().out
    text = (tmp_path / "flowers.yaml").read_text()
    assert "Data: 44 training images of 2 classes (20 in the smallest), 44 eval images." in printed
    assert "median of 40 pixels" in printed and "Estimated time" in printed and "written: flowers.yaml" in printed
    assert all(line in text for line in printed.splitlines() if line.startswith("#"))
    recipe = load_recipe("flowers.yaml")
    assert (recipe.name, recipe.source.path, recipe.source.image_size, recipe.recover.ipc) == (
        "flowers",
        "flowers",
        32,
        2,
    )
    assert recipe.squeeze.network.title == "convnet x 0.25", "the cheapest"
    assert main(["plan", "flowers.yaml"]) == 0
    assert "plan of flowers: 4 images, 2 for each of 2 classes, 32 x 32 pixels" in capsys.readouterr().out
    assert main(["condense", "flowers.yaml", *QUICKER]) == 0
    assert read_json(tmp_path / "runs" / "flowers" / "evaluate" / "summary.json")["students"]


def test_a_dataset_in_parquet_becomes_a_recipe_that_can_be_planned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_source(tmp_path / "colors", (12, 10), ["red", "green", "blue"])
    assert main(["init", str(tmp_path / "colors"), *OPTIONS]) == 0
    recipe = load_recipe("my.yaml")
    assert (recipe.name, recipe.source.title) == ("my", "colors"), "the recipe is named by its file"
    assert (recipe.source.image_size, recipe.recover.ipc) == (10, 3)
    assert recipe.recover.patches is None
    assert main(["plan", "my.yaml", "--device-tflops", "1"]) == 0
    assert "9 images, 3 for each of 3 classes, 10 x 10 pixels" in capsys.readouterr().out


def test_a_folder_with_one_split_gets_eval_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.move(make_folder(tmp_path / "both", {"daisy": 10, "rose": 7, "tulip": 5}) / "test", tmp_path / "flowers")
    shutil.copy(tmp_path / "flowers" / "rose" / "0.png", tmp_path / "flowers" / "stray.png")
    assert main(["init", "flowers", "--hours", "0.00001", "source.classes=[daisy, rose]"]) == 0
    printed = capsys.readouterr()
    assert "Data: 14 training images of 2 classes (5 in the smallest), 3 eval images that are set aside" in printed.out
    assert "not read: images beside the class folders: stray.png" in printed.err
    source = load_recipe("flowers.yaml").source
    assert (source.eval_split, source.eval_fraction, source.classes) == (None, 0.2, ("daisy", "rose"))
    assert main(["plan", "flowers.yaml", "--device-tflops", "1"]) == 0
    assert "for each of 2 classes" in capsys.readouterr().out


def test_fields_of_the_source_are_kept(tmp_path: Path) -> None:
    make_source(tmp_path / "colors", (8, 8), ["red", "green"])
    fields = ["source.eval_split=null", "source.image_size=16", "source.license=mit", "source.label_column=label"]
    assert main(["init", "colors", *fields, "--hours", "0.0001"]) == 0
    source = load_recipe("colors.yaml").source
    assert (source.eval_split, source.image_size, source.license, source.label_column) == (None, 16, "mit", "label")
    assert main(["plan", "colors.yaml"]) == 0


def test_a_file_is_overwritten_only_if_the_user_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_source(tmp_path / "colors", (8, 8), ["red", "green"])
    (tmp_path / "colors.yaml").write_text("mine")
    assert "colors.yaml: already exists; pass --force to overwrite it" in failure(capsys, "init", "colors")
    assert (tmp_path / "colors.yaml").read_text() == "mine"
    assert main(["init", "colors", "--force", "--hours", "0.0001"]) == 0
    assert load_recipe("colors.yaml").name == "colors"


def test_a_dataset_without_what_is_needed_gets_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    make_folder(tmp_path / "one", {"daisy": 2})
    whole = make_folder(tmp_path / "whole", {"daisy": 2, "rose": 2})
    shutil.rmtree(whole / "train")
    errors = {
        "empty": "source.path=empty has no file that can be read as an image or a table (files: none)",
        "one": "at least 2 classes are required, but 1 found (daisy)",
        "./nowhere": "source.path=./nowhere: there is no such folder",
        "whole": "whole: there is no split named train (splits: test); add source.train_split=NAME",
    }
    for path, message in errors.items():
        assert message in failure(capsys, "init", path, "--out", "x.yaml"), path
    assert not (tmp_path / "x.yaml").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--hours", "0"], "--hours=0.0: must be a number above 0"),
        (["--hours", "nan"], "--hours=nan: must be a number above 0"),
        (["--ipc", "-1"], "--ipc=-1: must be a number above 0"),
        (["recover.ipc=3"], "recover.ipc=3: only source.key=value is allowed here"),
        (["source.splitt=x"], "source.splitt"),
        (["source.train_split=null"], "source.train_split=null: init needs the training images to choose a recipe"),
        (["--out", "no/such/x.yaml"], "--out=no/such/x.yaml: there is no folder no/such"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_mistakes(words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_source(tmp_path / "colors", (8, 8), ["red", "green"])
    assert message in failure(capsys, "init", "colors", *words)
    assert list(tmp_path.glob("*.yaml")) == []
