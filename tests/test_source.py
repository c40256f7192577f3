from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from conftest import branch, make_source
from PIL import Image

from srel_hub import source, teacher
from srel_hub.evaluate import Training, make_row
from srel_hub.images import encode_png
from srel_hub.faults import UserError
from srel_hub.recipe import Network, Source
from srel_hub.relabel import relabel


NAMES = ["red", "green", "blue"]


def silent(items: Iterable[Any], total: int, title: str, unit: str) -> Iterator[Any]:
    return iter(items)


def test_a_local_folder_gives_the_pixels_that_are_in_it(tmp_path: Path) -> None:
    folder = make_source(tmp_path / "data", (6, 9), NAMES, per_class=4)
    opened = source.open_source(Source(path=str(folder)), silent)
    train = opened.train()
    rows = datasets.load_dataset(str(folder), split="train")
    assert opened.class_names == tuple(NAMES) and train.size == (6, 9)
    assert train.labels.tolist() == rows["label"][:]
    for pixels, picture in zip(train.pixels, rows["image"], strict=True):
        assert np.array_equal(pixels.permute(1, 2, 0).numpy(), np.asarray(picture))


def test_digits_are_split_in_halves_by_a_fixed_seed() -> None:
    first, second = (source.open_source(Source(builtin="digits"), silent) for _ in range(2))
    assert first.eval is not None and second.eval is not None
    train, test = first.train(), first.eval()
    assert (len(train.labels), len(test.labels)) == (898, 899) and train.size == (8, 8)
    assert torch.equal(train.pixels, second.train().pixels) and torch.equal(test.pixels, second.eval().pixels)
    assert int(train.pixels.max()) == 255 and set(train.labels.tolist()) == set(range(10))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"image_column": "photo"},
            r"source.image_column=photo: .* has no such Image column \(columns: image \(Image\)",
        ),
        ({"label_column": "image"}, "source.label_column=image: .* has no such ClassLabel column"),
        ({"train_split": "all"}, r"source.train_split=all: .* has no such split \(there are: train, test\)"),
        ({"eval_split": "dev"}, "source.eval_split=null does without evaluation"),
    ],
)
def test_what_is_not_there_is_named_with_what_is(tmp_path: Path, spec: dict[str, str], message: str) -> None:
    folder = make_source(tmp_path / "data", (6, 6), NAMES, per_class=2)
    with pytest.raises(UserError, match=message):
        source.open_source(Source(path=str(folder), **spec), silent)  # type: ignore[arg-type]


def test_images_of_several_sizes_are_refused_or_brought_to_one(tmp_path: Path) -> None:
    pictures = [Image.new("RGB", size, (200, 30, 10)) for size in ((8, 8), (12, 9))]
    rows = {"image": pictures, "label": [0, 1]}
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    (tmp_path / "data").mkdir()
    datasets.Dataset.from_dict(rows, features=kinds).to_parquet(tmp_path / "data" / "train.parquet")
    spec = Source(path=str(tmp_path / "data"), eval_split=None)
    with pytest.raises(UserError, match="row 1 is 12 x 9 pixels, row 0 is 8 x 8; set source.image_size"):
        source.open_source(spec, silent).train()
    fitted = source.open_source(Source(path=spec.path, eval_split=None, image_size=8), silent).train()
    assert fitted.pixels.shape == (2, 3, 8, 8)


def write_rows(folder: Path, contents: list[bytes], labels: list[int | None]) -> Source:
    rows = {"image": [{"bytes": content, "path": None} for content in contents], "label": labels}
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    folder.mkdir(parents=True)
    datasets.Dataset.from_dict(rows, features=kinds).to_parquet(folder / "train.parquet")
    return Source(path=str(folder), eval_split=None)


PNG = encode_png(torch.zeros(3, 4, 4, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("contents", "labels", "message"),
    [
        ([PNG, b"broken"], [0, 1], "row 1 is no image that Pillow can read"),
        ([PNG, PNG], [0, None], "row 1 has the label None; allowed are 0 to 1"),
        ([PNG, PNG, PNG], [0, 1, -1], "row 2 has the label -1; allowed are 0 to 1"),
        (
            [encode_png(torch.zeros(3, 1, 1, dtype=torch.uint8))] * 2,
            [0, 1],
            "images of 1 x 1 pixels; at least 2 a side",
        ),
    ],
)
def test_a_row_that_cannot_be_used_is_named(
    tmp_path: Path, contents: list[bytes], labels: list[int | None], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        source.open_source(write_rows(tmp_path / "data", contents, labels), silent).train()


def test_a_class_without_an_image_is_named(tmp_path: Path) -> None:
    opened = source.open_source(write_rows(tmp_path / "data", [PNG, PNG], [0, 0]), silent)
    with pytest.raises(UserError, match="the training split has no image of: b"):
        source.require_every_class(opened.train(), opened.class_names)


def test_class_folders_are_a_dataset(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("ant", "bee"):
            (tmp_path / split / name).mkdir(parents=True)
            (tmp_path / split / name / "1.png").write_bytes(PNG)
    opened = source.open_source(Source(path=str(tmp_path)), silent)
    assert opened.class_names == ("ant", "bee") and opened.train().labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("L", 77, (77, 77, 77)),
        ("RGBA", (200, 100, 50, 0), (0, 0, 0)),
        ("RGBA", (200, 100, 50, 255), (200, 100, 50)),
        ("LA", (90, 255), (90, 90, 90)),
        ("RGB", (1, 2, 3), (1, 2, 3)),
    ],
)
def test_every_mode_becomes_rgb_with_alpha_over_black(mode: str, colour: Any, expected: tuple[int, ...]) -> None:
    assert source.to_rgb(Image.new(mode, (2, 2), colour)).getpixel((0, 0)) == expected


def test_statistics_are_the_mean_and_standard_deviation_of_the_pixels() -> None:
    pixels = torch.randint(0, 256, (20, 3, 5, 7), dtype=torch.uint8)
    mean, std = source.statistics(pixels)
    values = pixels.double() / 255
    assert mean == pytest.approx(values.mean((0, 2, 3)).tolist(), abs=1e-4)
    assert std == pytest.approx(values.std((0, 2, 3), correction=0).tolist(), abs=1e-4)


def test_a_class_with_fewer_images_gives_all_it_has() -> None:
    images = source.Images(torch.zeros(7, 3, 2, 2, dtype=torch.uint8), torch.tensor([0, 0, 0, 0, 0, 1, 1]))
    subset = source.random_subset(images, 3, 2, torch.Generator().manual_seed(0))
    assert subset.labels.tolist() == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("recovered", [(8, 8)], indirect=True, ids=["8x8"])
def test_random_real_rows_share_a_subset_that_every_seed_draws_anew(
    recovered: tuple[Path, Path], tmp_path: Path
) -> None:
    run = branch(recovered, tmp_path)
    relabel(run)
    classifier = teacher.load(run.path("teacher"), run.device)
    train = source.open_source(run.recipe.source, silent).train()

    def row(name: str, seed: int) -> Any:
        return make_row(run, classifier, train, Training(Network(), name, seed))

    soft, hard, other = row("random-real", 0), row("random-real-hard", 0), row("random-real", 1)
    assert torch.equal(soft.epoch(0).images, hard.epoch(0).images)
    assert not torch.equal(soft.epoch(0).images, other.epoch(0).images)
    assert soft.labels.bincount().tolist() == [3, 3, 3] and hard.hard and not soft.hard
    pixel_values, logits = soft.epoch(4).batch(torch.arange(9))
    torch.testing.assert_close(logits, classifier.model(pixel_values).logits)
    real = {image.numpy().tobytes() for image in train.pixels}
    assert all(image.numpy().tobytes() in real for image in soft.epoch(0).images)
