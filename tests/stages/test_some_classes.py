"""A run on some classes of a dataset, with a teacher of all classes, from recover to verify and load_condensed."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import SMALL, make_source, refused
from local_hub.client import Hub
from transformers import AutoModelForImageClassification

from srel_hub import load_condensed, verify_dataset
from srel_hub.condense import condense
from srel_hub.config import Recover, load_recipe
from srel_hub.core.augment import normalize
from srel_hub.core.crop_transform import still
from srel_hub.labels.read_manifest import read_manifest
from srel_hub.publish import publish
from srel_hub.runs.run import Run
from srel_hub.squeeze import squeeze
from srel_hub.stages.preflight.prepare import prepare
from srel_hub.stages.recover.objective import Objective
from srel_hub.stages.recover.patches import score
from srel_hub.storage.condensed_table import encode_png, read_parquet, write_parquet
from srel_hub.storage.files import read_json
from srel_hub.teachers.class_subset import class_columns, complete, with_columns
from srel_hub.teachers.classifier import load, save


NAMES = ["red", "green", "blue", "gray", "pink"]
KEPT = ["pink", "green", "gray"]  # in another order than the dataset's
COLUMNS = (1, 3, 4)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A dataset of five classes without an eval split, and a run with a teacher that knows them."""
    folder = tmp_path_factory.mktemp("wide")
    source = make_source(folder / "source", (8, 8), NAMES, per_class=15)
    (source / "test.parquet").unlink()
    recipe = folder / "wide.yaml"
    recipe.write_text(f"source: {{path: '{source}', license: mit, eval_fraction: 0.2}}\nrecover: {{ipc: 2}}\n")
    overrides = ["squeeze.network.width=0.3", "squeeze.epochs=20", f"run.root={folder}/runs"]
    run = Run(load_recipe(recipe, [*SMALL, *overrides]))
    squeeze(run)
    return recipe, run.path("teacher")


def failures(dataset: Path) -> dict[str, str]:
    """The messages of the failed checks, by the name of the check."""
    return {check.name: check.message for check in verify_dataset(dataset).failures}


def recipe_of(wide: tuple[Path, Path], root: Path, *overrides: str) -> list[str]:
    recipe, teacher = wide
    chosen = ["name=some", f"source.classes=[{', '.join(KEPT)}]", f"squeeze.pretrained={teacher}"]
    cheap = ["recover.iterations=60", "relabel.epochs=2", f"run.root={root}"]
    return [str(recipe), *SMALL, *chosen, *cheap, *overrides]


@pytest.fixture(scope="module")
def some(wide: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Run:
    file, *overrides = recipe_of(
        wide, tmp_path_factory.mktemp("some"), "recover.patches={}", "recover.statistics=class"
    )
    run = Run(load_recipe(file, overrides))
    condense(run)
    return run


def test_labels_are_the_complete_teachers_logits_of_these_classes(some: Run) -> None:
    condensed = load_condensed(some.path("dataset"))
    assert condensed.manifest.num_classes == 3 and condensed.manifest.class_names == ("green", "gray", "pink")
    facts = condensed.manifest.teacher
    assert (facts.num_classes, facts.columns) == (5, COLUMNS) and condensed.manifest.version == 1
    published = AutoModelForImageClassification.from_pretrained(some.path("teacher_repo")).eval()
    assert list(published.config.id2label.values()) == NAMES
    for epoch in condensed:
        pixel_values, logits = epoch.batch(torch.arange(6))
        assert logits.shape == (6, 3)
        with torch.no_grad():
            everything = published(pixel_values).logits
            torch.testing.assert_close(everything[:, published.config.class_columns], logits, rtol=1e-2, atol=1e-2)
            torch.testing.assert_close(condensed.teacher()(pixel_values).logits, everything[:, COLUMNS])
    student = AutoModelForImageClassification.from_config(condensed.teacher().config)
    assert student(pixel_values).logits.shape == (6, 3), "as the card's training loop makes it"


def test_the_cards_state_both_numbers_and_how_the_eval_images_were_chosen(some: Run) -> None:
    dataset, teacher = (some.path(name, "README.md").read_text() for name in ("dataset", "teacher_repo"))
    assert "It distinguishes 5 classes, of which this dataset has 3." in dataset
    assert "The teacher has 5 classes. The soft labels are its logits of this dataset's 3 classes only" in dataset
    assert "in the order of the labels: 1, 3, 4." in dataset
    assert "It distinguishes 5 classes" in teacher and "logits[:, model.config.class_columns]" in teacher
    assert "20 % of the training images of each class were set aside" in dataset
    assert "9 images, which left 36 for training" in dataset
    made = read_json(some.path("teacher", "metrics.json"))["made_eval"]
    assert (made["fraction"], made["seed"], made["train_images"], made["eval_images"]) == (0.2, 0, 36, 9)
    source = load_recipe(some.path("dataset", "recipe.yaml")).source
    assert (source.eval_fraction, source.classes) == (0.2, tuple(KEPT))


def test_everything_that_uses_labels_agrees(some: Run) -> None:
    verification = verify_dataset(some.path("dataset"))
    assert verification.passed, verification
    assert "3 of its 5 classes" in str(verification)
    summary = read_json(some.path("evaluate", "summary.json"))
    assert {row["row"] for row in summary["students"][0]["rows"]} == {"condensed", "random-real", "random-real-hard"}
    condensed = load_condensed(some.path("dataset"))
    predicted = condensed.teacher()(normalize(condensed.pixels, condensed.classifier.table(CPU))).logits.argmax(1)
    right = float((predicted == condensed.labels).float().mean())
    assert right == pytest.approx(condensed.manifest.teacher.accuracy) and right > 0.9, "images have their own class"


def test_labels_computed_during_training_have_these_classes_too(some: Run, tmp_path: Path) -> None:
    own = load_condensed(some.path("dataset"))
    manifest = replace(own.manifest, epochs=0, encoding="none", files=(), kl_error=None)
    own.manifest = manifest
    pixel_values, logits = own[0].batch(torch.arange(4))
    torch.testing.assert_close(own.teacher()(pixel_values).logits, logits)


def test_another_selection_in_the_manifest_is_found(some: Run, tmp_path: Path) -> None:
    teacher = read_json(some.path("dataset", "soft_labels", "manifest.json"))["teacher"]
    file = some.path("dataset", "soft_labels", "manifest.json")
    before = file.read_text()
    try:
        file.write_text(json.dumps(json.loads(before) | {"teacher": teacher | {"columns": [0, 3, 4]}}))
        assert "selects other classes" in failures(some.path("dataset"))["teacher"]
        for columns in ([1, 3], [1, 1, 4], [1, 3, 5], None):
            file.write_text(json.dumps(json.loads(before) | {"teacher": teacher | {"columns": columns}}))
            assert "teacher" in failures(some.path("dataset"))["manifest"]
    finally:
        file.write_text(before)


def test_a_manifest_without_a_selection_has_no_field_for_it(finished: Path) -> None:
    manifest = json.loads((finished / "dataset/soft_labels/manifest.json").read_text())
    assert set(manifest["teacher"]) == {"repo_id", "tag", "sha256", "accuracy"}
    assert "class_columns" not in (finished / "teacher/config.json").read_text()
    assert read_manifest(finished / "dataset/soft_labels/manifest.json").teacher.columns is None


def test_recover_uses_all_classes_with_their_own_indices(wide: tuple[Path, Path]) -> None:
    whole = load(wide[1], CPU)
    part = with_columns(whole, COLUMNS)
    x = torch.randn(1, 3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    spec, moves = Recover(ipc=1), still((8, 8), 1, CPU)
    terms = []
    for classifier, labels in ((whole, torch.tensor(COLUMNS)), (part, torch.arange(3))):
        with Objective([classifier], spec) as objective:
            loss, parts = objective(x, labels, moves, 0)
            terms.append((loss, parts["cross_entropy"], parts["bn"]))
    for expected, own in zip(*terms, strict=True):
        assert torch.equal(expected, own)
    pixels = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    boxes = torch.tensor([[0, 0, 8, 8]]).repeat(4, 1)
    rows = torch.arange(4)
    assert torch.equal(score(whole, pixels, rows, boxes, COLUMNS[2]), score(part, pixels, rows, boxes, 2))


def test_a_selection_is_saved_and_loaded_and_another_one_replaces_it(wide: tuple[Path, Path], tmp_path: Path) -> None:
    whole = load(wide[1], CPU)
    save(with_columns(whole, COLUMNS), tmp_path / "part")
    part = load(tmp_path / "part", CPU)
    assert part.class_names == ("green", "gray", "pink") and complete(part).class_names == tuple(NAMES)
    save(complete(part), tmp_path / "whole")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (wide[1] / name).read_bytes(), name


def test_a_run_on_a_teacher_of_another_selection(some: Run, wide: tuple[Path, Path], tmp_path: Path) -> None:
    """The teacher of a run is the complete network, so it can be adopted again for other classes."""
    file, *overrides = recipe_of(
        wide, tmp_path, f"squeeze.pretrained={some.path('teacher')}", "source.classes=[red, blue]"
    )
    run = Run(load_recipe(file, overrides))
    squeeze(run)
    assert read_json(run.path("teacher", "config.json"))["class_columns"] == [0, 2]
    assert load(run.path("teacher"), CPU).class_names == ("red", "blue")


def test_a_dataset_that_has_only_these_classes_finds_them_by_name(wide: tuple[Path, Path], tmp_path: Path) -> None:
    folder = tmp_path / "pair"
    folder.mkdir()
    rows = [row for row in read_parquet(Path(wide[0]).parent / "source" / "train.parquet") if row[1] in (2, 0)]
    write_parquet(
        folder / "train.parquet", [png for png, _ in rows], [int(label == 0) for _, label in rows], ["blue", "red"]
    )
    file, *overrides = recipe_of(wide, tmp_path, f"source.path={folder}", "source.classes=[red, blue]")
    run = Run(load_recipe(file, overrides))
    squeeze(run)
    assert read_json(run.path("teacher", "config.json"))["class_columns"] == [2, 0]
    assert read_json(run.path("teacher", "metrics.json"))["top1"] > 0.5, "each class has its own logit"


def test_without_any_split_the_classes_are_the_teachers(wide: tuple[Path, Path], tmp_path: Path) -> None:
    unopened = [
        "source.train_split=null",
        "source.eval_split=null",
        "source.eval_fraction=null",
        "source.path=no/where",
    ]
    run = Run(load_recipe(recipe_of(wide, tmp_path)[0], [*recipe_of(wide, tmp_path, *unopened)[1:]]))
    squeeze(run)
    assert read_json(run.path("teacher", "config.json"))["class_columns"] == list(COLUMNS)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["source.classes=[pink, grey]"],
            "source.classes: the dataset has 5 classes; 'grey' is none of them (did you mean ",
        ),
        (["source.classes=null", "source.path={four}"], "the dataset has 4"),
        (
            ["source.classes=[red, yellow]", "source.path={four}"],
            "'yellow' is none of them ('red', 'green', 'blue', ...)",
        ),
    ],
)
def test_classes_that_the_teacher_or_the_dataset_does_not_have(
    wide: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], overrides: list[str], message: str
) -> None:
    four = tmp_path / "four"
    four.mkdir()
    names = ["red", "green", "blue", "yellow"]
    pixels = torch.randint(0, 256, (8, 3, 8, 8), dtype=torch.uint8)
    write_parquet(four / "train.parquet", [encode_png(x) for x in pixels], [0, 1, 2, 3] * 2, names)
    said = refused(capsys, *recipe_of(wide, tmp_path, *(text.format(four=four) for text in overrides)))
    assert message in said, said


@pytest.mark.parametrize(
    ("name", "classes"),
    [("imagenette_ipc10", [0, 217, 482, 491, 497, 566, 569, 571, 574, 701]), ("imagewoof_ipc1", [155, 159, 162])],
)
def test_imagenette_and_imagewoof_are_classes_of_imagenet(
    stand_in: list[str], tmp_path: Path, name: str, classes: list[int]
) -> None:
    teacher = next(text for text in stand_in if text.startswith("squeeze.pretrained.path="))
    recipe = load_recipe(name, [teacher, "source.image_size=32", f"run.root={tmp_path}"])
    inputs = prepare(Run(recipe), writes=False)
    columns = class_columns(inputs.adopted["teacher"].classifier)
    assert columns is not None and len(columns) == 10 and list(columns)[: len(classes)] == classes
    assert recipe.source.classes is not None and set(inputs.class_names) == set(recipe.source.classes)


def test_squeeze_trains_on_these_classes_alone(wide: tuple[Path, Path], tmp_path: Path) -> None:
    run = Run(load_recipe(recipe_of(wide, tmp_path)[0], recipe_of(wide, tmp_path, "squeeze.pretrained=null")[1:]))
    squeeze(run)
    config, metrics = (read_json(run.path("teacher", name)) for name in ("config.json", "metrics.json"))
    assert list(config["id2label"].values()) == ["green", "gray", "pink"] and "class_columns" not in config
    assert metrics["class_images"] == [12, 12, 12] and metrics["eval_images"] == 9


@pytest.mark.long
def test_what_is_published_is_the_complete_teacher(
    some: Run, hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_alice")
    run = shutil.copytree(some.folder, tmp_path / some.folder.name)
    publish(Run(load_recipe(run, [f"run.root={tmp_path}", "publish.repo_id=alice/some"])))  # compares the logits
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    assert load_condensed("alice/some").teacher().config.num_labels == 3
    assert verify_dataset("alice/some").passed
