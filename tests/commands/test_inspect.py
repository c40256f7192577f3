"""`srel-hub inspect`: what it prints about folders, and what it refuses; the cases as a user meets them."""

import re
from pathlib import Path

import pytest
import torch
from conftest import SMALL, make_source, refused
from PIL import Image

from srel_hub.commands.program import main
from srel_hub.condense import condense
from srel_hub.config import Source, load_recipe
from srel_hub.data.sources import open_source
from srel_hub.runs.run import Run
from srel_hub.storage.condensed_table import encode_png
from srel_hub.storage.files import read_json


PNG = encode_png(torch.zeros(3, 8, 8, dtype=torch.uint8))
WARMUP = "squeeze.optimizer.warmup_epochs=0"
CIFAR100 = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
""".split()  # noqa: SIM905 (shorter than a list of 100 strings)


def plant(root: Path, splits: dict[str, int], names: list[str]) -> Path:
    for split, count in splits.items():
        for name in names:
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                (root / split / name / f"{index}.png").write_bytes(PNG)
    return root


def inspected(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> str:
    capsys.readouterr()
    assert main(["inspect", *words]) == status
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.out if status == 0 else captured.out + captured.err


def test_a_class_named_train_does_not_move_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = inspected(capsys, str(plant(tmp_path / "d", {"train": 4, "test": 2}, ["airfield", "train_interior"])))
    assert re.search(r"^  train +8 +2 +4 each +4 each +8 x 8 +RGB$", table, re.MULTILINE)
    assert re.search(r"^  test +4 +2 ", table, re.MULTILINE)


def test_a_class_named_test_is_not_scored_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = plant(tmp_path / "d", {"train": 4}, ["beaker", "flask", "test tube"])
    said = refused(capsys, "own_images", *SMALL, WARMUP, f"run.root={tmp_path}/runs", f"source.path={folder}")
    assert "has no split of this name (available: train); set source.eval_fraction=0.2" in said
    assert "there is no split to score students on; set source.eval_fraction=0.2" in inspected(capsys, str(folder))


def test_images_without_labels_are_refused_with_the_layouts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "1.png").write_bytes(PNG)
    said = inspected(capsys, str(tmp_path), status=2)
    assert f"source.path={tmp_path}: train has 1 images without labels" in said and "Supported layouts:" in said


@pytest.mark.parametrize("name", [".NET", "__background__"])
def test_a_hidden_class_is_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    folder = plant(tmp_path / "d", {"train": 2, "test": 2}, [name, "java", "rust"])
    assert f"the folder train/{name} with 2 images is hidden" in inspected(capsys, str(folder), status=2)


def test_cifar100_as_class_folders_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = inspected(capsys, str(plant(tmp_path / "c", {"train": 3, "test": 1}, CIFAR100)))
    assert re.search(r"^  train +300 +100 +3 each", table, re.MULTILINE)
    assert re.search(r"^  test +100 +100 +1 each", table, re.MULTILINE)
    assert "... 85 more ..., woman 3 + 1" not in table and "apple 3 + 1" in table and "... 85 more ..." in table
    listed = inspected(capsys, str(tmp_path / "c"), "--all")
    assert all(f"\n    {name} 3 + 1\n" in listed for name in CIFAR100)


@pytest.mark.long
def test_cifar100_as_class_folders_is_condensed(tmp_path: Path) -> None:
    folder = plant(tmp_path / "c", {"train": 2, "test": 1}, CIFAR100)
    small = [*SMALL, WARMUP, "recover.ipc=1", "source.image_size=8", "evaluate.seeds=1"]
    run = Run(load_recipe("own_images", [*small, f"source.path={folder}", f"run.root={tmp_path}/runs"]))
    condense(run)
    metrics = read_json(run.path("teacher", "metrics.json"))
    assert metrics["class_images"] == [2] * 100 and metrics["eval_images"] == 100


def test_digits_and_parquet_have_a_table_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert re.search(r"^  train +898 +10 ", inspected(capsys, "digits"), re.MULTILINE)
    folder = make_source(tmp_path / "colors [1]*", (6, 9), ["red", "green"], per_class=3)
    assert re.search(r"^  test +6 +2 +3 each +3 each +9 x 6 +RGB$", inspected(capsys, str(folder)), re.MULTILINE)


def test_an_unreadable_image_is_found_before_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = plant(tmp_path / "d", {"train": 3, "test": 1}, ["a", "b"])
    (folder / "train/a/1.png").write_bytes(b"broken")
    said = inspected(capsys, str(folder), status=2)
    assert "cannot be read: 1 of 8 images that were looked at:" in said and f"({folder}/train/a/1.png): Pillow" in said


def test_other_names_of_splits_are_understood(tmp_path: Path) -> None:
    folder = plant(tmp_path / "d", {"Training": 3, "val": 1}, ["a", "b"])
    opened = open_source(
        Source(path=str(folder), train_split="training", eval_split="val"), lambda items, *_: iter(items)
    )
    assert opened.train is not None and len(opened.train.labels) == 6
    assert opened.eval is not None and len(opened.eval.labels) == 2


# Metadata files


def with_metadata(root: Path, text: str | bytes, name: str = "metadata.csv") -> str:
    root.mkdir(exist_ok=True)
    for index in range(4):
        (root / f"{index}.png").write_bytes(PNG)
    (root / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(root)


def test_rows_and_images_that_do_not_match_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = with_metadata(tmp_path / "m", "file_name,label\n0.png,a\n1.png,b\n1.png,b\n9.png,a\n2.png,a\n")
    table = inspected(capsys, folder)
    assert re.search(r"^  train +3 +2 +b \(1\) +a \(2\)", table, re.MULTILINE)
    assert "not read: rows of a metadata file whose image does not exist: 9.png\n" in table
    assert "not read: rows of a metadata file that repeat an earlier row with the same label: 1.png\n" in table
    assert "not read: images without a row in a metadata file: 3.png\n" in table


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file_name,label\n0.png,a\n0.png,b\n1.png,b\n", "0.png: this image is listed with two labels; keep one"),
        ("file_name,label\n0.png,a\n1.png,b\n9.png,c\n", "no image of c exists, so these classes would be lost"),
        ("file_name,label\n8.png,a\n9.png,b\n", "no row names an existing image"),
        (
            "file_name,label\n/etc/x.png,a\n1.png,b\n",
            "row 0 has the file_name '/etc/x.png', which is not a path inside",
        ),
        ("file_name,label\n../x.png,a\n1.png,b\n", "row 0 has the file_name '../x.png', which is not a path inside"),
        ("file;label\n0.png;a\n", "has the columns file;label; it must have one column file_name"),
        ("file_name,label\n0.png,0\n1.png,\n2.png,2\n", "row 1 has no label"),
        ("file_name,label\n0.png,a,x\n", "metadata.csv: line 2 has 3 values, but the header has 2"),
        (b"file_name,label\n\xff.png,a\n", "metadata.csv: 'utf-8' codec can't decode byte"),
        ("", "metadata.csv cannot be read as a table (Empty CSV file)"),
        ("file_name,label\n0.png,007\n1.png,8\n", "the label 007 is read as the number 7; use names instead"),
    ],
)
def test_a_metadata_file_that_cannot_be_used_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | bytes, message: str
) -> None:
    assert message in inspected(capsys, with_metadata(tmp_path / "m", text), status=2)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("metadata.csv", "file_name,label\n0.png,0.0\n1.png,1.0\n"),
        ("metadata.csv", '\ufefffile_name,label\n./0.png,"x, y"\n1.png,1\n'),
        ("metadata.jsonl", '{"file_name": "0.png", "label": "a"}\n{"file_name": "1.png", "label": "b"}\n'),
    ],
)
def test_metadata_files_of_other_kinds_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, text: str
) -> None:
    table = inspected(capsys, with_metadata(tmp_path / "m", text, name))
    assert re.search(r"^  train +2 +2 +1 each", table, re.MULTILINE)


def test_modes_that_are_not_listed_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("ant", "bee"):
        (tmp_path / "train" / name).mkdir(parents=True)
        for mode in ("RGB", "L", "1", "P", "RGBA", "LA"):
            Image.new(mode, (8, 8)).save(tmp_path / "train" / name / f"{mode}.png")
    assert re.search(r"8 x 8 +(\w+, ){4}2 more$", inspected(capsys, str(tmp_path)), re.M)
