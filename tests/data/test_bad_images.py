"""Images that cannot be read, and identical images: listed, left out on request, and counted."""

import contextlib
import io
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from conftest import SMALL, refused, small_recipe, write_recipe
from PIL import Image

from srel_hub.condense import condense
from srel_hub.config import Source
from srel_hub.data.examined import copies_across, copies_within, load_examined, save_examined
from srel_hub.data.sources import open_source
from srel_hub.data.splits import TableSplit
from srel_hub.errors import UserError
from srel_hub.runs.run import Run
from srel_hub.stages.pipeline import require_same_skipped
from srel_hub.storage.condensed_table import encode_png, write_parquet
from srel_hub.storage.decode import Frame
from srel_hub.storage.files import read_json


NAMES = ("ant", "bee")
SKIPPING = ("source.on_bad_image=skip", "evaluate.seeds=1")


def silent(items: Iterable[Any], total: int | None, title: str, unit: str) -> Iterator[Any]:
    return iter(items)


def noise(seed: int) -> bytes:
    draw = torch.Generator().manual_seed(seed)
    return encode_png(torch.randint(0, 256, (3, 8, 8), generator=draw, dtype=torch.uint8))


def make_folder(root: Path, per_class: int = 5) -> Path:
    """Class folders of different images: five of each class in train, and as many in test."""
    seed = 0
    for split in ("train", "test"):
        for name in NAMES:
            (root / split / name).mkdir(parents=True)
            for index in range(per_class):
                seed += 1
                (root / split / name / f"{index}.png").write_bytes(noise(seed))
    return root


def opened(folder: Path, **spec: Any) -> tuple[TableSplit, TableSplit]:
    source = open_source(Source(path=str(folder), **spec), silent)
    assert isinstance(source.train, TableSplit) and isinstance(source.eval, TableSplit)
    return source.train, source.eval


def copy(folder: Path, source: str, target: str) -> None:
    (folder / target).write_bytes((folder / source).read_bytes())


def repair(file: Path) -> None:
    file.write_bytes(noise(99))
    os.utime(file, (time.time() + 10,) * 2)


# Images that cannot be read


def damage(folder: Path) -> Path:
    (folder / "train/ant/1.png").write_bytes(b"<!DOCTYPE html>")
    (folder / "train/bee/4.png").write_bytes(noise(3)[:70])
    (folder / "test/bee/0.png").write_bytes(b"")
    return folder


def test_unreadable_images_are_left_out_and_named(tmp_path: Path) -> None:
    folder = damage(make_folder(tmp_path / "data"))
    spec = Source(path=str(folder), on_bad_image="skip")
    source, again = (open_source(spec, silent) for _ in range(2))
    assert source.skipped == {"train": ("train/ant/1.png", "train/bee/4.png"), "test": ("test/bee/0.png",)}
    assert again.skipped == source.skipped and again.remarks == source.remarks
    assert source.train is not None and source.eval is not None
    assert source.train.labels.bincount().tolist() == [4, 4] and source.eval.labels.bincount().tolist() == [5, 4]
    images = source.train.images(None)
    assert images.examined is not None and [Path(file).name for file in images.examined.files] == [
        *("0.png", "2.png", "3.png", "4.png", "0.png", "1.png", "2.png", "3.png")
    ]
    assert any(
        "unreadable images are skipped: 2 of 10 (train/ant/1.png: damaged, or" in line for line in source.remarks
    )
    assert str(tmp_path) not in str(source.skipped)


def test_by_default_they_are_an_error(tmp_path: Path) -> None:
    train, _ = opened(damage(make_folder(tmp_path / "data")))
    with pytest.raises(UserError) as caught:
        train.images(Frame((8, 8)))
    assert [f"row {row} (" in str(caught.value) for row in (1, 9)] == [True, True]


def test_a_repaired_image_is_used_again(tmp_path: Path) -> None:
    folder = damage(make_folder(tmp_path / "data"))
    assert len(opened(folder, on_bad_image="skip")[0].labels) == 8
    repair(folder / "train/ant/1.png")
    assert len(opened(folder, on_bad_image="skip")[0].labels) == 9


def test_a_class_without_a_readable_image_is_an_error(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "data")
    for file in (folder / "train" / "bee").iterdir():
        file.write_bytes(b"GIF89a")
    with pytest.raises(UserError, match="the training split has no image of: bee"):
        opened(folder, on_bad_image="skip")


def test_a_split_without_a_readable_image_is_an_error(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "data", per_class=1)
    for file in folder.rglob("test/*/*.png"):
        file.write_bytes(b"")
    with pytest.raises(UserError, match="split test: the split has no images"):
        opened(folder, on_bad_image="skip")


def test_rows_of_a_table_are_named_by_number(tmp_path: Path) -> None:
    rows = {
        "image": [{"bytes": noise(1), "path": None}, {"bytes": b"x", "path": "/home/me/b.png"}, None],
        "label": [0, 1, 1],
    }
    rows = {name: values + values[:2] for name, values in rows.items()}
    rows["image"][4] = {"bytes": noise(2), "path": "c.png"}
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(NAMES))})
    datasets.Dataset.from_dict(rows, features=kinds).to_parquet(tmp_path / "train.parquet")
    source = open_source(Source(path=str(tmp_path), eval_split=None, on_bad_image="skip"), silent)
    assert source.skipped == {"train": ("row 1 (b.png)", "row 2")}
    assert source.train is not None and source.train.labels.tolist() == [0, 0, 1]


def test_a_streamed_split_is_refused(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_parquet(tmp_path / f"{split}.parquet", [noise(1), noise(2)], [0, 1], list(NAMES))
    with pytest.raises(
        UserError, match="split train is streamed, but all images must be checked .* set source.streaming"
    ):
        opened(tmp_path, on_bad_image="skip", streaming=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """A recipe file, a complete run of a folder with unreadable and identical images, and what it printed."""
    folder = tmp_path_factory.mktemp("bad")
    data = damage(make_folder(folder / "data"))
    copy(data, "train/ant/0.png", "test/ant/2.png")
    copy(data, "train/ant/0.png", "train/bee/2.png")
    file = write_recipe(folder / "mine.yaml", data, ipc=2)
    run = Run(small_recipe(file, folder / "runs", *SKIPPING))
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        condense(run)
    run.close()
    return file, run.folder, said.getvalue()


def test_a_run_without_the_unreadable_images(finished: tuple[Path, Path, str]) -> None:
    """The counts, the card and the files of the run agree."""
    _, run, said = finished
    assert "unreadable images are skipped: 2 of 10 (train/ant/1.png" in said
    metrics = read_json(run / "teacher" / "metrics.json")
    assert metrics["class_images"] == [4, 4] and metrics["train_images"] == 8 and metrics["eval_images"] == 9
    assert metrics["skipped_images"] == {"train": ["train/ant/1.png", "train/bee/4.png"], "test": ["test/bee/0.png"]}
    card = (run / "dataset" / "README.md").read_text()
    assert (
        "- 2 images of the split `train` cannot be read and were left out: train/ant/1.png, train/bee/4.png.\n" in card
    )
    assert "- 1 image of the split `test` cannot be read and was left out: test/bee/0.png.\n" in card
    assert "| 0 | ant | 4 | 2 | 2 |" in card and str(run.parent) not in card


def test_a_run_warns_of_identical_images_once(finished: tuple[Path, Path, str]) -> None:
    _, run, said = finished
    for text in (said, (run / "log.txt").read_text()):
        assert text.count("so accuracies will be too high") == 1
        assert text.count("copies of other images: 1 of 8 images: row 0 (") == 1
        assert text.count("identical images with different labels: 2; correct") == 1


def test_such_a_run_is_resumed_only_with_the_same_images(
    finished: tuple[Path, Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    file, folder, _ = finished
    again = Run(small_recipe(file, folder.parent, *SKIPPING))
    condense(again)
    again.close()
    assert "is complete: nothing to do" in capsys.readouterr().err
    repair(file.parent / "data/train/ant/1.png")
    said = refused(capsys, str(file), *SMALL, f"run.root={folder.parent}", *SKIPPING, "evaluate.seeds=2")
    assert "the number of training images of some classes has changed" in said


@pytest.mark.parametrize("recovered", [(8, 8)], indirect=True, ids=["8x8"])
def test_without_the_option_nothing_says_so(recovered: tuple[Path, Path]) -> None:
    assert "skipped_images" not in read_json(recovered[1] / "teacher" / "metrics.json")


def test_processes_must_skip_the_same_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe_file = write_recipe(tmp_path / "mine.yaml", damage(make_folder(tmp_path / "data")))
    run = Run(small_recipe(recipe_file, tmp_path / "runs", "source.on_bad_image=skip"))
    source = open_source(run.recipe.source, silent)
    require_same_skipped(run, source)
    monkeypatch.setattr(run, "broadcast", lambda value: {"train": (), "test": ()})  # what the main process skips
    with pytest.raises(UserError, match="give all machines the same files and the same version of Pillow"):
        require_same_skipped(run, source)


# Identical images


def test_identical_images_are_counted_within_and_across_splits(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "data")
    with Image.open(folder / "train/ant/0.png") as image:  # the pixels are the same, the file is not
        image.save(folder / "train/ant/3.png", compress_level=0)
    copy(folder, "train/ant/0.png", "train/bee/2.png")
    copy(folder, "train/bee/1.png", "test/bee/3.png")
    copy(folder, "train/bee/1.png", "test/ant/4.png")
    train, evaluation = (split.images(Frame((8, 8))).examined for split in opened(folder))
    assert train is not None and evaluation is not None
    copies, labels = copies_within(train)
    assert "split train: copies of other images: 2 of 10 images: row 0 (" in copies
    assert "split train: identical images with different labels: 3; correct the labels" in labels
    assert "ant/0.png): ant and" in labels and "bee/2.png): bee" in labels
    (overlap,) = copies_across(train, evaluation)
    assert "split train: 2 of 10 (1 of them with another label), so accuracies will be too high" in overlap
    assert "bee/1.png) and row" in overlap and "test/bee/3.png)" in overlap
    save_examined(tmp_path / "examined", train)
    loaded = load_examined(tmp_path / "examined")
    assert loaded.files == train.files and loaded.where == train.where and loaded.class_names == NAMES
    assert copies_within(loaded) == copies_within(train) and copies_across(loaded, evaluation) == [overlap]


def test_different_images_give_no_remark(tmp_path: Path) -> None:
    train, evaluation = (split.images(None).examined for split in opened(make_folder(tmp_path / "data")))
    assert train is not None and evaluation is not None
    assert copies_within(train) == copies_within(evaluation) == copies_across(train, evaluation) == []


def test_images_of_another_shape_differ(tmp_path: Path) -> None:
    (tmp_path / "train/a").mkdir(parents=True)
    (tmp_path / "train/b").mkdir(parents=True)
    Image.new("RGB", (4, 9)).save(tmp_path / "train/a/1.png")
    Image.new("RGB", (6, 6)).save(tmp_path / "train/b/1.png")
    split = open_source(Source(path=str(tmp_path), eval_split=None), silent).train
    assert split is not None
    digests = [split.images(None, torch.tensor([row])).examined.digests for row in (0, 1)]  # type: ignore[union-attr]
    assert not torch.equal(*digests)


# Images of 12 bits in 16 bits


@pytest.mark.parametrize("suffix", ["png", "tiff"])
@pytest.mark.parametrize(("largest", "warns"), [(4095, True), (4096, False), (65535, False), (200, True)])
def test_images_that_become_almost_black_are_reported(tmp_path: Path, suffix: str, largest: int, warns: bool) -> None:
    for name in NAMES:
        (tmp_path / "train" / name).mkdir(parents=True)
        for index in range(2):
            values = np.full((8, 8), 100 + index, np.uint16)
            values[0, 0] = largest if (name, index) == ("bee", 1) else 199
            Image.fromarray(values).save(tmp_path / "train" / name / f"{index}.{suffix}")
    split = open_source(Source(path=str(tmp_path), eval_split=None), silent).train
    assert split is not None
    examined = split.images(None).examined
    assert examined is not None and bool(examined.remarks) == warns
    if warns:
        assert f"no value of the 4 images with 16 bits per channel exceeds {largest:,} of 65,535" in examined.remarks[0]
