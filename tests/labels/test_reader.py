import dataclasses
import json
from pathlib import Path

import pytest
import torch
from conftest import branch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save

from srel_hub.config import Augment
from srel_hub.core.augment import Views, sample_views
from srel_hub.core.encodings import encoding_of
from srel_hub.core.seeds import generator
from srel_hub.errors import UserError
from srel_hub.labels import epoch_files, manifest
from srel_hub.labels import reader as soft_labels
from srel_hub.labels.manifest import LabelFile
from srel_hub.labels.read_manifest import read_manifest
from srel_hub.labels.reader import SoftLabels
from srel_hub.relabel import relabel
from srel_hub.storage.files import read_json, sha256


def an_epoch(count: int, classes: int, mix: str, seed: int = 0) -> tuple[Views, torch.Tensor, torch.Tensor]:
    draw = generator(seed, "an epoch")
    views = sample_views(Augment(mix=mix), count, (8, 9), draw)  # type: ignore[arg-type]
    return views, torch.randperm(count, generator=draw), 30 * torch.randn(count, classes, generator=draw)


def write(folder: Path, epoch: int, parts: list[range], mix: str, count: int, classes: int) -> list[LabelFile]:
    views, order, logits = an_epoch(count, classes, mix, epoch)
    files = []
    for part, rows in enumerate(parts):
        path = folder / epoch_files.epoch_file(epoch, part, len(parts))
        encoding = encoding_of("float16", classes)
        with epoch_files.write_epoch_file(path, epoch, rows, views, order, encoding) as append:
            for batch in torch.randperm(count).split(3):
                append(batch, logits[batch])
        span = (rows.start, rows.stop)
        files.append(LabelFile(name=path.name, epoch=epoch, rows=span, bytes=path.stat().st_size, sha256=sha256(path)))
    return files


@pytest.mark.parametrize("mix", ["none", "cutmix", "mixup"])
def test_files_are_byte_for_byte_what_the_library_writes(tmp_path: Path, mix: str) -> None:
    (file,) = write(tmp_path, 4, [range(7)], mix, count=7, classes=5)
    views, order, logits = an_epoch(7, 5, mix, 4)
    tensors = {"boxes": views.boxes, "flips": views.flips, "order": order.int(), "logits": logits.half()}
    for name in ("partners", "mix_boxes", "mix_weights"):
        if getattr(views, name) is not None:
            tensors[name] = getattr(views, name)
    metadata = {"srel": '{"epoch":4,"format":"srel-soft-labels","rows":[0,7],"version":1}'}
    assert (tmp_path / file.name).read_bytes() == save(tensors, metadata)


def test_the_format_has_these_tensors(tmp_path: Path) -> None:
    expected = {
        "none": {"boxes": ("I16", [7, 4]), "flips": ("BOOL", [7]), "order": ("I32", [7]), "logits": ("F16", [7, 5])},
        "cutmix": {"partners": ("I32", [7]), "mix_boxes": ("I16", [7, 4])},
        "mixup": {"partners": ("I32", [7]), "mix_weights": ("I16", [7])},
    }
    for mix, own in expected.items():
        (file,) = write(tmp_path, 0, [range(7)], mix, count=7, classes=5)
        with safe_open(tmp_path / file.name, framework="pt") as tensors:
            slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118
            tensors_found = {name: (part.get_dtype(), part.get_shape()) for name, part in slices.items()}
        assert tensors_found == {**expected["none"], **own}


@settings(max_examples=30, deadline=None)
@given(
    count=st.integers(2, 40),
    classes=st.integers(2, 12),
    mix=st.sampled_from(["none", "cutmix", "mixup"]),
    limit=st.integers(65536 + 60, 65536 + 2000),
)
def test_encode_decode_is_identity_in_one_file_or_many(
    tmp_path_factory: pytest.TempPathFactory, count: int, classes: int, mix: str, limit: int
) -> None:
    folder = tmp_path_factory.mktemp("labels")
    parts = epoch_files.epoch_parts(count, encoding_of("float16", classes), mix, file_bytes=limit)
    assert [i for rows in parts for i in rows] == list(range(count))
    files = write(folder, 0, parts, mix, count, classes) + write(folder, 1, parts, mix, count, classes)
    assert all((folder / file.name).stat().st_size <= limit + 400 for file in files) or len(parts[0]) <= 3
    labels = SoftLabels(fake_manifest(count, classes, mix, files), lambda name: folder / name)
    for epoch in (0, 1):
        views, order, logits = an_epoch(count, classes, mix, epoch)
        stored = labels.views(epoch)
        for field in dataclasses.fields(Views):
            before, after = getattr(views, field.name), getattr(stored, field.name)
            assert (before is None and after is None) or torch.equal(before, after)
        assert torch.equal(labels.order(epoch), order)
        chosen = torch.randperm(count)[: count // 2 + 1]
        assert torch.equal(labels.logits(epoch, chosen), logits[chosen].half().float())


def fake_manifest(count: int, classes: int, mix: str, files: list[LabelFile]) -> soft_labels.Manifest:
    teacher = manifest.TeacherFacts(repo_id=None, tag=None, sha256={}, accuracy=1.0)
    return soft_labels.Manifest(
        num_images=count,
        num_classes=classes,
        epochs=2,
        image_size=(8, 9),
        padding=0,
        augment=Augment(mix=mix),  # type: ignore[arg-type]
        seed=0,
        encoding="float16",
        group_size=None,
        mean=(0.5, 0.5, 0.5),
        std=(0.2, 0.2, 0.2),
        class_names=tuple(str(i) for i in range(classes)),
        teacher=teacher,
        precision="float32",
        device="cpu",
        torch="2",
        image_table_sha256="",
        files=tuple(files),
        others=(),
        top_k=None,
        top_values=None,
        pool="cycle",
        committee=(),
        kl_error=None,
    )


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -65505.0])
def test_a_logit_that_does_not_fit_stops_with_the_images_number(tmp_path: Path, bad: float) -> None:
    views, order, logits = an_epoch(7, 5, "none")
    logits[4, 2] = bad
    with (
        pytest.raises(UserError, match="^image 4: the teacher's logit"),
        epoch_files.write_epoch_file(
            tmp_path / "x.safetensors", 0, range(7), views, order, encoding_of("float16", 5)
        ) as append,
    ):
        for batch in torch.arange(7).split(3):
            append(batch, logits[batch])


def test_every_epoch_orders_every_image_once(recovered: tuple[Path, Path], tmp_path: Path) -> None:
    folder = relabel(branch(recovered, tmp_path, "relabel.epochs=3"))
    labels = SoftLabels(read_manifest(folder / "manifest.json"), lambda name: folder / name)
    orders = [labels.order(epoch).tolist() for epoch in range(3)]
    assert all(sorted(order) == list(range(9)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    with pytest.raises(IndexError, match="epoch 3 is not stored"):
        labels.order(3)


@pytest.mark.parametrize(("key", "value"), [("version", 3), ("encoding", "top9"), ("format", "other")])
def test_an_unknown_format_is_refused_by_name(
    recovered: tuple[Path, Path], tmp_path: Path, key: str, value: object
) -> None:
    folder = relabel(branch(recovered, tmp_path))
    manifest = read_json(folder / "manifest.json") | {key: value}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=f"{key} {value!r} is not supported"):
        read_manifest(folder / "manifest.json")
