"""Pictures show what the run has, fit a card, and are the same files whenever they are drawn."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import make_source, small_recipe, write_recipe
from PIL import Image

from srel_hub.condense import condense
from srel_hub.config import Patches, Recipe
from srel_hub.core.augment import normalize
from srel_hub.reports import run_pictures as pictures
from srel_hub.reports.plot_style import MOST_BYTES
from srel_hub.reports.plots import CAPTIONS
from srel_hub.runs.run import Run
from srel_hub.stages.recover.trace import FRAMES, frame_iterations, read_history
from srel_hub.storage.condensed_table import class_grid, encode_png, read_rows
from srel_hub.storage.condensed_table import decode_image as decoded
from srel_hub.storage.files import read_json
from srel_hub.teachers import classifier as teacher


@pytest.fixture(scope="module")
def pictured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Path]:
    """Return a run of four classes with all its pictures."""
    folder = tmp_path_factory.mktemp("pictured")
    names = ["red", "green", "blue, a color whose name goes on", "<b>&|"]
    file = write_recipe(folder / "colors.yaml", make_source(folder / "source", (10, 13), names))
    recipe = small_recipe(file, folder / "runs", "pictures=true", "recover.iterations=40")
    run = Run(recipe)
    condense(run)
    return recipe, run.folder


def copy_of(pictured: tuple[Recipe, Path], place: Path, *without: str) -> tuple[Recipe, Path]:
    recipe, folder = pictured
    kept = shutil.ignore_patterns("dataset", "teacher_repo", "pictures", "assemble", *without)
    shutil.copytree(folder, place / folder.name, ignore=kept)
    return replace(recipe, run=replace(recipe.run, root=str(place))), place / folder.name


def test_every_picture_is_on_the_card_and_small(pictured: tuple[Recipe, Path]) -> None:
    dataset = pictured[1] / "dataset"
    card = (dataset / "README.md").read_text()
    for name, caption in CAPTIONS.items():
        assert (dataset / "assets" / name).stat().st_size <= MOST_BYTES
        assert f"![{caption.alt}](assets/{name})" in card and caption.reading in card
        with Image.open(dataset / "assets" / name) as image:
            assert min(image.size) >= 40, name
    names = {file.name for file in (dataset / "assets").iterdir()}
    assert names == {*CAPTIONS, "grid.png"}
    listed = {other["name"] for other in read_json(dataset / "soft_labels" / "manifest.json")["others"]}
    assert {f"assets/{name}" for name in names} <= listed


@pytest.mark.long
def test_drawn_again_they_are_the_same_bytes(pictured: tuple[Recipe, Path], tmp_path: Path) -> None:
    recipe, folder = copy_of(pictured, tmp_path)
    assert pictures.draw(Run(recipe)) == folder / "pictures"
    for file in (pictured[1] / "pictures").iterdir():
        assert (folder / "pictures" / file.name).read_bytes() == file.read_bytes(), file.name


def test_real_images_are_shown_only_if_the_license_allows_it(pictured: tuple[Recipe, Path], tmp_path: Path) -> None:
    recipe, folder = copy_of(pictured, tmp_path)
    pictures.draw(Run(replace(recipe, source=replace(recipe.source, license="other"))))
    assert {file.name for file in (folder / "pictures").iterdir()} == {*CAPTIONS} - {"real.png"}


@pytest.mark.parametrize("license", [pytest.param("mit", marks=pytest.mark.long), "other"])
def test_the_real_patches_are_shown_only_if_the_license_allows_it(
    pictured: tuple[Recipe, Path], tmp_path: Path, license: str
) -> None:
    recipe, folder = pictured
    recipe = replace(recipe, run=replace(recipe.run, root=str(tmp_path)))
    spec = replace(recipe.recover, patches=Patches(), iterations=3)
    changed = replace(recipe, recover=spec, source=replace(recipe.source, license=license))
    condense(Run(changed))
    way = read_history(tmp_path / folder.name / "history")
    with Image.open(tmp_path / folder.name / "pictures" / "recovery.gif") as animation:
        assert way is not None and animation.n_frames == len(way.frames) - (license == "other")  # type: ignore[attr-defined]


def test_the_history_begins_with_noise_and_ends_with_the_stored_images(pictured: tuple[Recipe, Path]) -> None:
    recipe, folder = pictured
    way = read_history(folder / "history")
    assert way is not None
    stored = [decoded(png) for png, _ in read_rows(folder / "images")][:4]
    assert list(way.frames) == frame_iterations(recipe.recover.iterations)
    assert torch.equal(way.frames[recipe.recover.iterations], torch.stack(stored))
    assert way.frames[0].float().std() > way.frames[recipe.recover.iterations].float().std() / 10
    assert way.iterations[0] == 1 and way.iterations[-1] == recipe.recover.iterations
    assert way.terms["bn"].shape == (1, len(way.iterations)) and bool((way.terms["bn"] > 0).all())
    assert way.terms["cross_entropy"][0, -1] < way.terms["cross_entropy"][0, 0]


@pytest.mark.parametrize("iterations", [1, 2, 15, 500, 4000, 100_000])
def test_moments_begin_at_0_and_end_at_the_last_iteration(iterations: int) -> None:
    moments = frame_iterations(iterations)
    assert moments[0] == 0 and moments[-1] == iterations and len(moments) <= FRAMES + 1
    gaps = [later - earlier for earlier, later in zip(moments, moments[1:], strict=False)]
    assert all(gap > 0 for gap in gaps) and gaps[-1] == max(gaps)


@pytest.mark.long
def test_a_run_without_history_has_the_other_pictures(pictured: tuple[Recipe, Path], tmp_path: Path) -> None:
    recipe, folder = copy_of(pictured, tmp_path, "history")
    for mark in (folder / "units" / "recover").iterdir():  # as version 0.7 wrote it
        stamps = {name: stamp for name, stamp in read_json(mark).items() if name.startswith("images/")}
        mark.write_text(json.dumps(stamps))
    condense(Run(recipe))
    drawn = {file.name for file in (folder / "dataset" / "assets").iterdir()}
    assert drawn == {"grid.png", *CAPTIONS} - {"recovery.png", "recovery.gif", "terms.png"}


def test_features_are_the_inputs_of_the_last_layer(pictured: tuple[Recipe, Path]) -> None:
    _, folder = pictured
    classifier = teacher.load(folder / "teacher", torch.device("cpu"))
    pixels = torch.stack([decoded(png) for png, _ in read_rows(folder / "images")])
    inputs = pictures.features(classifier, pixels, torch.device("cpu"))
    head = [module for module in classifier.model.modules() if isinstance(module, torch.nn.Linear)][-1]
    assert inputs is not None
    logits = classifier.model(normalize(pixels, classifier.table(torch.device("cpu")))).logits
    torch.testing.assert_close(head(inputs), logits)


def test_png_bytes_are_counted_for_few_images_and_estimated_for_many(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = torch.randint(0, 256, (60, 3, 8, 8), dtype=torch.uint8)
    exact = sum(len(encode_png(image)) for image in pixels)
    assert pictures.png_bytes(pixels) == exact
    monkeypatch.setattr(pictures, "SAMPLED", 20)
    assert abs(pictures.png_bytes(pixels) / exact - 1) < 0.1


def test_a_run_without_the_libraries_reports_it_and_finishes(
    pictured: tuple[Recipe, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, folder = copy_of(pictured, tmp_path)
    monkeypatch.setattr(pictures, "NEEDED", ("no_such_library",))
    condense(Run(recipe))
    assert "pip install 'srel_hub[viz]'" in capsys.readouterr().err
    assert [file.name for file in (folder / "dataset" / "assets").iterdir()] == ["grid.png"]
    monkeypatch.undo()
    assert pictures.draw(Run(recipe)) is not None
    condense(Run(recipe))  # the card gets them
    assert (folder / "dataset" / "assets" / "real.png").is_file()


@pytest.mark.parametrize("size", [(8, 8), (64, 64), (224, 224)])
def test_a_grid_fits_a_card(size: tuple[int, int]) -> None:
    image = encode_png(torch.randint(0, 256, (3, *size), dtype=torch.uint8))
    grid = class_grid([(image, label) for _ in range(4) for label in range(20)], 20, 4, 50)
    assert 500 <= grid.width <= 1100 and grid.width / grid.height == pytest.approx(5, rel=0.05)


@pytest.mark.long
def test_pictures_can_be_switched_off_and_on_for_a_finished_run(pictured: tuple[Recipe, Path], tmp_path: Path) -> None:
    recipe, folder = copy_of(pictured, tmp_path)
    marks = {mark: mark.read_bytes() for mark in (folder / "units" / "evaluate").glob("*.json")}
    condense(Run(replace(recipe, pictures=False)))
    assert [file.name for file in (folder / "dataset" / "assets").iterdir()] == ["grid.png"]
    condense(Run(recipe))
    assert len(list((folder / "dataset" / "assets").iterdir())) == 1 + len(CAPTIONS)
    assert marks == {mark: mark.read_bytes() for mark in marks}
