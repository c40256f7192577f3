"""Some classes of a dataset: found by their names, renumbered in the dataset's order, or refused with the nearest."""

from pathlib import Path

import pytest
import torch
from conftest import make_source

from srel_hub.config import Source, load_recipe
from srel_hub.data import sources
from srel_hub.data.class_subset import find_classes
from srel_hub.errors import UserError
from srel_hub.storage.condensed_table import encode_png, write_parquet


NAMES = ["tench, Tinca tinca", "cock", "crane, bird", "crane, machine", "Church", "gas pump"]


def silent(items, total, title, unit):  # type: ignore[no-untyped-def]
    return iter(items)


def test_names_match_exactly_or_by_the_part_before_the_comma() -> None:
    assert find_classes(["Tench", "church", "crane, machine"], NAMES, "source.classes", "the dataset") == [0, 4, 3]


def test_all_wrong_names_are_reported_with_the_nearest() -> None:
    with pytest.raises(UserError) as caught:
        find_classes(["crane", "tenc", "zebra", "cock", "Cock"], NAMES, "source.classes", "the dataset")
    said = str(caught.value)
    assert "'crane' may be 'crane, bird' or 'crane, machine'; write the whole name" in said
    assert "'tenc' is none of them (did you mean 'tench, Tinca tinca'?)" in said and "'zebra' is none of them" in said
    assert "'cock' is named twice" in said and said.startswith("source.classes: the dataset has 6 classes; ")


@pytest.mark.parametrize("streaming", [False, True])
def test_only_the_images_of_these_classes_are_left(tmp_path: Path, streaming: bool) -> None:
    folder = str(make_source(tmp_path / "data", (8, 8), NAMES))
    whole = sources.open_source(Source(path=folder), silent)
    part = sources.open_source(Source(path=folder, classes=("gas pump", "cock"), streaming=streaming), silent)
    assert part.class_names == ("cock", "gas pump") and part.kept == (1, 5) and part.whole_names == tuple(NAMES)
    assert whole.train is not None and whole.eval is not None and part.train is not None and part.eval is not None
    for all_images, kept in ((whole.train, part.train), (whole.eval, part.eval)):
        expected, images = all_images.images(None), kept.images(None)
        for label, old in enumerate((1, 5)):
            assert torch.equal(images.pixels[images.labels == label], expected.pixels[expected.labels == old])


def test_the_digits_and_other_numbers_are_names_too() -> None:
    recipe = load_recipe("quickstart", ["source.classes=[3, 8]"])
    opened = sources.open_source(recipe.source, silent)
    assert opened.class_names == ("3", "8") and opened.train is not None
    assert opened.train.labels.unique().tolist() == [0, 1] and opened.train.size == (8, 8)


def test_a_file_lists_one_name_per_line(tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    file.write_text("\ufeffcock\n\n  gas pump  \r\n", encoding="utf-8")
    assert load_recipe("quickstart", [f"source.classes={file}"]).source.classes == ("cock", "gas pump")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("no/such.txt", "must be a list of class names, or a text file with one name per line; 'no/such.txt'"),
        ("[a]", "1 class listed; at least 2 are required"),
        ("[a, b, a]", "a: listed twice; list each class once"),
        ("[a, true]", "source.classes.1: must be "),
        ("3", "source.classes: must be "),
    ],
)
def test_lists_that_are_refused(value: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_recipe("quickstart", [f"source.classes={value}"])
    assert message in str(caught.value)


def test_classes_without_images_matter_only_if_they_are_kept(tmp_path: Path) -> None:
    folder, png = tmp_path / "data", encode_png(torch.zeros(3, 8, 8, dtype=torch.uint8))
    folder.mkdir()
    for split in ("train", "test"):
        write_parquet(folder / f"{split}.parquet", [png] * 3, [0, 1, 1], ["ant", "bee", "cat"])
    assert sources.open_source(Source(path=str(folder), classes=("ant", "bee")), silent).kept == (0, 1)
    with pytest.raises(UserError, match="the training split has no image of: cat"):
        sources.open_source(Source(path=str(folder), classes=("ant", "cat")), silent)
    write_parquet(folder / "test.parquet", [png], [0], ["ant", "bee", "cat"])
    remarks = sources.open_source(Source(path=str(folder), classes=("ant", "bee")), silent).remarks
    assert "there is no image of bee, so these classes are not scored" in remarks[-1]
