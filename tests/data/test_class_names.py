"""Class names from other people's files: what a card can represent is accepted, anything else is rejected at once."""

import io
import re
from pathlib import Path
from typing import Any

import datasets
import pytest
from conftest import SMALL, refused, write_recipe
from datasets.info import DatasetInfosDict
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCard, DatasetCardData
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from srel_hub.config import Source
from srel_hub.data.class_names import LONGEST_NAME, classes_of_values, require_usable_names
from srel_hub.data.sources import open_source
from srel_hub.errors import UserError
from srel_hub.storage.condensed_table import write_parquet


UNUSABLE = (
    "\x85",
    "\u2028",
    "\u2029",
    "\0",
    "\x1b",
    "\n",
    "\r",
    "\t",
    "\x0b",
    "\x9f",
    "\ufeff",
    "\ufffe",
    "\ud800",
    "\udce9",
)
TRICKY = (
    *(
        "yes",
        "no",
        "null",
        "~",
        "true",
        "1",
        "1e3",
        "0x1f",
        "0o7",
        "1_000",
        "12:30:00",
        "2024-01-01",
        ".inf",
        "=",
        "<<",
    ),
    *(
        "- a",
        "? a",
        "a: b",
        "a #b",
        "#a",
        "'",
        '"',
        "'a'",
        '"a"',
        "{a}",
        "[a]",
        "!a",
        "&a",
        "*a",
        "%a",
        "@a",
        "`a`",
        "|",
    ),
    *("---", "...", "--- a", " a", "a ", "a  b", "\u00a0", "é", "日本", "🌸", "\u200b", "\u202e", "a" * LONGEST_NAME),
    *(
        "x" * 79 + " y",
        ("ab " * 160).strip(),
        "a" * 90 + "  " + "b" * 90,
        "\\",
        "\\n",
        "\\u0085",
        "a\u2029".strip("\u2029"),
    ),
)


def written_and_read(names: list[str], folder: Path) -> list[str]:
    """Return the names that `datasets` reads from a card that was made as ours are, and saved as a file."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    data = DatasetCardData(pretty_name="x")
    MetadataConfigs({"default": {"data_files": [{"split": "train", "path": "data/*"}]}}).to_dataset_card_data(data)
    DatasetInfosDict({"default": datasets.DatasetInfo(features=features)}).to_dataset_card_data(data)
    file = folder / "README.md"
    file.write_text(f"---\n{data.to_yaml().strip()}\n---\n\n# x\n", encoding="utf-8")
    card = DatasetCard.load(file)
    read = DatasetInfosDict.from_dataset_card_data(card.data)["default"].features["label"].names
    return list(read)


def problem_of(names: Any) -> str:
    try:
        require_usable_names(names, "here")
    except UserError as error:
        return str(error)
    return ""


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=120) | st.sampled_from(TRICKY), min_size=2, max_size=6, unique=True))
def test_accepted_names_come_back_from_a_card(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    problem = problem_of(names)
    if problem:
        assert all(line.startswith("here: class") for line in problem.splitlines())
        return
    folder = tmp_path_factory.getbasetemp() / "card"
    folder.mkdir(exist_ok=True)
    assert written_and_read(names, folder) == names


@pytest.mark.parametrize("name", TRICKY)
def test_each_tricky_name_is_kept_or_rejected(tmp_path: Path, name: str) -> None:
    assert problem_of([name, "other"]) or written_and_read([name, "other"], tmp_path) == [name, "other"]
    assert bool(problem_of([name, "other"])) == (not name.strip())


@pytest.mark.parametrize("letter", UNUSABLE, ids=lambda letter: f"U+{ord(letter):04X}")
@pytest.mark.parametrize("place", ["{}", "{}ab", "a{}b", "ab{}"])
def test_letters_that_a_card_cannot_hold_are_rejected(letter: str, place: str) -> None:
    problem = problem_of(["fine", place.format(letter)])
    assert f"U+{ord(letter):04X} cannot be written" in problem or "which is empty; name it" in problem


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (["a", ""], "class 1 has the name '', which is empty"),
        (["  ", "a"], "class 0 has the name '  ', which is empty"),
        (["a", True], "class 1 is named True, which is not text; put the name in quotes"),
        (["a", 5], "class 1 is named 5, which is not text"),
        (["a", None], "class 1 is named None, which is not text"),
        (["a", 1.5], "class 1 is named 1.5, which is not text"),
        (["a", ["b"]], r"class 1 is named ['b'], which is not text"),
        (["a", "b" * (LONGEST_NAME + 1)], "class 1 has a name of 501 characters"),
        (["a", "a "], "classes 0 ('a') and 1 ('a ') have names that look the same"),
        (["caf\u00e9", "cafe\u0301"], "have names that look the same; rename one of them, or merge the classes"),
        (["a b", "a  b", "c"], "classes 0 ('a b') and 1 ('a  b')"),
    ],
)
def test_names_that_are_no_names(names: list[Any], problem: str) -> None:
    assert problem in problem_of(names)


def test_all_problems_are_reported_together() -> None:
    problem = problem_of(["a\x85", 5, "", "b"])
    assert [f"class {index}" in problem for index in range(4)] == [True, True, True, False]


def test_capital_letters_make_another_class() -> None:
    assert problem_of(["a", "A"]) == ""


@given(st.lists(st.none() | st.floats(), max_size=20))
def test_whole_numbers_read_as_fractions_are_classes(values: list[float | None]) -> None:
    classes = classes_of_values(values)
    whole = sorted({int(value) for value in values if value is not None and value.is_integer() and value >= 0})
    assert classes.names == tuple(map(str, whole))
    for value in values:
        try:
            index = int(classes.indices([value], "here")[0])
        except UserError as error:
            assert "row 0 has no label" in str(error) or "which is not a whole number" in str(error)
        else:
            assert value is not None and classes.names[index] == str(int(value))


# From the files


def silent(items: Any, total: int | None, title: str, unit: str) -> Any:
    return iter(items)


def test_a_name_with_a_next_line_control_is_refused_before_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    png = io.BytesIO()
    Image.new("RGB", (8, 8)).save(png, "PNG")
    (tmp_path / "data").mkdir()
    names = ["cat", "other\u0085", "x\u0085y"]
    for split in ("train", "test"):
        write_parquet(tmp_path / "data" / f"{split}.parquet", [png.getvalue()] * 3, [0, 1, 2], names)
    recipe = write_recipe(tmp_path / "mine.yaml", tmp_path / "data")
    said = refused(capsys, str(recipe), *SMALL, f"run.root={tmp_path}/runs")
    assert "class 1 is named 'other\\x85'; U+0085" in said and "class 2 is named 'x\\x85y'; U+0085" in said
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["yes", "5", "1.5", "null", "[a]", "2024-01-01"])
def test_a_name_of_a_card_that_is_not_text_is_named(tmp_path: Path, name: str) -> None:
    table = {"image": [{"bytes": b"", "path": None}] * 2, "label": [0, 1]}
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    datasets.Dataset.from_dict(table, features=kinds).to_parquet(tmp_path / "train.parquet")
    (tmp_path / "README.md").write_text(
        "---\ndataset_info:\n  features:\n  - name: image\n    dtype: image\n  - name: label\n    dtype:\n"
        f"      class_label:\n        names:\n          '0': cat\n          '1': {name}\n---\n"
    )
    with pytest.raises(UserError) as caught:
        open_source(Source(path=str(tmp_path), eval_split=None), silent)
    assert re.search("(which|) is not text; put the name in quotes", str(caught.value)), str(caught.value)
