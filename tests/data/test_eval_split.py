"""An eval split made from training images: the same for any order of files, stratified, without leaks, or refused."""

import hashlib
import io
import random
from dataclasses import replace
from pathlib import Path

import datasets
import pytest
import torch
from conftest import make_source, small_recipe, write_recipe
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from srel_hub.condense import condense
from srel_hub.config import Source, load_recipe
from srel_hub.data import sources
from srel_hub.data.eval_split import _choose, _identical
from srel_hub.data.selected_split import SelectedSplit
from srel_hub.data.splits import Split
from srel_hub.errors import UserError
from srel_hub.runs.run import Run
from srel_hub.storage.condensed_table import encode_png, read_parquet, write_parquet


NAMES = ["ant", "bee", "cat"]
COUNTS = (20, 11, 4)


def silent(items, total, title, unit):  # type: ignore[no-untyped-def]
    return iter(items)


def rows(seed: int = 0) -> list[tuple[bytes, int]]:
    """Different images of three classes, and one that occurs three times in its class."""
    draw = torch.Generator().manual_seed(seed)
    pictures = torch.randint(0, 256, (sum(COUNTS), 3, 8, 8), generator=draw, dtype=torch.uint8)
    labels = [label for label, count in enumerate(COUNTS) for _ in range(count)]
    made = [(encode_png(image), label) for image, label in zip(pictures, labels, strict=True)]
    made[1] = made[2] = made[0]
    return made


def write(folder: Path, table: list[tuple[bytes, int]]) -> Source:
    folder.mkdir(parents=True)
    write_parquet(folder / "train.parquet", [png for png, _ in table], [label for _, label in table], NAMES)
    return Source(path=str(folder), eval_fraction=0.2)


def write_folders(folder: Path, table: list[tuple[bytes, int]]) -> Source:
    for index, (png, label) in enumerate(table):
        file = folder / "train" / NAMES[label] / f"{index:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png)
    return Source(path=str(folder), eval_fraction=0.2)


def contents(split: Split | None) -> list[tuple[str, int]]:
    """A digest of every image's pixels with its class, sorted."""
    assert split is not None
    images = split.images(None)
    return sorted(
        (hashlib.sha256(image.numpy().tobytes()).hexdigest(), label)
        for image, label in zip(images.pixels, images.labels.tolist(), strict=True)
    )


def opened(spec: Source) -> sources.Source:
    return sources.open_source(spec, silent)


@pytest.mark.parametrize("other", [write, write_folders])
def test_the_same_images_are_set_aside_in_any_order_and_layout(tmp_path: Path, other) -> None:  # type: ignore[no-untyped-def]
    first = opened(write(tmp_path / "first", rows()))
    again = opened(Source(path=str(tmp_path / "first"), eval_fraction=0.2))
    shuffled = rows()
    random.Random(1).shuffle(shuffled)
    second = opened(other(tmp_path / "second", shuffled))
    assert contents(first.eval) == contents(again.eval) == contents(second.eval)
    assert contents(first.train) == contents(second.train)
    assert first.made_eval == second.made_eval and first.made_eval is not None
    assert not set(contents(first.eval)) & set(contents(first.train)), "identical images stay together"
    assert sorted(contents(first.eval) + contents(first.train)) == sorted(contents(_whole(tmp_path / "first")))


def _whole(folder: Path) -> Split | None:
    return opened(Source(path=str(folder), eval_split=None)).train


def test_the_seed_and_the_fraction_decide(tmp_path: Path) -> None:
    spec = write(tmp_path / "data", rows())
    by_seed = [opened(replace(spec, eval_seed=seed)).eval for seed in (0, 1)]
    assert contents(by_seed[0]) != contents(by_seed[1])
    half = opened(replace(spec, eval_fraction=0.5))
    assert half.made_eval is not None and half.eval is not None
    assert half.eval.labels.bincount().tolist() == [10, 6, 2] or half.made_eval.eval_images in (17, 18)
    assert half.made_eval.train_images + half.made_eval.eval_images == sum(COUNTS)


@settings(deadline=None)
@given(st.lists(st.integers(1, 5), min_size=2, max_size=30), st.floats(0.01, 0.99))
def test_every_class_keeps_images_on_both_sides(sizes: list[int], fraction: float) -> None:
    keys = [str(group) for group, size in enumerate(sizes) for _ in range(size)]
    groups = _identical(range(len(keys)), keys)
    chosen = set(_choose(groups, fraction).tolist())
    assert 0 < len(chosen) < len(keys)
    assert all(set(group) <= chosen or not set(group) & chosen for group in groups)
    if set(sizes) == {1}:
        assert len(chosen) == min(len(keys) - 1, max(1, round(fraction * len(keys))))


def test_only_the_eval_images_are_opened_if_no_stage_trains_on_real_images(tmp_path: Path) -> None:
    spec = write(tmp_path / "data", rows())
    source = sources.open_source(spec, silent, train=False)
    assert source.train is None and contents(source.eval) == contents(opened(spec).eval)


def test_selected_rows_are_a_split_of_their_own(tmp_path: Path) -> None:
    whole = opened(Source(path=str(make_source(tmp_path / "data", (8, 8), NAMES)))).train
    assert whole is not None
    split = SelectedSplit(whole, torch.tensor([5, 2, 9]), torch.tensor([0, 1, 0]))
    other = SelectedSplit(whole, torch.tensor([5, 2, 8]), torch.tensor([0, 1, 0]))
    assert split.fingerprint != other.fingerprint and split.size == (8, 8)
    images = split.images(None, torch.tensor([2, 0]), tmp_path / "pixels")
    assert torch.equal(images.pixels, whole.images(None, torch.tensor([9, 5])).pixels)
    assert images.labels.tolist() == [0, 0]


def refusal(spec: Source) -> str:
    with pytest.raises(UserError) as caught:
        opened(spec)
    return str(caught.value)


@pytest.mark.parametrize("name", ["test", "validation", "dev"])
def test_a_dataset_with_an_eval_split_is_divided_only_if_the_recipe_insists(tmp_path: Path, name: str) -> None:
    spec = write(tmp_path / "data", rows())
    write_parquet(tmp_path / "data" / f"{name}.parquet", [png for png, _ in rows(1)], [0] * sum(COUNTS), NAMES)
    split = next(iter(datasets.load_dataset_builder(str(tmp_path / "data")).config.data_files.keys() - {"train"}))
    message = f"source.eval_fraction=0.2: {tmp_path / 'data'} already has the split {split}; remove source.eval_frac"
    assert message in refusal(spec)
    assert opened(replace(spec, eval_split=None)).made_eval is not None


def test_classes_that_are_too_small_are_all_named(tmp_path: Path) -> None:
    single = [row for row in rows() if row[1] == 0][:3]  # three times the same image
    table = [*single, next(row for row in rows() if row[1] == 1), *(row for row in rows() if row[1] == 2)]
    said = refusal(write(tmp_path / "data", table))
    assert "'ant' has 3 images, 'bee' has 1 image;" in said and "two different images" in said and "cat" not in said


def test_a_streamed_dataset_is_refused_in_one_line(tmp_path: Path) -> None:
    said = refusal(replace(write(tmp_path / "data", rows()), streaming=True))
    assert "is streamed" in said and "source.streaming=false" in said and "\n" not in said


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["source.eval_fraction=1"], "source.eval_fraction: must be a number above 0 and below 1"),
        (["source.eval_fraction=true"], "source.eval_fraction: must be a number"),
        (["source.eval_fraction=0.2"], "eval_fraction=0.2: divides the training split, but the built-in digits have"),
    ],
)
def test_values_that_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        load_recipe("quickstart", overrides)


def test_a_split_that_is_not_there_leads_to_the_option(tmp_path: Path) -> None:
    said = refusal(replace(write(tmp_path / "data", rows()), eval_fraction=None))
    assert "source.eval_split=test: " in said and "set source.eval_fraction=0.2" in said
    assert list(read_parquet(tmp_path / "data" / "train.parquet")), "the data is not changed"


def test_images_that_differ_only_in_their_files_are_reported_if_both_parts_have_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Identical bytes stay on one side; the same pixels in other bytes show only when they are decoded."""
    table, picture = rows(), Image.open(io.BytesIO(rows()[5][0]))
    for index in range(20):
        buffer = io.BytesIO()
        picture.save(buffer, "PNG", pnginfo=remark(f"copy {index}"))
        table[index] = (buffer.getvalue(), 0)
    write(tmp_path / "data", table)
    file = write_recipe(tmp_path / "mine.yaml", tmp_path / "data")
    condense(Run(small_recipe(file, tmp_path / "runs", "source.eval_fraction=0.2", "evaluate.seeds=1")))
    said = "".join(capsys.readouterr())
    assert "split train, images for training: copies of other images: 15 of 28 images" in said
    assert "images for training: images that are also in" in said and "images for evaluation: 16 of 28, so" in said


def remark(text: str) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", text)
    return info
