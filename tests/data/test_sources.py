import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet
import pytest
import torch
from conftest import SMALL, branch, make_source
from PIL import Image

from srel_hub.condense import condense
from srel_hub.config import Source, load_recipe
from srel_hub.core.engine import FLOAT32
from srel_hub.data import sources
from srel_hub.data.splits import DecodedSplit, Images, channel_statistics, random_subset
from srel_hub.errors import UserError
from srel_hub.labels.labeller import make_labeller
from srel_hub.labels.read_manifest import read_manifest
from srel_hub.labels.reader import SoftLabels
from srel_hub.relabel import relabel
from srel_hub.runs.run import Run
from srel_hub.stages.evaluate.stage import make_context
from srel_hub.stages.evaluate.training_sets import make_training_set
from srel_hub.storage.condensed_table import encode_png
from srel_hub.storage.decode import Frame
from srel_hub.teachers import classifier


NAMES = ["red", "green", "blue"]


def silent(items: Iterable[Any], total: int | None, title: str, unit: str) -> Iterator[Any]:
    return iter(items)


def train_split(spec: Source) -> Any:
    return sources.open_source(spec, silent).train


def test_a_local_folder_gives_the_pixels_that_are_in_it(tmp_path: Path) -> None:
    folder = make_source(tmp_path / "data", (6, 9), NAMES, per_class=4)
    opened = sources.open_source(Source(path=str(folder)), silent)
    assert opened.train is not None
    train = opened.train.images(None)
    rows = datasets.load_dataset(str(folder), split="train")
    assert opened.class_names == tuple(NAMES) and train.size == (6, 9)
    assert train.labels.tolist() == rows["label"][:]
    for pixels, picture in zip(train.pixels, rows["image"], strict=True):
        assert np.array_equal(pixels.permute(1, 2, 0).numpy(), np.asarray(picture))


def test_digits_are_split_in_halves_by_a_fixed_seed() -> None:
    first, second = (sources.open_source(Source(builtin="digits"), silent) for _ in range(2))
    assert first.eval is not None and second.eval is not None
    assert first.train is not None and second.train is not None
    train, test = first.train.images(None), first.eval.images(None)
    assert (len(train.labels), len(test.labels)) == (898, 899) and train.size == (8, 8)
    assert torch.equal(train.pixels, second.train.images(None).pixels)
    assert torch.equal(test.pixels, second.eval.images(None).pixels)
    assert int(train.pixels.max()) == 255 and set(train.labels.tolist()) == set(range(10))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"image_column": "photo"},
            r"source.image_column=photo: .* has no column of that name with images \(columns: image \(Image\), label",
        ),
        (
            {"label_column": "image"},
            "source.label_column=image: .* has no column of that name with class labels, strings or whole",
        ),
        ({"train_split": "all"}, r"source.train_split=all: .* has no split of this name \(available: train, test\)"),
        ({"eval_split": "dev"}, "set source.eval_split=test, or source.eval_split=null to skip the evaluation"),
    ],
)
def test_a_missing_column_or_split_is_named_with_the_available_ones(
    tmp_path: Path, spec: dict[str, str], message: str
) -> None:
    folder = make_source(tmp_path / "data", (6, 6), NAMES, per_class=2)
    with pytest.raises(UserError, match=message):
        sources.open_source(Source(path=str(folder), **spec), silent)  # type: ignore[arg-type]


def test_images_of_several_sizes_are_refused_or_resized(tmp_path: Path) -> None:
    pictures = [Image.new("RGB", size, (200, 30, 10)) for size in ((8, 8), (12, 9))]
    rows = {"image": pictures, "label": [0, 1]}
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    (tmp_path / "data").mkdir()
    datasets.Dataset.from_dict(rows, features=kinds).to_parquet(tmp_path / "data" / "train.parquet")
    spec = Source(path=str(tmp_path / "data"), eval_split=None)
    with pytest.raises(
        UserError, match="row 1 has 12 x 9 pixels, but the first image has 8 x 8; set source.image_size"
    ):
        train_split(spec).images(None)
    fitted = train_split(spec).images(Frame((8, 8)))
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
        ([PNG, b"broken"], [0, 1], "row 1: Pillow cannot read this image"),
        ([PNG, PNG], [0, None], "row 1 has no label"),
        ([PNG, PNG, PNG], [0, 1, -1], r"row 2 has the label -1, which is not a class \(allowed: 0 to 1\)"),
        (
            [encode_png(torch.zeros(3, 1, 1, dtype=torch.uint8))] * 2,
            [0, 1],
            "the images have 1 x 1 pixels; each side must have 2 to 32767 pixels; set source.image_size",
        ),
    ],
)
def test_a_row_that_cannot_be_used_is_named(
    tmp_path: Path, contents: list[bytes], labels: list[int | None], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        train_split(write_rows(tmp_path / "data", contents, labels)).images(None)


def test_a_class_without_an_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the training split has no image of: b"):
        sources.open_source(write_rows(tmp_path / "data", [PNG, PNG], [0, 0]), silent)


def test_class_folders_are_a_dataset(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("ant", "bee"):
            (tmp_path / split / name).mkdir(parents=True)
            (tmp_path / split / name / "1.png").write_bytes(PNG)
    opened = sources.open_source(Source(path=str(tmp_path)), silent)
    assert opened.train is not None
    assert opened.class_names == ("ant", "bee") and opened.train.labels.tolist() == [0, 1]


def test_statistics_are_the_mean_and_standard_deviation_of_the_pixels() -> None:
    pixels = torch.randint(0, 256, (20, 3, 5, 7), dtype=torch.uint8)
    mean, std = channel_statistics(pixels)
    values = pixels.double() / 255
    assert mean == pytest.approx(values.mean((0, 2, 3)).tolist(), abs=1e-4)
    assert std == pytest.approx(values.std((0, 2, 3), correction=0).tolist(), abs=1e-4)


def test_a_class_with_fewer_images_gives_all_it_has() -> None:
    labels = torch.tensor([0, 0, 0, 1, 0, 1, 0])
    rows = random_subset(labels, 3, 2, torch.Generator().manual_seed(0))
    assert labels[rows].tolist() == [0, 0, 0, 1, 1] and len(set(rows.tolist())) == 5


@pytest.mark.parametrize("recovered", [(8, 8)], indirect=True, ids=["8x8"])
def test_random_real_rows_share_a_subset_that_differs_between_seeds(
    recovered: tuple[Path, Path], tmp_path: Path
) -> None:
    run = branch(recovered, tmp_path)
    relabel(run)
    teacher = classifier.load(run.path("teacher"), run.device)
    train = train_split(run.recipe.source)

    folder = run.path("soft_labels")
    stored = SoftLabels(read_manifest(folder / "manifest.json"), lambda name: folder / name)
    labeller = make_labeller([teacher], FLOAT32, run.device, None)

    manifest = stored.manifest
    context = make_context(
        run.recipe.evaluate, [teacher], manifest, sources.open_source(run.recipe.source, run.progress), run
    )
    material = replace(context.material, labeller=labeller)

    def row(name: str, seed: int) -> Any:
        return make_training_set(name, seed, material)

    soft, hard, other = row("random-real", 0), row("random-real-hard", 0), row("random-real", 1)
    assert torch.equal(soft.epoch(0).images, hard.epoch(0).images)
    assert not torch.equal(soft.epoch(0).images, other.epoch(0).images)
    assert soft.labels.bincount().tolist() == [3, 3, 3] and hard.hard and not soft.hard
    pixel_values, logits = soft.epoch(4).batch(torch.arange(9))
    answers = teacher.model(pixel_values).logits
    torch.testing.assert_close(logits, answers.half().float(), rtol=2**-10, atol=1e-4)  # as stored ones are
    real = {image.numpy().tobytes() for image in train.images(None).pixels}
    assert all(image.numpy().tobytes() in real for image in soft.epoch(0).images)


# Layouts of the same data


def lay_out(folder: Path) -> dict[str, Source]:
    """One dataset in every layout: 3 classes, 7 + 2 images, as the same PNG bytes; plain and streamed."""
    draw = torch.Generator().manual_seed(3)
    order = sorted(NAMES)
    for split, counts in (("train", (4, 2, 1)), ("test", (1, 1, 0))):
        rows = [
            (encode_png(torch.randint(0, 256, (3, 5, 6), generator=draw, dtype=torch.uint8)), name)
            for name, count in zip(NAMES, counts, strict=True)
            for _ in range(count)
        ]
        (folder / "metadata" / split).mkdir(parents=True)
        for name in NAMES:
            (folder / "folders" / split / name).mkdir(parents=True)
        for index, (png, name) in enumerate(rows):
            (folder / "folders" / split / name / f"{index}.png").write_bytes(png)
            (folder / "metadata" / split / f"{index}.png").write_bytes(png)
        lines = [f"{index}.png,{name}" for index, (_, name) in enumerate(rows)]
        (folder / "metadata" / split / "metadata.csv").write_text("\n".join(["file_name,label", *lines]))
        images = [{"bytes": png, "path": None} for png, _ in rows]
        for layout, column, kind in (
            ("parquet", [order.index(name) for _, name in rows], datasets.ClassLabel(names=order)),
            ("strings", [name for _, name in rows], datasets.Value("string")),
        ):
            (folder / layout).mkdir(exist_ok=True)
            features = datasets.Features({"image": datasets.Image(), "label": kind})
            table = datasets.Dataset.from_dict({"image": images, "label": column}, features=features)
            table.to_parquet(folder / layout / f"{split}.parquet")
    return {
        f"{layout}{' streamed' if streaming else ''}": Source(path=str(folder / layout), streaming=streaming)
        for layout in ("parquet", "strings", "folders", "metadata")
        for streaming in (False, True)
    }


def multiset(split: Any, class_names: tuple[str, ...]) -> list[tuple[bytes, str]]:
    images = split.images(None)
    assert torch.equal(images.labels, split.labels)
    named = [class_names[label] for label in images.labels.tolist()]
    return sorted(zip((image.numpy().tobytes() for image in images.pixels), named, strict=True))


def test_every_layout_gives_the_same_pixels_labels_and_class_names(tmp_path: Path) -> None:
    contents = {}
    for layout, spec in lay_out(tmp_path).items():
        opened = sources.open_source(spec, silent)
        assert opened.class_names == ("blue", "green", "red"), layout
        contents[layout] = [multiset(split, opened.class_names) for split in (opened.train, opened.eval)]
    first = contents["parquet"]
    assert [len(split) for split in first] == [7, 2]
    assert all(other == first for other in contents.values())


@pytest.mark.long
def test_one_teacher_condenses_every_layout_to_the_same_dataset(tmp_path: Path) -> None:
    layouts = lay_out(tmp_path / "data")
    trained = Run(load_recipe("quickstart", [*given(layouts["parquet"], tmp_path / "first"), "squeeze.epochs=1"]))
    condense(trained)
    files_by_layout = {}
    for layout, spec in layouts.items():
        root = tmp_path / layout
        run = Run(load_recipe("quickstart", [*given(spec, root), f"squeeze.pretrained={trained.path('teacher')}"]))
        condense(run)
        files_by_layout[layout] = {
            file.relative_to(run.folder).as_posix(): without_others(file.read_bytes())
            for part in ("dataset/data", "dataset/soft_labels", "teacher_repo/model.safetensors")
            for file in sorted([run.path(part), *run.path(part).rglob("*")])
            if file.is_file()
        }
    assert len(files_by_layout["parquet"]) == 5
    assert all(files == files_by_layout["parquet"] for files in files_by_layout.values())


def without_others(content: bytes) -> bytes:
    """A manifest, without the sha256 of recipe.yaml, which names the source."""
    return re.sub(rb'"others": \[.*?\]', b"", content, flags=re.DOTALL)


def given(spec: Source, root: Path) -> list[str]:
    overrides = [f"source={{path: '{spec.path}', streaming: {str(spec.streaming).lower()}, image_size: 8}}"]
    small = [override for override in SMALL if not override.startswith(("evaluate", "squeeze.epochs"))]
    return [*overrides, *small, "evaluate.epochs=1", "evaluate.seeds=1", "recover.ipc=2", f"run.root={root}"]


@pytest.mark.parametrize("streaming", [False, True])
def test_rows_are_returned_in_the_requested_order(tmp_path: Path, streaming: bool) -> None:
    split = train_split(replace(lay_out(tmp_path)["parquet"], streaming=streaming))
    whole, rows = split.images(None), torch.tensor([5, 0, 3])
    part = split.images(None, rows)
    assert torch.equal(part.pixels, whole.pixels[rows]) and torch.equal(part.labels, whole.labels[rows])
    assert split.size == (5, 6)


def test_only_requested_splits_are_opened(tmp_path: Path) -> None:
    """A damaged training split is not read if no stage needs it."""
    spec = lay_out(tmp_path)["parquet"]
    (tmp_path / "parquet" / "train.parquet").write_bytes(b"not parquet at all")
    opened = sources.open_source(spec, silent, train=False)
    assert opened.train is None and opened.eval is not None and len(opened.eval.labels) == 2
    nothing = Source(path="no/where", train_split=None, eval_split=None)
    assert sources.open_source(nothing, silent, train=False) == sources.Source()


def test_class_folders_keep_the_names_of_all_splits_where_one_is_opened(tmp_path: Path) -> None:
    spec = lay_out(tmp_path)["folders"]
    (tmp_path / "folders" / "test" / "blue").rmdir()
    opened = sources.open_source(spec, silent, train=False)
    assert opened.class_names == ("blue", "green", "red") and opened.eval is not None
    assert opened.eval.labels.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("column", "names"),
    [
        ([3, 10, 3, 0], ("0", "3", "10")),
        (["10", "9", "b", "a"], ("10", "9", "a", "b")),
        ([True, False, True, True], ("False", "True")),
    ],
)
def test_plain_labels_become_classes(tmp_path: Path, column: list[Any], names: tuple[str, ...]) -> None:
    table = datasets.Dataset.from_dict({"photo": [PNG] * 4, "kind": column})
    table.to_parquet(tmp_path / "train.parquet")
    spec = Source(path=str(tmp_path), eval_split=None, image_column="photo", label_column="kind")
    opened = sources.open_source(spec, silent)
    assert opened.class_names == names and opened.train is not None
    assert [names[label] for label in opened.train.labels.tolist()] == [str(value) for value in column]
    assert opened.train.images(None).pixels.shape == (4, 3, 4, 4)


def test_two_label_columns_are_ambiguous(tmp_path: Path) -> None:
    label = datasets.ClassLabel(names=["a", "b"])
    kinds = datasets.Features({"img": datasets.Image(), "fine": label, "coarse": label})
    rows = {"img": [{"bytes": PNG, "path": None}] * 2, "fine": [0, 1], "coarse": [1, 0]}
    datasets.Dataset.from_dict(rows, features=kinds).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(UserError, match="is ambiguous; set source.label_column to one of fine, coarse"):
        train_split(Source(path=str(tmp_path), eval_split=None))
    assert train_split(Source(path=str(tmp_path), eval_split=None, label_column="coarse")).labels.tolist() == [1, 0]


def test_ten_thousand_classes_are_counted(tmp_path: Path) -> None:
    names = [f"class {index:05d}" for index in range(10_450)]
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    rows = {"image": [{"bytes": PNG, "path": None}] * 10_450, "label": list(range(10_450))}
    datasets.Dataset.from_dict(rows, features=kinds).to_parquet(tmp_path / "train.parquet")
    opened = sources.open_source(Source(path=str(tmp_path), eval_split=None), silent)
    assert opened.class_names == tuple(names) and opened.train is not None
    assert random_subset(opened.train.labels, 5, 10_450, torch.Generator()).tolist() == list(range(10_450))


def test_a_decoded_split_is_framed_too() -> None:
    split = DecodedSplit(Images(torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8), torch.arange(3)))
    assert split.images(Frame((20, 20), 24), torch.tensor([2])).pixels.shape == (1, 3, 20, 20)
    assert split.images(Frame((8, 8)), torch.tensor([2])).labels.tolist() == [2]


CARD = """---
configs:
- {config_name: default, data_files: [{split: train, path: train.parquet}, {split: test, path: test.parquet}]}
dataset_info:
  features:
  - {name: image, dtype: image}
  - name: label
    dtype:
      class_label:
        names: {'0': ant, '1': bee}
---
"""


@pytest.mark.parametrize("train", [True, False])
def test_class_names_are_read_from_the_datasets_card(tmp_path: Path, train: bool) -> None:
    rows = pyarrow.table({"image": [{"bytes": PNG, "path": None}] * 2, "label": [1, 0]})
    for split in ("train", "test"):
        pyarrow.parquet.write_table(rows, tmp_path / f"{split}.parquet")
    (tmp_path / "README.md").write_text(CARD)
    opened = sources.open_source(Source(path=str(tmp_path)), silent, train=train)
    assert opened.class_names == ("ant", "bee") and opened.eval is not None
    assert opened.eval.labels.tolist() == [1, 0] and opened.eval.images(None).size == (4, 4)
