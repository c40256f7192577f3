"""Given images instead of recovered ones: stored with unchanged pixels, labeled, and never called recovered."""

import shutil
from pathlib import Path

import pytest
import torch
from conftest import SMALL, make_source, refused
from datasets import load_dataset
from PIL import Image

from srel_hub import load_condensed, verify_dataset
from srel_hub.commands.program import main
from srel_hub.condense import condense
from srel_hub.config import load_recipe
from srel_hub.errors import UserError
from srel_hub.recover import recover
from srel_hub.runs.run import Run
from srel_hub.squeeze import squeeze
from srel_hub.stages.preflight.prepare import prepare
from srel_hub.storage.condensed_table import decode_image, encode_png, read_labels, read_rows, write_parquet
from srel_hub.storage.files import read_json
from srel_hub.studies.plan.run_plan import plan_recipe


NAMES = ["red", "green", "blue"]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four images of each class, class by class and in another order than the dataset's, as PNG files."""
    folder = tmp_path_factory.mktemp("theirs") / "coreset"
    make_source(folder.parent / "real", (8, 8), NAMES)
    rows = load_dataset("parquet", data_files=str(folder.parent / "real" / "train.parquet"), split="train")
    for name in NAMES:
        (folder / name).mkdir(parents=True)
    for index in range(12):
        rows[index]["image"].save(folder / NAMES[rows[index]["label"]] / f"{index}.png")
    return folder


def arguments(finished: Path, theirs: Path, root: Path, *overrides: str) -> list[str]:
    file = root / "given.yaml"
    file.write_text(
        f"source: {{path: '{theirs.parent / 'real'}', license: mit, title: Colors}}\nrecover: {{images: '{theirs}'}}\n"
    )
    return [str(file), *SMALL, f"squeeze.pretrained={finished / 'teacher'}", f"run.root={root}/runs", *overrides]


def run_of(*words: str) -> Run:
    return Run(load_recipe(words[0], words[1:]))


@pytest.fixture(scope="module")
def labeled(finished: Path, theirs: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    images = f"recover.images={{path: '{theirs}', license: cc0-1.0, title: A coreset, citation: '@misc{{coreset}}'}}"
    run = run_of(*arguments(finished, theirs, tmp_path_factory.mktemp("labeled"), images))
    condense(run)
    return run


def test_pixels_are_unchanged_and_sorted_by_the_datasets_classes(labeled: Run, theirs: Path) -> None:
    condensed = load_condensed(labeled.path("dataset"))
    assert condensed.labels.tolist() == [0, 1, 2] * 4 and condensed.manifest.class_names == tuple(NAMES)
    assert load_recipe(labeled.folder).recover.ipc == 4, "read from the images"
    for label, name in enumerate(NAMES):
        stored = {image.numpy().tobytes() for image in condensed.pixels[condensed.labels == label]}
        files = [torch.tensor(Image.open(file).get_flattened_data()) for file in (theirs / name).iterdir()]
        assert stored == {
            pixels.to(torch.uint8).view(8, 8, 3).permute(2, 0, 1).contiguous().numpy().tobytes() for pixels in files
        }
    assert verify_dataset(labeled.path("dataset")).passed
    assert read_json(labeled.path("evaluate", "summary.json"))["students"][0]["rows"][0]["train_images"] == 12


def test_the_cards_say_that_the_images_were_given(labeled: Run) -> None:
    dataset, teacher = (labeled.path(name, "README.md").read_text() for name in ("dataset", "teacher_repo"))
    assert "\n# A coreset, 4 images per class with soft labels\n" in dataset
    assert (
        "**The images were given**" in dataset
        and "| recover | none: the images of `coreset` were given | 0 |" in dataset
    )
    assert "license: cc0-1.0" in dataset.split("---")[1]
    assert "License of the images: `cc0-1.0`." in dataset and "@misc{coreset}" in dataset
    assert "These images were given, those of `coreset`, and not recovered" in teacher
    for card in (dataset, teacher):
        assert not any(
            word in card for word in ("recovered from it", "pixels of the images were optimized", "synthetic")
        )
        assert str(labeled.folder.parent) not in card
    assert "given images, soft labels" in dataset and "condensed images" not in dataset.split("---")[2]


def test_status_plan_and_report_know_them(
    labeled: Run, finished: Path, theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", str(labeled.folder)]) == 0
    assert "recover             1 of 1  100.0%" in capsys.readouterr().out
    words = arguments(finished, theirs, tmp_path)
    plan = plan_recipe(load_recipe(words[0], words[1:]), tflops=1.0)
    assert plan.images == 12 and plan.stages[1].flops == 0 and plan.shards == 1
    assert not (tmp_path / "runs").exists()
    assert main(["report", str(labeled.folder)]) == 0
    page = next(labeled.folder.glob("*.html")).read_text()
    assert "They were given, from coreset" in page and "pixels were optimized" not in page


def test_a_finished_run_is_not_done_again(labeled: Run, capsys: pytest.CaptureFixture[str]) -> None:
    again = Run(load_recipe(labeled.folder, [f"run.root={labeled.folder.parent}"]))
    condense(again)
    assert "is complete: nothing to do" in capsys.readouterr().err


def test_neither_split_is_opened_with_a_pretrained_teacher(finished: Path, theirs: Path, tmp_path: Path) -> None:
    closed = ["source.path=no/where", "source.train_split=null", "source.eval_split=null", "recover.patches={}"]
    run = run_of(*arguments(finished, theirs, tmp_path, *closed))
    squeeze(run)
    assert len(read_labels(recover(run))) == 12


def test_a_condensed_dataset_can_be_labeled_again(finished: Path, theirs: Path, tmp_path: Path) -> None:
    closed = ["source.path=no/where", "source.train_split=null", "source.eval_split=null", "recover.ipc=3"]
    run = run_of(*arguments(finished, theirs, tmp_path, *closed, f"recover.images={finished / 'dataset'}"))
    squeeze(run)
    assert list(read_rows(recover(run))) == list(read_rows(finished / "images"))


def test_a_teacher_without_batchnorm_may_label_them(finished: Path, theirs: Path, tmp_path: Path) -> None:
    trained = ["squeeze.pretrained=null", "squeeze.network={model: deit_tiny, width: 0.05}"]
    inputs = prepare(run_of(*arguments(finished, theirs, tmp_path, *trained)), writes=False)
    assert inputs.given is not None and inputs.given.ipc == 4


def numbered(folder: Path, order: list[int]) -> Path:
    """The first two training images of each class, with plain numbers instead of class names."""
    rows = load_dataset("parquet", data_files=str(folder / "real" / "train.parquet"), split="train")
    target = folder / f"numbered-{order[0]}"
    if not target.exists():
        table = [(rows[index]["image"], order[rows[index]["label"]]) for index in range(6)]
        for image, label in table:
            place = target / "train"
            place.mkdir(parents=True, exist_ok=True)
            image.save(place / f"{len(list(place.iterdir()))}-{label}.png")
        lines = ["file_name,label", *(f"{file.name},{file.stem[-1]}" for file in sorted((target / "train").iterdir()))]
        (target / "train" / "metadata.csv").write_text("\n".join(lines))
    return target


def test_numbers_must_be_in_the_datasets_order(
    finished: Path, theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    right, wrong = numbered(theirs.parent, [0, 1, 2]), numbered(theirs.parent, [2, 0, 1])
    run = run_of(*arguments(finished, theirs, tmp_path, f"recover.images={right}", "name=right"))
    squeeze(run)
    assert len(list(recover(run).iterdir())) == 1
    words = arguments(finished, theirs, tmp_path, f"recover.images={wrong}", "name=wrong")
    assert "the teacher recognizes 0.0% of 6 images" in refused(capsys, *words)


@pytest.mark.parametrize(
    ("change", "overrides", "message"),
    [
        ("", ["recover.ipc=3"], "recover.ipc=3: recover.images={folder} has 4 images per class; remove recover.ipc"),
        (
            "",
            ["squeeze.pretrained=null", "source.image_size=16"],
            "the images have 8 x 8 pixels, but the dataset has 16 x 16. Given images are never",
        ),
        ("fewer", [], "every class must have the same number of images, but 'green' has 3 and 'red' has 4"),
        ("other", [], "recover.images={folder}: the dataset has no class 'violet'"),
        ("missing", [], "recover.images={folder}: this set of images has 2 classes; 'green' is none of them"),
        ("sizes", [], "has 9 x 9 pixels, but the first image has 8 x 8"),
        ("broken", [], "Pillow cannot read this image"),
        ("", ["recover.images=./nowhere"], "recover.images.path=./nowhere: there is no such folder"),
        ("", ["recover.images.split=validation"], "recover.images.split=validation: "),
        ("", ["recover.teachers=[org/net]"], "images: no image is recovered, so further classifiers to match cannot"),
        ("", ["publish.repo_id=me/them", "publish.private=false"], "recover.images.license: is unknown"),
    ],
)
def test_images_that_are_refused_before_any_stage(
    finished: Path,
    theirs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: str,
    overrides: list[str],
    message: str,
) -> None:
    folder = shutil.copytree(theirs, tmp_path / "coreset")
    green = sorted((folder / "green").iterdir())
    if change == "fewer":
        green[0].unlink()
    if change == "other":
        shutil.copytree(folder / "green", folder / "violet")
    if change == "missing":
        shutil.rmtree(folder / "green")
    if change == "sizes":
        Image.new("RGB", (9, 9)).save(green[0])
    if change == "broken":
        green[0].write_bytes(b"no image")
    overrides = [
        text.replace("recover.images.split=validation", f"recover.images={{path: '{folder}', split: validation}}")
        for text in overrides
    ]
    said = refused(capsys, *arguments(finished, folder_with_real(folder, theirs), tmp_path, *overrides))
    assert message.format(folder=folder) in said, said
    assert not (tmp_path / "runs").exists()


def folder_with_real(folder: Path, theirs: Path) -> Path:
    """Link the real images beside a copy of the given ones."""
    (folder.parent / "real").symlink_to(theirs.parent / "real")
    return folder


def test_ipc_is_required_without_images() -> None:
    with pytest.raises(UserError, match="recover.ipc: is required"):
        load_recipe("quickstart", ["recover.ipc=0"])


def test_large_sets_are_stored_in_several_parts(
    finished: Path, theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("srel_hub.stages.recover.units.GIVEN_BYTES", 3 * 8 * 8 * 3)
    folder = tmp_path / "rows"
    folder.mkdir()
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (9, 3, 8, 8), generator=draw, dtype=torch.uint8)
    labels = [2, 2, 2, 0, 1, 0, 1, 0, 1]
    write_parquet(folder / "train.parquet", [encode_png(x) for x in pixels], labels, NAMES)
    run = run_of(*arguments(finished, theirs, tmp_path, f"recover.images={folder}", "source.eval_split=null"))
    squeeze(run)
    assert len(list(recover(run).iterdir())) == 3
    stored = torch.stack([decode_image(png) for png, _ in read_rows(run.path("images"))])
    assert torch.equal(stored, pixels[[3, 4, 0, 5, 6, 1, 7, 8, 2]])
