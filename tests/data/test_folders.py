"""Which file of a local folder belongs to which split and class, and what is not read and why. No image is opened."""

import glob
import os
import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from srel_hub.data.folders import ImageFolder
from srel_hub.data.local_folder import escaped, read_local_folder
from srel_hub.data.split_folders import SPLITS
from srel_hub.data.table_files import TableFolder
from srel_hub.errors import UserError


def plant(root: Path, *paths: str) -> Path:
    """Make empty files. Nothing here looks into them."""
    for path in paths:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
    return root


def class_folders(root: Path, splits: Iterable[str], names: Iterable[str], count: int = 2) -> Path:
    return plant(root, *(f"{split}/{name}/{index}.png" for split in splits for name in names for index in range(count)))


def images(root: Path, *named: str) -> ImageFolder:
    folder = read_local_folder(root, named)
    assert isinstance(folder, ImageFolder)
    return folder


def classes(root: Path, *named: str) -> dict[str, dict[str, int]]:
    """Return the number of images of each class of each split, which has no problems."""
    folder = images(root, *named)
    assert not any(split.problems for split in folder.splits.values())
    return {
        name: {label: len(files) for label, files in split.classes.items()} for name, split in folder.splits.items()
    }


def problems(root: Path, split: str = "train") -> str:
    return "\n".join(images(root).splits[split].problems)


# Splits


HARD_NAMES = [
    "test tube",
    "train_interior",
    "bullet train",
    "dev kit",
    "train",
    "test",
    "val",
    "validation-set",
    "training day",
    "a[b]",
    "c*d",
    "e?f",
    "g#h%20",
    "x::y",
    "{a,b}",
    "naïve 日本",
    "!not",
    "~home",
    "a.png",
    "-1",
]


def test_words_in_the_names_of_classes_do_not_move_images(tmp_path: Path) -> None:
    expected = dict.fromkeys(sorted(HARD_NAMES), 2)
    class_folders(tmp_path / "both [x] *", ["train", "test"], HARD_NAMES)
    assert classes(tmp_path / "both [x] *") == {"train": expected, "test": expected}
    whole = [name for name in HARD_NAMES if name.lower() not in SPLITS]
    class_folders(tmp_path / "train test", ["."], whole)
    assert classes(tmp_path / "train test") == {"train": dict.fromkeys(sorted(whole), 2)}


letters = st.characters(exclude_characters="/\0", exclude_categories=["Cs", "Cc"])
words = st.lists(st.sampled_from(["train", "test", "val", "dev", "-", "_", " ", "1", "a"]), min_size=2).map("".join)
labels = st.sets(
    (st.text(letters, min_size=1, max_size=9) | words).filter(
        lambda name: name and name.strip() == name and not name.startswith((".", "__"))
    ),
    min_size=1,
    max_size=5,
)
tops = st.lists(st.sampled_from(sorted(SPLITS)), min_size=1, max_size=3, unique_by=lambda name: SPLITS[name])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tops=tops, labels=labels, upper=st.booleans())
def test_any_class_in_any_split_is_listed(tmp_path: Path, tops: list[str], labels: set[str], upper: bool) -> None:
    root = tmp_path / str(len(list(tmp_path.iterdir())))
    class_folders(root, [top.upper() if upper else top for top in tops], labels)
    expected = {SPLITS[top]: dict.fromkeys(labels, 2) for top in tops}
    try:
        assert classes(root) == expected
    except UserError as error:
        assert "differ only in case" in str(error)


@pytest.mark.parametrize(
    ("top", "split"),
    [("Training", "train"), ("VAL", "validation"), ("valid", "validation"), ("dev", "validation"), ("Test", "test")],
)
def test_a_folder_at_the_top_is_a_split_in_any_case(tmp_path: Path, top: str, split: str) -> None:
    class_folders(tmp_path, [top], ["a", "b"])
    assert list(images(tmp_path).splits) == [split]


def test_a_name_in_the_recipe_is_a_split(tmp_path: Path) -> None:
    class_folders(tmp_path, ["all", "holdout"], ["a", "b"])
    assert list(images(tmp_path, "all", "holdout").splits) == ["all", "holdout"]
    with pytest.raises(UserError, match=r"named like splits: all \(4 images\); others are not: holdout \(4 images\)"):
        images(tmp_path, "all")


def test_a_folder_with_the_name_of_a_split_is_a_class_among_classes(tmp_path: Path) -> None:
    class_folders(tmp_path, ["."], ["bus", "plane", "train"])
    assert classes(tmp_path) == {"train": {"bus": 2, "plane": 2, "train": 2}}
    assert images(tmp_path).remarks == ["the folder train holds images, no class folders, so it is read as a class"]


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["val/a/1.png", "validation/a/1.png"], "the folders val and validation are both the split validation"),
        (["Train/a/1.png", "train/a/1.png"], "the folders Train and train are both the split train"),
        (
            ["train/a/1.png", "extra/a/1.png"],
            "train .*; others are not: extra [^;]* as source.eval_split=extra",
        ),
        (["train/1.png", "figures/1.png"], "named like splits: train .*; others are not: figures"),
        (
            ["train/1.png", "test/1.png", "a/1.png", "b/1.png"],
            "If all of these folders are classes, move all of them",
        ),
        (["train/a/1.png", "eval/a/1.png", "b/1.png"], r"others are not: b \(1 images\), eval \(1 images\)"),
    ],
)
def test_what_is_neither_splits_nor_classes_is_refused(tmp_path: Path, paths: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        images(plant(tmp_path, *paths))


# Classes


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["train/1.png", "test/1.png"], "train has 1 images without labels: it has neither class folders nor"),
        (
            ["train/1.png", "test/1.png", "metadata.csv"],
            "metadata.csv is one level too high: it must be in",
        ),
        (["train/1.png", "labels.csv"], "labels.csv is not read, because only metadata.csv and metadata.jsonl are"),
        (["train/a/x/1.png", "train/a/y/1.png"], r"train/a holds images in its own folders \(x, y\)"),
        (["train/a/1.png", "train/a/x/1.png", "train/b/1.png"], r"train/a holds images in its own folders \(x\)"),
        (
            ["photos/train/a/1.png", "photos/test/a/1.png"],
            r"all images are below photos \(test, train\); set",
        ),
        (["a/train/1.png", "b/train/1.png"], "folders of the splits must be at the top: train/a instead of a/train"),
        (
            ["train/.NET/1.png", "train/a/1.png"],
            "the folder train/.NET with 1 images is hidden, because",
        ),
        (
            ["train/__x__/1.png", "train/a/1.png"],
            "__, so this class would be lost; rename it, for example to x",
        ),
        (["__background__/1.png", "a/1.png", "b/1.png"], "the folder __background__ with 1 images is hidden"),
        (
            ["train/a/1.png", "train/b/1.heic"],
            r"class folder train/b has no image that can be read \(1 with .heic\)",
        ),
        (["train/a/1.png", "train/b/00012"], r"train/b has no image that can be read \(1 with no suffix\)"),
    ],
)
def test_a_class_is_never_left_out(tmp_path: Path, paths: list[str], message: str) -> None:
    assert re.search(message, problems(plant(tmp_path, *paths)))


@pytest.mark.parametrize(
    "paths",
    [
        ["train/Cat/1.png", "test/cat/1.png"],
        ["train/caf\u00e9/1.png", "test/cafe\u0301/1.png"],
        ["train/caf\u00e9/1.png", "train/cafe\u0301/1.png"],
        ["train/cat /1.png", "test/cat/1.png"],
    ],
)
def test_two_spellings_of_one_class_are_refused(tmp_path: Path, paths: list[str]) -> None:
    with pytest.raises(UserError, match="differ only in case, in spaces or in the Unicode form of a letter"):
        images(plant(tmp_path, *paths, "train/dog/1.png"))


def test_letters_in_both_cases_are_two_classes(tmp_path: Path) -> None:
    class_folders(tmp_path, ["train", "test"], ["A", "a"])
    assert classes(tmp_path)["test"] == {"A": 2, "a": 2}


def test_what_is_not_read_is_named_with_the_reason(tmp_path: Path) -> None:
    class_folders(tmp_path, ["train"], ["a", "b"])
    expected = {
        "images beside the class folders": ["train/9.png"],
        "images beside the folders of the splits": ["train.png"],
        "files that are not images": ["Thumbs.db", "notes.txt", "train/a/1.txt"],
        "files of types that cannot be read": ["LICENSE", "train/a/1.heic"],
        "hidden files": [".DS_Store", "train/a/._1.png"],
        "hidden folders": [".venv", "__MACOSX", "train/a/.thumbs", "train/__MACOSX"],
        "broken links": ["train/a/broken.png", "train/a/self.png"],
        "special files such as pipes": ["train/a/pipe.png"],
        "links to a folder that contains the link": ["train/a/loop"],
        "files whose names are not valid UTF-8": ["train/a/caf\udce9.png"],
    }
    for reason, paths in expected.items():
        if "link" not in reason and "pipes" not in reason:
            plant(tmp_path, *(f"{path}/1.png" if reason == "hidden folders" else path for path in paths))
    (tmp_path / ".venv/lib").symlink_to(tmp_path)
    (tmp_path / "train/a/broken.png").symlink_to("nowhere.png")
    (tmp_path / "train/a/self.png").symlink_to("self.png")
    (tmp_path / "train/a/loop").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "train/a/pipe.png")
    folder = images(tmp_path)
    (tmp_path / ".venv/1.png").unlink()  # images directly in a hidden folder at the place of a class are a problem
    assert folder.unread == {reason: sorted(paths) for reason, paths in expected.items()}
    assert {name: len(files) for name, files in folder.splits["train"].classes.items()} == {"a": 2, "b": 2}


def test_names_with_odd_characters_are_read(tmp_path: Path) -> None:
    files = ["a\nb.png", " .png", "[1].PNG", "*?.jpeg", "x::y.jpg", "train.png", "ü#%20.WebP", "no.dot.avif"]
    plant(tmp_path, *(f"{label}/{file}" for label in ("a", "b") for file in files))
    assert classes(tmp_path) == {"train": {"a": len(files), "b": len(files)}}


# Links


def link(file: Path, target: Path | str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.symlink_to(target)


def test_links_to_files_and_folders_are_read(tmp_path: Path) -> None:
    class_folders(tmp_path / "store", ["all"], ["a", "b", "c"])
    link(tmp_path / "data/train/a", tmp_path / "store/all/a")
    link(tmp_path / "data/train/b/1.png", tmp_path / "store/all/b/1.png")
    link(tmp_path / "data/test", tmp_path / "store/all")
    with pytest.raises(UserError, match="test/a and train/a are the same folder"):
        images(tmp_path / "data")
    (tmp_path / "data/test").unlink()
    assert classes(tmp_path / "data") == {"train": {"a": 2, "b": 1}}


@pytest.mark.parametrize(
    ("name", "target", "message"),
    [
        ("test", "train", "test and train are the same folder, because one of them is a link"),
        ("train/c", "a", "train/a and train/c are the same folder"),
    ],
)
def test_images_are_not_read_twice_through_links(tmp_path: Path, name: str, target: str, message: str) -> None:
    class_folders(tmp_path, ["train"], ["a", "b"])
    link(tmp_path / name, target)
    with pytest.raises(UserError, match=message):
        images(tmp_path)


def test_loops_of_links_end(tmp_path: Path) -> None:
    class_folders(tmp_path / "data", ["train"], ["a", "b"])
    link(tmp_path / "data/train/a/up", tmp_path)
    link(tmp_path / "one/two", tmp_path / "two")
    link(tmp_path / "two/one", tmp_path / "one")
    link(tmp_path / "data/train/a/out", tmp_path / "one")
    with pytest.raises(UserError, match="the same folder"):
        images(tmp_path / "data")


def test_a_broken_link_beside_classes_is_a_problem(tmp_path: Path) -> None:
    class_folders(tmp_path, ["train"], ["a", "b"])
    link(tmp_path / "train/c", "nowhere")
    assert "train/c is a broken link beside the class folders; restore the folder" in problems(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open every folder")
def test_a_folder_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    class_folders(tmp_path, ["train"], ["a", "b"])
    (tmp_path / "train/a").chmod(0)
    try:
        with pytest.raises(UserError, match="train/a cannot be opened"):
            images(tmp_path)
    finally:
        (tmp_path / "train/a").chmod(0o700)


def test_a_class_whose_name_is_not_utf8_is_named(tmp_path: Path) -> None:
    class_folders(tmp_path, ["train"], ["caf\udce9", "b"])
    with pytest.raises(UserError, match=r"train/caf\\udce9: the name of this folder is not valid UTF-8; rename it"):
        images(tmp_path)


def test_the_order_is_that_of_the_paths(tmp_path: Path) -> None:
    """`datasets` sorts whole paths, so that 'a b/1.png' is before 'a/1.png'. Results must not change."""
    plant(tmp_path, "train/a/1.png", "train/a b/1.png", "train/a/10.png", "train/a/2.png")
    paths = [file.path for file in images(tmp_path).splits["train"].images]
    assert paths == ["train/a b/1.png", "train/a/1.png", "train/a/10.png", "train/a/2.png"]


# Data files


def tables(root: Path, *named: str) -> dict[str, list[str]]:
    folder = read_local_folder(root, named)
    assert isinstance(folder, TableFolder)
    return folder.splits


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["train.parquet", "test.parquet"], {"train": 1, "test": 1}),
        (
            ["train-0-of-2.parquet", "train-1-of-2.parquet", "val.parquet"],
            {"train": 2, "validation": 1},
        ),
        (["data/train-00000-of-00001.parquet", "data/extra-00000-of-00001.parquet"], {"train": 1, "extra": 1}),
        (
            ["data/train_all-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"],
            {"train_all": 1, "test": 1},
        ),
        (["default/train/0000.parquet", "default/test/0000.parquet"], {"train": 1, "test": 1}),
        (["cifar-train.tar", "cifar_test_0.tar"], {"train": 1, "test": 1}),
        (["one.parquet", "two.parquet"], {"train": 2}),
        (["restrain.parquet", "attest.parquet"], {"train": 2}),
        (["TRAIN.parquet", "Eval.parquet", "test.csv", "1.png"], {"train": 1, "test": 1}),
        (["train/data-00000-of-00001.arrow", "train/state.json", "dataset_dict.json"], {"train": 1}),
        (["train [x]*.parquet", "test ?.parquet"], {"train": 1, "test": 1}),
    ],
)
def test_the_names_of_data_files_state_their_split(tmp_path: Path, paths: list[str], expected: dict[str, int]) -> None:
    assert {split: len(files) for split, files in tables(plant(tmp_path, *paths)).items()} == expected


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (
            ["train.parquet", "more.parquet"],
            "are named like splits .*, but others are not: more.parquet",
        ),
        (["train/test.parquet"], r"train/test.parquet is named like 2 splits \(test, train\)"),
        (["train-val.parquet", "test.parquet"], "named like 2 splits"),
        (["train.parquet", "a/1.png", "b/1.png"], "holds both images in folders .* and parquet files"),
        (["train.zip"], "train.zip: this archive cannot be read"),
        (["a.txt", "b.mp4"], r"no file that can be read as an image or a table \(files: 1 with .txt, 1 with .mp4\)"),
        ([], r"no file that can be read as an image or a table \(files: none\)"),
    ],
)
def test_data_files_of_an_unclear_split_are_refused(tmp_path: Path, paths: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_local_folder(plant(tmp_path, *paths))


def test_patterns_match_only_their_file(tmp_path: Path) -> None:
    for name in ("a[b]*?.parquet", "ab.parquet", "a[b]xx.parquet"):
        plant(tmp_path, name)
    (pattern,) = escaped(["a[b]*?.parquet"], tmp_path)
    assert glob.glob(pattern) == [str(tmp_path / "a[b]*?.parquet")]
    assert escaped(["hf://datasets/a/b@1/[x].parquet"]) == ["hf://datasets/a/b@1/[x].parquet"]


CONFIGS = "---\nconfigs:\n- config_name: default\n  data_files: [{split: train, path: 'a/*'}]\n---\n"


@pytest.mark.parametrize(
    ("text", "decides"),
    [
        (CONFIGS, True),
        ("---\nlicense: mit\n---\n# Mine\n", False),
        ("# No metadata\n", False),
        ("---\nconfigs:\n- config_name: default\n  drop_labels: true\n---\n", False),
    ],
)
def test_a_readme_that_names_files_decides(tmp_path: Path, text: str, decides: bool) -> None:
    class_folders(tmp_path, ["train"], ["a", "b"])
    (tmp_path / "README.md").write_text(text)
    assert (read_local_folder(tmp_path) is None) == decides


@pytest.mark.parametrize("text", ["---\nname: Flowers: all\n---\n", "---\n- 1\n---\n", b"---\nname: \xff\n---\n"])
def test_a_readme_that_cannot_be_read_is_named(tmp_path: Path, text: str | bytes) -> None:
    class_folders(tmp_path, ["train"], ["a", "b"])
    (tmp_path / "README.md").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match="README.md(, line 2)?: (mapping values|the metadata between|.utf-8. codec)"):
        read_local_folder(tmp_path)
