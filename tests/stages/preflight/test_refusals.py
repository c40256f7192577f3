"""Every mistake that is refused, through the command line: what it says, status 2, nothing left behind."""

import json
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
import torch
from conftest import SMALL, as_user, make_source, refused, small_recipe, write_recipe
from families import save_family
from local_hub.client import Hub
from reference_resnet import random_state
from safetensors.torch import load_file, save_file

from srel_hub import load_recipe, verify_dataset
from srel_hub.condense import condense
from srel_hub.runs.run import Run
from srel_hub.runs.stage_cli import cli
from srel_hub.squeeze import squeeze
from srel_hub.storage.condensed_table import encode_png, write_parquet


NAMES = ["ant", "bee", "cat"]
PNG = encode_png(torch.zeros(3, 8, 8, dtype=torch.uint8))
Said = Callable[..., str]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return write_recipe(tmp_path / "mine.yaml", make_source(tmp_path / "source", (8, 8), NAMES), ipc=2)


@pytest.fixture
def says(tmp_path: Path, recipe: Path, capsys: pytest.CaptureFixture[str]) -> Said:
    """The refusal of the small recipe with these overrides; the run directory was not made."""

    def said(*overrides: str) -> str:
        message = refused(capsys, str(recipe), *SMALL, f"run.root={tmp_path}/runs", *overrides)
        assert not (tmp_path / "runs").exists()
        return message

    return said


def table(folder: Path, split: str = "train", **columns: list[object]) -> Path:
    folder.mkdir(exist_ok=True)
    datasets.Dataset.from_dict(columns).to_parquet(folder / f"{split}.parquet")
    return folder


def test_no_image_column(tmp_path: Path, says: Said) -> None:
    folder = table(tmp_path / "texts", size=[1.5, 2.5], label=[0, 1])
    assert (
        f"{folder}, split train: there is no column with images (columns: size (float64), label (int64)). Supported"
        in says(f"source.path={folder}", "source.eval_split=null")
    )


def test_labels_that_cannot_be_classes(tmp_path: Path, says: Said) -> None:
    images = [{"bytes": PNG, "path": None}] * 2
    folder = table(tmp_path / "prices", image=images, price=[1.5, 2.5])
    said = says(f"source.path={folder}", "source.eval_split=null")
    assert "no column with class labels, strings or whole numbers (columns: image (dict), price (float64))" in said
    said = says(f"source.path={folder}", "source.eval_split=null", "source.label_column=price")
    assert "row 0 has the label 1.5, which is not a whole number from 0 on; correct or remove the row" in said


def test_a_class_without_an_image(tmp_path: Path, says: Said) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for split in ("train", "test"):
        write_parquet(folder / f"{split}.parquet", [PNG, PNG], [0, 2], NAMES)
    assert "the training split has no image of: bee; add images or remove these classes" in says(
        f"source.path={folder}"
    )


def test_unreadable_images_are_all_named_by_row(
    tmp_path: Path, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the eval split too before any training; by then the log is open, so the run's directory is there."""
    folder = tmp_path / "data"
    folder.mkdir()
    write_parquet(folder / "train.parquet", [PNG] * 3, [0, 1, 2], NAMES)
    write_parquet(folder / "test.parquet", [PNG, b"broken", b""], [0, 1, 2], NAMES)
    said = refused(capsys, str(recipe), *SMALL, f"run.root={tmp_path}/runs", f"source.path={folder}")
    for row in (1, 2):
        assert f"{folder}, split test: row {row}: Pillow cannot read this image" in said
    left = sorted(file.name for file in (tmp_path / "runs/mine").iterdir())
    assert left == ["cache", "log.txt", "metrics.jsonl", "processes", "recipe.yaml", "units", "versions.json"]
    assert not [file for kind in (".*.tmp", "*.claim", "cache/*") for file in (tmp_path / "runs/mine").rglob(kind)]


def test_class_names_that_differ_between_the_splits(tmp_path: Path, says: Said) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    write_parquet(folder / "train.parquet", [PNG] * 3, [0, 1, 2], NAMES)
    write_parquet(folder / "test.parquet", [PNG] * 3, [0, 1, 2], ["bee", "ant", "cat"])
    said = says(f"source.path={folder}")
    assert "split test has the same class names as split train, but in a different order: class 0 is 'bee', but" in said
    write_parquet(folder / "test.parquet", [PNG] * 3, [0, 1, 1], ["ant", "bee"])
    assert "split test has 2 classes, but split train has 3" in says(f"source.path={folder}")


def test_strings_that_only_the_eval_split_has(tmp_path: Path, says: Said) -> None:
    images = [{"bytes": PNG, "path": None}] * 2
    folder = table(tmp_path / "data", image=images, label=["ant", "bee"])
    table(folder, "test", image=images, label=["ant", "wasp"])
    said = says(f"source.path={folder}", "source.image_column=image")
    assert "split test: row 1 has the label 'wasp', which is not a class (allowed: ant, bee)" in said


@pytest.mark.parametrize(
    ("family", "layers"), [("convnext", "8 ConvNextLayerNorm"), ("vit", "3 LayerNorm"), ("bit", "GroupNorm")]
)
def test_a_teacher_without_batchnorm(tmp_path: Path, says: Said, family: str, layers: str) -> None:
    said = says(f"squeeze.pretrained={save_family(family, tmp_path / family, NAMES)}")
    assert f"squeeze.pretrained={family}: " in said and "has no BatchNorm2d layer" in said and layers in said


def test_a_torchvision_file_with_layer_norms(tmp_path: Path, says: Said) -> None:
    state = random_state([1, 1, 1, 1], 2, classes=3, base=8)
    save_file({n: t for n, t in state.items() if "running" not in n}, tmp_path / "ln.safetensors")
    assert "a ResNet without BatchNorm statistics" in says(f"squeeze.pretrained={tmp_path}/ln.safetensors")


def test_a_teacher_of_another_number_of_classes(tmp_path: Path, says: Said) -> None:
    said = says(f"squeeze.pretrained={save_family('resnet', tmp_path / 'net', ['ant', 'bee'])}")
    assert "squeeze.pretrained=net has 2 classes, but the dataset has 3" in said
    file = tmp_path / "five.safetensors"
    save_file(random_state([1, 1, 1, 1], 2, classes=5, base=8), file)
    said = says(f"squeeze.pretrained={{path: {file}, class_names: [ant, bee]}}")
    assert "it has 5 classes, but squeeze.pretrained.class_names lists 2" in said


def test_an_unknown_architecture_gives_the_nearest(tmp_path: Path, says: Said) -> None:
    folder = save_family("resnet", tmp_path / "net", NAMES)
    settings = json.loads((folder / "config.json").read_text()) | {"model_type": "resnest"}
    (folder / "config.json").write_text(json.dumps(settings))
    said = says(f"squeeze.pretrained={folder}")
    assert "unknown architecture 'resnest'; did you mean resnet" in said
    assert "got 'resnet19'; did you mean resnet18?" in says("squeeze.network.model=resnet19")
    settings["model_type"] = "bert"
    (folder / "config.json").write_text(json.dumps(settings))
    assert "transformers has no image classifier of type bert" in says(f"squeeze.pretrained={folder}")


def test_a_place_without_a_teacher(tmp_path: Path, says: Said) -> None:
    assert "squeeze.pretrained=./nowhere: there is no such folder or file" in says("squeeze.pretrained=./nowhere")
    (tmp_path / "empty").mkdir()
    assert "it has no .safetensors weights" in says(f"squeeze.pretrained={tmp_path}/empty")
    (tmp_path / "net.pth").write_bytes(pickle.dumps(tmp_path))
    assert "because loading them runs code" in says(f"squeeze.pretrained={tmp_path}/net.pth")
    (tmp_path / "net.safetensors").write_bytes(b"nothing of the kind")
    assert "not a safetensors file" in says(f"squeeze.pretrained={tmp_path}/net.safetensors")
    save_file({"blocks.0.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    assert "nor weights with the names that torchvision or timm give" in says(
        f"squeeze.pretrained={tmp_path}/other.safetensors"
    )


def test_not_enough_disk(says: Said) -> None:
    said = says("recover.ipc=100000", "relabel.epochs=100000000")
    assert "not enough disk: the run takes about" in said and "TiB" in said
    assert "lower relabel.epochs, recover.ipc or source.image_size" in said and "soft labels" in said


def test_a_run_directory_that_holds_another_recipe(
    tmp_path: Path, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    squeeze(Run(small_recipe(recipe, tmp_path / "runs")))
    said = refused(capsys, str(recipe), *SMALL, f"run.root={tmp_path}/runs", "recover.lr=0.5", "seed=3")
    assert f"{tmp_path}/runs/mine holds a run of another recipe:" in said
    assert "recover.lr: 0.25 in the run, 0.5 requested" in said and "seed: 0 in the run, 3 requested" in said


def test_every_fault_is_told_at_once(tmp_path: Path, says: Said) -> None:
    label = says(
        f"squeeze.pretrained={save_family('vit', tmp_path / 'vit', ['ant', 'bee'])}",
        "relabel.teacher=./nowhere",
        "source.label_column=species",
        "source.image_column=photo",
    )
    for fault in (
        "source.label_column=species: ",
        "source.image_column=photo: ",
        "ViTForImageClassification has no BatchNorm2d layer",
        "relabel.teacher=./nowhere: there is no such folder",
    ):
        assert fault in label
    names = says(
        f"squeeze.pretrained={save_family('vit', tmp_path / 'vit2', ['ant', 'bee'])}",
        f"relabel.teacher={save_family('convnext', tmp_path / 'next', ['bee', 'ant', 'dog'])}",
    )
    for fault in (
        "squeeze.pretrained=vit2: ViTForImageClassification has no BatchNorm2d layer",
        "squeeze.pretrained=vit2 has 2 classes, but the dataset has 3",
        "relabel.teacher=next has class names that differ from those of the dataset (3 of 3): class 0 is 'bee', but",
    ):
        assert fault in names


def test_splits_of_two_sizes(tmp_path: Path, says: Said) -> None:
    folder = make_source(tmp_path / "data", (8, 8), NAMES)
    (make_source(tmp_path / "larger", (9, 12), NAMES) / "test.parquet").rename(folder / "test.parquet")
    said = says(f"source.path={folder}")
    assert "the training images have 8 x 8 pixels, but the eval images have 12 x 9; set source.image_size" in said


def test_a_broken_teacher_beside_a_good_one_where_no_image_is_opened(tmp_path: Path, says: Said) -> None:
    labeller = save_family("convnext", tmp_path / "next", NAMES)
    overrides = ["source.train_split=null", "source.eval_split=null", f"relabel.teacher={labeller}"]
    assert "squeeze.pretrained=./nowhere: there is no" in says("squeeze.pretrained=./nowhere", *overrides)


def test_null_for_the_training_split_needs_a_pretrained_teacher(says: Said) -> None:
    assert "source.train_split: is null, but squeeze trains a teacher on it" in says("source.train_split=null")


# Folders that would be read as something else than they are


def class_folders(root: Path, *names: str, suffix: str = "png") -> Path:
    for split in ("train", "test"):
        for name in names:
            (root / split / name).mkdir(parents=True)
            for index in range(3):
                (root / split / name / f"{index}.{suffix}").write_bytes(PNG)
    return root


def test_an_empty_class_folder_is_not_lost_in_silence(tmp_path: Path, says: Said) -> None:
    folder = class_folders(tmp_path / "data", "ant", "bee")
    (tmp_path / "cat").mkdir()
    (folder / "train" / "cat").symlink_to(tmp_path / "cat")
    assert "the training split has no image of: cat; add images or remove" in says(f"source.path={folder}")


def test_folders_in_class_folders_are_refused(tmp_path: Path, says: Said) -> None:
    folder = class_folders(tmp_path / "data", "a/x", "a/y", "b/x")
    said = says(f"source.path={folder}")
    assert f"source.path={folder}: train/a holds images in its own folders (x, y), but a class is the folder" in said


def test_leading_zeros_of_labels_are_not_lost(tmp_path: Path, says: Said) -> None:
    for split in ("train", "test"):
        (tmp_path / "data" / split).mkdir(parents=True)
        for index in range(3):
            (tmp_path / "data" / split / f"{index}.png").write_bytes(PNG)
        (tmp_path / "data" / split / "metadata.csv").write_text("file_name,label\n0.png,007\n1.png,010\n2.png,7\n")
    assert "metadata.csv: the label 007 is read as the number 7; use names instead of numbers" in says(
        f"source.path={tmp_path}/data"
    )


def test_other_columns_and_hidden_folders_are_nobodys_business(
    tmp_path: Path, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "data"
    for split in ("train", "test"):
        (folder / split).mkdir(parents=True)
        rows = ["file_name,patient,label"]
        for index in range(4):
            (folder / split / f"{index}.png").write_bytes(PNG)
            rows.append(f"{index}.png,00{index},{index % 2}")
        (folder / split / "metadata.csv").write_text("\n".join(rows))
    (folder / ".venv").mkdir()
    (folder / ".venv/lib").symlink_to(tmp_path)
    overrides = [f"source.path={folder}", "source.label_column=label", "evaluate.seeds=1"]
    condense(Run(small_recipe(recipe, tmp_path / "runs", *overrides)))
    captured = capsys.readouterr()
    assert "note:" not in captured.out + captured.err and "not read: hidden folders: .venv\n" in captured.out


def test_files_that_are_not_read_are_mentioned(
    tmp_path: Path, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = class_folders(tmp_path / "data", "ant", "bee")
    (folder / "train/ant/9.heic").write_bytes(PNG)
    (folder / "train/.hidden").write_bytes(b"")
    (folder / "notes.txt").write_text("mine")
    condense(Run(small_recipe(recipe, tmp_path / "runs", f"source.path={folder}", "evaluate.seeds=1")))
    table = capsys.readouterr().out
    assert "  not read: files of types that cannot be read: train/ant/9.heic\n" in table
    assert "  not read: hidden files: train/.hidden\n" in table and "not images: notes.txt\n" in table
    assert table.index("images per class") < table.index("plan of mine")


def test_an_unreadable_file_is_named(tmp_path: Path, recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = class_folders(tmp_path / "data", "ant", "bee")
    (folder / "train/bee/1.png").write_bytes(b"broken")
    said = refused(capsys, str(recipe), *SMALL, f"run.root={tmp_path}/runs", f"source.path={folder}")
    assert f"({folder}/train/bee/1.png): Pillow cannot read this image (damaged, or of an unknown format" in said


# The run's own place and data


def test_a_file_where_the_run_directory_should_be(
    tmp_path: Path, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs").write_text("a file")
    said = refused(capsys, str(recipe), *SMALL, f"run.root={tmp_path}/runs")
    assert f"run.root: {tmp_path}/runs is a file, so {tmp_path}/runs/mine cannot be created" in said


def test_decoded_images_count_for_the_disk(says: Said) -> None:
    assert re.search("temporarily decoded images and checkpoints [0-9.]+ [GT]iB", says("source.image_size=32767"))


def test_the_training_split_is_not_for_scoring(says: Said) -> None:
    assert "eval_split=train: must differ from train_split" in says("source.eval_split=train")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "train/ant").rename(folder / "train/zebra"), "class 0 is 'bee', but"),
        (lambda folder: (folder / "train/ant/0.png").unlink(), "number of training images of some classes has changed"),
        (lambda folder: (folder / "test/bee/0.png").unlink(), "the eval split has 5 images, but had 6"),
    ],
)
def test_data_that_changed_since_the_run_began(
    tmp_path: Path,
    recipe: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[Path], object],
    message: str,
) -> None:
    folder = class_folders(tmp_path / "data", "ant", "bee")
    overrides = [f"source.path={folder}", f"run.root={tmp_path}/runs"]
    squeeze(Run(small_recipe(recipe, tmp_path / "runs", f"source.path={folder}")))
    if "class 0" in message:
        (folder / "test/ant").rename(folder / "test/zebra")
    change(folder)
    said = refused(capsys, str(recipe), *SMALL, *overrides)
    assert "the data changed since" in said and message in said


@pytest.mark.parametrize("train_split", ["train", "null"])
def test_names_are_compared_where_no_image_is_needed(
    good: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], train_split: str
) -> None:
    """A training split that the recipe names is not read, but its class names are looked at."""
    net = rewritten(good[1], tmp_path / "net", ["fly", "ant", "bee"], (2, 0, 1))
    overrides = [f"squeeze.pretrained={net}", "source.eval_split=null", f"source.train_split={train_split}"]
    line = [str(good[0]), *SMALL, f"run.root={tmp_path}/runs", *overrides]
    if train_split == "null":
        cli(condense, line)
        return
    assert "class names that differ from those of the dataset" in refused(capsys, *line)


# A teacher whose classes are others, or the same in another order


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A recipe, and a teacher that recognizes its three classes."""
    folder = tmp_path_factory.mktemp("good")
    file = write_recipe(folder / "mine.yaml", make_source(folder / "source", (8, 8), NAMES), ipc=2)
    run = Run(small_recipe(file, folder / "runs", "squeeze.epochs=30", "squeeze.network.width=0.3"))
    squeeze(run)
    return file, run.path("teacher")


def rewritten(source: Path, folder: Path, names: list[str], order: tuple[int, ...]) -> Path:
    """A copy of a teacher with other class names, its output i being the old output order[i]."""
    shutil.copytree(source, folder)
    settings = json.loads((folder / "config.json").read_text())
    settings["id2label"] = {str(index): name for index, name in enumerate(names)}
    settings["label2id"] = {name: index for index, name in enumerate(names)}
    (folder / "config.json").write_text(json.dumps(settings))
    tensors = load_file(folder / "model.safetensors")
    for part in ("classifier.weight", "classifier.bias"):
        tensors[part] = tensors[part][list(order)].contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


LABELS = ["LABEL_0", "LABEL_1", "LABEL_2"]


@pytest.mark.parametrize(
    ("names", "order", "messages"),
    [
        (
            ["fly", "bee", "cat"],
            (0, 1, 2),
            ["class names that differ from those of the dataset (1 of 3)", "class 0 is 'fly', but 'ant' in"],
        ),
        (
            LABELS,
            (1, 2, 0),
            ["the teacher recognizes ", "of 36 eval images", "should reach at least 46.7%", "in another order"],
        ),
    ],
    ids=["foreign, named", "permuted, nameless"],
)
def test_a_teacher_of_other_classes_is_caught_before_recover(
    good: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    names: list[str],
    order: tuple[int, ...],
    messages: list[str],
) -> None:
    net = rewritten(good[1], tmp_path / "net", names, order)
    said = refused(capsys, str(good[0]), *SMALL, f"run.root={tmp_path}/runs", f"squeeze.pretrained={net}")
    assert all(message in said for message in messages), said
    assert not (tmp_path / "runs").exists()


def test_a_foreign_teacher_without_names_is_caught_by_its_answers(
    good: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file(random_state([1, 1, 1, 1], 2, classes=3, base=8), tmp_path / "foreign.safetensors")
    overrides = [f"run.root={tmp_path}/runs", f"squeeze.pretrained={tmp_path}/foreign.safetensors"]
    said = refused(capsys, str(good[0]), *SMALL, *overrides, "source.image_size=32")
    assert "foreign.safetensors: the teacher recognizes " in said and "probably trained on other classes" in said
    unopened = ["source.eval_split=null", "source.train_split=null"]
    said = refused(capsys, str(good[0]), *SMALL, *overrides, *unopened)
    assert "no opened split names them; set squeeze.pretrained.class_names, or source.eval_split" in said
    overrides[1] = f"relabel.teacher={tmp_path}/foreign.safetensors"
    said = refused(capsys, str(good[0]), *SMALL, *overrides, "source.image_size=32", "source.eval_split=null")
    assert "there is no eval split to score the teacher on; set source.eval_split" in said


@pytest.mark.parametrize(
    ("names", "order", "trust"),
    [(NAMES, (0, 1, 2), "false"), (LABELS, (0, 1, 2), "false"), (["x", "y", "z"], (0, 1, 2), "true")],
    ids=["named", "nameless", "trusted"],
)
def test_a_teacher_that_fits_is_adopted(
    good: tuple[Path, Path], tmp_path: Path, names: list[str], order: tuple[int, ...], trust: str
) -> None:
    net = rewritten(good[1], tmp_path / "net", names, order)
    overrides = [f"squeeze.pretrained={net}", f"squeeze.trust_class_order={trust}", "evaluate.seeds=1"]
    run = Run(small_recipe(good[0], tmp_path / "runs", *overrides))
    condense(run)
    assert json.loads(run.path("teacher_repo/config.json").read_text())["id2label"] == {
        str(index): name for index, name in enumerate(NAMES)
    }


@pytest.mark.parametrize("names", [["cat", "ant", "bee"], ["CAT", "Ant, emmet", "bee "]], ids=["equal", "similar"])
def test_a_teacher_with_the_classes_in_another_order_is_permuted_exactly(
    good: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], names: list[str]
) -> None:
    """The permuted head of a permuted copy is that of the original."""
    net = rewritten(good[1], tmp_path / "net", names, (2, 0, 1))
    overrides = [f"squeeze.pretrained={net}", "evaluate.seeds=1", f"run.root={tmp_path}/runs"]
    capsys.readouterr()
    cli(condense, [str(good[0]), *SMALL, *overrides])
    run = tmp_path / "runs" / load_recipe(good[0]).name
    assert "its last layer was permuted to the dataset's order (3 of 3 classes moved)" in (run / "log.txt").read_text()
    expected, actual = (load_file(folder / "model.safetensors") for folder in (good[1], run / "teacher"))
    assert expected.keys() == actual.keys() and all(torch.equal(expected[name], actual[name]) for name in expected)
    assert json.loads((run / "teacher" / "config.json").read_text())["id2label"] == dict(zip("012", NAMES, strict=True))
    assert verify_dataset(run / "dataset").passed


# The Hub, as a stranger without a token meets it


@pytest.mark.long
def test_gated_and_private_repositories_say_how_to_get_access(tmp_path: Path, recipe: Path, hub: Hub) -> None:
    hub.put_file("datasets", "org/closed", "train.parquet", b"rows", gated=True)
    hub.put_file("models", "org/net", "config.json", b"{}", gated=True)
    hub.put_file("models", "org/secret", "config.json", b"{}", private=True)
    command = ["-m", "srel_hub.condense", str(recipe), f"run.root={tmp_path}/runs"]
    overrides = ["source.path=org/closed", "squeeze.pretrained=org/net", "relabel.teacher=org/secret"]
    done = as_user(tmp_path / "home", None, *command, *overrides, cwd=tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert (
        "source.path=org/closed: this dataset is gated on the Hub; request access on the dataset's page, then"
        in done.stderr
    )
    assert (
        "squeeze.pretrained=org/net: this model is gated on the Hub; request access on the model's page, then"
        in done.stderr
    )
    assert (
        "relabel.teacher=org/secret: this is not a local folder or file, and not a model on the Hub that you can access"
        in done.stderr
    )
    assert done.stderr.count("log in with `hf auth login` or set HF_TOKEN") == 3
    assert not (tmp_path / "runs").exists()
