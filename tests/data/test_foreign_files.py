"""Damaged cards, tables and archives: each is named with its cause, and nothing but a UserError is raised."""

import json
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from conftest import SMALL, refused, write_recipe

from srel_hub.config import Source
from srel_hub.data.sources import open_source
from srel_hub.errors import UserError, cause, machine_failure, reading
from srel_hub.storage.condensed_table import encode_png, write_parquet


PNG = encode_png(torch.zeros(3, 4, 4, dtype=torch.uint8))


def silent(items: Iterable[Any], total: int | None, title: str, unit: str) -> Iterator[Any]:
    return iter(items)


def refusal(folder: Path, **spec: Any) -> str:
    with pytest.raises(UserError) as caught:
        open_source(Source(path=str(folder), **spec), silent)
    return str(caught.value)


def table(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        write_parquet(folder / f"{split}.parquet", [PNG] * 2, [0, 1], ["a", "b"])
    return folder


def with_metadata(folder: Path, lines: str, split: str = "train", name: str = "metadata.csv") -> Path:
    (folder / split).mkdir(parents=True, exist_ok=True)
    for index in range(4):
        (folder / split / f"{index}.png").write_bytes(PNG)
    (folder / split / name).write_text(lines)
    return folder


def card(text: str) -> Callable[[Path], object]:
    return lambda folder: (table(folder) / "README.md").write_text(text)


def zips(folder: Path) -> None:
    folder.mkdir()
    for split in ("train", "test"):
        with zipfile.ZipFile(folder / f"{split}.zip", "w") as archive:
            for name in ("a", "b"):
                archive.writestr(f"{name}/1.png", PNG)


def damaged_zip(folder: Path) -> None:
    zips(folder)
    content = (folder / "train.zip").read_bytes()
    (folder / "train.zip").write_bytes(content[: len(content) // 2])


def damaged_parquet(start: float, stop: float) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        file = table(folder) / "train.parquet"
        content = file.read_bytes()
        low, high = int(start * len(content)), int(stop * len(content))
        file.write_bytes(content[:low] + b"\xff" * (high - low) + content[high:])

    return damage


def latin_1_name(folder: Path) -> None:
    for split in ("train", "test"):
        for name in (b"a", b"caf\xe9"):
            inside = folder / split / name.decode(errors="surrogateescape")
            inside.mkdir(parents=True)
            (inside / "1.png").write_bytes(PNG)


def pointers(folder: Path) -> None:
    """What `git clone` writes without Git LFS."""
    for file in table(folder).glob("*.parquet"):
        file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1f\nsize 99\n")


def csv_lines(*lines: str) -> Callable[[Path], object]:
    return lambda folder: with_metadata(folder, "\n".join(["file_name,label", *lines, ""]))


DAMAGED: dict[str, tuple[Callable[[Path], object], str]] = {
    "a colon in a card": (
        card("---\npretty_name: Flowers: the set\n---\n"),
        "README.md, line 2: mapping values are not",
    ),
    "a tab in a card": (card("---\ntags:\n\t- a\n---\n"), "README.md, line 3: found character"),
    "an open bracket in a card": (card("---\ntags: [a\nlicense: mit\n---\n"), "README.md, line "),
    "an unknown tag in a card": (card("---\na: !!python/object:os.system x\n---\n"), "README.md, line 2: could not"),
    "a list as a card": (card("---\n- a\n- b\n---\n"), "README.md: the metadata between the lines --- must be"),
    "text as a card": (card("---\nhello\n---\n"), "README.md: the metadata between the lines --- must be"),
    "a card in latin-1": (
        lambda f: (table(f) / "README.md").write_bytes(b"---\na: caf\xe9\n---\n"),
        "README.md: 'utf-8' codec",
    ),
    "text as configs": (card("---\nconfigs: all\n---\n"), "load_dataset cannot open this folder: "),
    "unknown features": (
        card("---\ndataset_info:\n  features:\n  - name: image\n    dtype: picture\n---\n"),
        "load_dataset cannot open this folder: ",
    ),
    "a file that is missing": (
        card("---\nconfigs:\n- config_name: default\n  data_files: gone/*.parquet\n---\n"),
        "load_dataset cannot open this folder: ",
    ),
    "tables that Git did not fetch": (pointers, "train.parquet: it is a Git LFS pointer instead of the file"),
    "a zip per split": (zips, "(?i)class label|zip|archive"),
    "a truncated zip": (damaged_zip, "zip: (this archive cannot be read|class folders are not read)"),
    "the end of a parquet file": (damaged_parquet(0.9, 1), "train.parquet: "),
    "the middle of a parquet file": (damaged_parquet(0.05, 0.4), "train.parquet: "),
    "an empty parquet file": (lambda f: (table(f) / "train.parquet").write_bytes(b""), "train.parquet: "),
    "a folder name in latin-1": (latin_1_name, "not valid UTF-8; rename it"),
    "too many values in a row": (csv_lines("0.png,a", "1.png,b,c,d", "2.png,a"), "metadata.csv: line 3 has 4 values"),
    "a table in latin-1": (
        lambda f: with_metadata(f, "") and (f / "train/metadata.csv").write_bytes(b"file_name,label\n0.png,caf\xe9\n"),
        "metadata.csv: 'utf-8' codec",
    ),
    "an open quote": (csv_lines('0.png,"a', "1.png,b"), "."),
    "an empty table": (lambda f: with_metadata(f, ""), "."),
    "broken JSON lines": (
        lambda f: with_metadata(f, '{"file_name": "0.png", "label": "a"}\n{"file', name="metadata.jsonl"),
        "metadata.jsonl: line 2: ",
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_named_with_its_cause(tmp_path: Path, name: str) -> None:
    make, message = DAMAGED[name]
    make(tmp_path / "data")
    said = refusal(tmp_path / "data", eval_split=None)
    assert re.search(message, said), said
    assert "An error occurred while generating the dataset" not in said


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (["0", "", "1", "2"], "row 1 has no label"),
        (["0", "NA", "1", "nan"], "row 1 has no label"),
        (["0", "1", "1.5", "1"], "row 2 has the label 1.5, which is not a whole number"),
        (["0", "1", "-1", ""], "row 2 has the label -1, which is not a class"),
        (["a", "", "b", "c"], "row 1 has no label"),
        (["a", " ", "b", "c"], "row 1 has no label"),
        (["", "", "", ""], "no column with|row 0 has no label"),
        (["0", "1", "1e400", "1"], "row 2 has the label inf, which is not a whole number"),
    ],
)
def test_rows_without_a_label_are_named(tmp_path: Path, values: list[str], problem: str) -> None:
    rows = "".join(f"{index}.png,{value}\n" for index, value in enumerate(values))
    said = refusal(with_metadata(tmp_path / "data", f"file_name,label\n{rows}"), eval_split=None)
    assert re.search(problem, said), said


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (["0.0", "1.0", "2.0", "1.0"], ("0", "1", "2")),
        (["True", "False", "True", "False"], ("False", "True")),
        (["1", "a", "2", "b"], ("1", "2", "a", "b")),
        (["1.5", "a", "yes", "no"], ("1.5", "a", "no", "yes")),
    ],
)
def test_values_that_are_classes(tmp_path: Path, values: list[str], names: tuple[str, ...]) -> None:
    rows = "".join(f"{index}.png,{value}\n" for index, value in enumerate(values))
    folder = with_metadata(tmp_path / "data", f"file_name,label\n{rows}")
    assert open_source(Source(path=str(folder), eval_split=None), silent).class_names == names


def test_a_number_missing_in_one_of_two_splits_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    header, rows = "file_name,label\n", [f"{index}.png,{index % 3}\n" for index in range(4)]
    with_metadata(tmp_path / "data", header + "".join(rows), "test")
    with_metadata(tmp_path / "data", header + "".join([*rows[:3], "3.png,\n"]))
    recipe = write_recipe(tmp_path / "mine.yaml", tmp_path / "data")
    said = refused(capsys, str(recipe), *SMALL, f"run.root={tmp_path}/runs")
    assert "row 3 has no label" in said, said
    assert not (tmp_path / "runs").exists()


def test_the_configurations_are_listed(tmp_path: Path) -> None:
    text = (
        "---\nconfigs:\n" + "".join(f"- config_name: {n}\n  data_files: {n}/*\n" for n in ("small", "large")) + "---\n"
    )
    for name in ("small", "large"):
        table(tmp_path / name)
    (tmp_path / "README.md").write_text(text)
    for spec in ({}, {"config": "huge"}):
        said = refusal(tmp_path, eval_split=None, **spec)
        assert "small" in said and "large" in said, said
    (tmp_path / "small" / "train.parquet").write_bytes(b"PAR1")
    said = refusal(tmp_path, eval_split=None, config="small")
    assert "configurations of this dataset: small, large" in said and "small/train.parquet: " in said, said


# The boundary


class OutsideError(Exception):
    """What a library could raise."""


@pytest.mark.parametrize(
    "error", [OutsideError("it broke"), KeyError("label"), AssertionError(), RecursionError("too deep"), MemoryError()]
)
def test_anything_becomes_an_error_of_the_user(error: Exception) -> None:
    with pytest.raises(UserError, match="here: .+; do this"), reading("here", "do this"):
        raise error


def test_the_innermost_cause_is_told() -> None:
    with pytest.raises(UserError) as caught, reading("here"):
        try:
            try:
                json.loads("{")
            except ValueError as error:
                raise OutsideError("outer") from error
        except OutsideError as error:
            raise datasets.exceptions.DatasetGenerationError("An error occurred") from error
    assert "here: Expecting property name" in str(caught.value)
    assert cause(KeyError("label")) == "KeyError: 'label'" and cause(AssertionError()) == "AssertionError"


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        OutsideError("Error while serializing: I/O error: No space left on device (os error 28)"),
        OutsideError('IoError(Os { code: 28, kind: StorageFull, message: "No space left on device" })'),
    ],
)
def test_a_full_disk_is_not_the_users_mistake(error: Exception) -> None:
    with pytest.raises(OSError, match="No space left") as caught, reading("here"):
        raise OutsideError("wrapped") from error
    assert caught.value.errno == 28 and machine_failure(error) is not None
    assert machine_failure(FileNotFoundError(2, "gone")) is None
