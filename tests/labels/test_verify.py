"""`verify` passes what is whole, and names what was tampered with; hostile files give an error, and nothing else."""

import itertools
import json
import os
import resource
import shutil
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet
import pytest
from conftest import branch, small_recipe
from local_hub.client import Hub
from safetensors.numpy import load_file, save_file

from srel_hub import load_condensed
from srel_hub.commands.program import main
from srel_hub.core.metrics import BETTER_THAN_CHANCE
from srel_hub.errors import UserError
from srel_hub.evaluate import evaluate
from srel_hub.hub.repository import Folder
from srel_hub.labels.checks import Subject, is_below_chance
from srel_hub.labels.manifest import MANIFEST
from srel_hub.labels.read_manifest import read_manifest
from srel_hub.labels.replay import replay
from srel_hub.labels.verify import verify
from srel_hub.recover import recover
from srel_hub.relabel import relabel
from srel_hub.reports.assemble import assemble
from srel_hub.runs.run import Run
from srel_hub.squeeze import squeeze
from srel_hub.storage.condensed_table import (
    hide_progress_bars,
    image_table_sha256,
    read_parquet,
    table_features,
    write_parquet,
)
from srel_hub.storage.files import read_json, sha256


LABELS = "soft_labels/epoch-00001.safetensors"
DATA = "data/train-00000-of-00001.parquet"


def results(path: Path | str, revision: str | None = None, fast: bool = False) -> dict[str, Any]:
    return {check.name: check for check in verify(str(path), revision, fast)}


def failures(path: Path | str) -> dict[str, str]:
    """Return the messages of the failed checks, by the name of the check."""
    return {name: check.message for name, check in results(path).items() if check.passed is False}


def change(file: Path, content: bytes) -> None:
    """Write a new file of that name, because label files may be hard links to those of the run."""
    file.unlink()
    file.write_bytes(content)


def change_manifest(dataset: Path, **fields: Any) -> None:
    file = dataset / "soft_labels" / "manifest.json"
    file.write_text(json.dumps(read_json(file) | fields))


def reseal(run: Path) -> None:
    """Make the manifest fit the files again, as someone would who means to deceive."""
    dataset, teacher_repo = run / "dataset", run / "teacher_repo"
    manifest = read_json(dataset / "soft_labels" / "manifest.json")
    for entries, folder in ((manifest["files"], dataset / "soft_labels"), (manifest["others"], dataset)):
        for entry in entries:
            if (folder / entry["name"]).is_file():
                entry["bytes"] = (folder / entry["name"]).stat().st_size
                entry["sha256"] = sha256(folder / entry["name"])
    manifest["teacher"]["sha256"] = {name: sha256(teacher_repo / name) for name in manifest["teacher"]["sha256"]}
    change_manifest(dataset, **manifest)


# What is whole


def test_all_is_well_with_what_condense_left(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(own / "dataset")]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = ["manifest", "files", "card", "images", "teacher", "class names", "soft labels", "accuracy", "replay"]
    assert [line.split(":")[0].split(maxsplit=1)[1] for line in lines[:-1]] == names
    assert (
        all(line.startswith("ok ") for line in lines[:-1])
        and lines[-1] == "all checks passed: the dataset is what it claims to be"
    )


def test_all_is_well_with_what_was_published_and_fast_downloads_no_labels(
    hub: Hub, own: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    manifest = read_json(own / "dataset/soft_labels/manifest.json")
    change_manifest(own / "dataset", teacher=manifest["teacher"] | {"repo_id": "alice/net", "tag": None})
    hub.put("datasets", "alice/colors", own / "dataset")
    hub.put("models", "alice/net", own / "teacher_repo")
    hub.faults()
    fast = results("alice/colors", fast=True)
    assert [check.passed for check in fast.values()] == [True] * 6 + [None, True, None], fast
    assert not [entry for entry in hub.log() if "epoch-" in entry["path"]]
    assert all(check.passed for check in results("alice/colors", "main").values())


@pytest.mark.parametrize("mix", ["cutmix", "mixup"])
def test_mixed_labels_are_computed_again_too(recovered: tuple[Path, Path], tmp_path: Path, mix: str) -> None:
    run = branch(recovered, tmp_path, "source.eval_split=null", f"relabel.augment={{mix: {mix}, mix_alpha: 1}}")
    relabel(run)
    evaluate(run)
    dataset, _ = assemble(run.folder, run.recipe, run.folder, run.progress)
    assert failures(dataset) == {}  # although the teacher was hardly trained


def test_what_is_no_dataset_is_an_error(own: Path, capsys: pytest.CaptureFixture[str], hub: Hub) -> None:
    assert main(["verify", str(own)]) == 2 and "is a run; the dataset in it is" in capsys.readouterr().err
    assert main(["verify", "./nowhere"]) == 2 and "there is no such folder" in capsys.readouterr().err
    assert (
        main(["verify", "alice/nothing"]) == 2 and "no dataset on the Hub that you may read" in capsys.readouterr().err
    )


# What was tampered with: each is caught, and named


def wrong_class_order_in_the_data(run: Path) -> None:
    rows = list(read_parquet(run / "dataset" / DATA))
    write_parquet(
        run / "dataset" / DATA, [png for png, _ in rows], [label for _, label in rows], ["green", "red", "blue"]
    )
    reseal(run)


def wrong_class_order_in_the_teacher(run: Path) -> None:
    file = run / "teacher_repo" / "config.json"
    config = read_json(file)
    config["id2label"] = {"0": "blue", "1": "green", "2": "red"}
    file.write_text(json.dumps(config))
    reseal(run)


def swapped_teacher(run: Path) -> None:
    weights = load_file(run / "teacher_repo" / "model.safetensors")
    change(run / "teacher_repo" / "model.safetensors", b"")
    save_file(
        {k: np.asarray(v * 1.5, v.dtype) for k, v in weights.items()},
        run / "teacher_repo" / "model.safetensors",
        {"format": "pt"},
    )


def swapped_and_resealed_teacher(run: Path) -> None:
    swapped_teacher(run)
    reseal(run)


def one_flipped_byte(run: Path) -> None:
    content = bytearray((run / "dataset" / LABELS).read_bytes())
    content[-1] ^= 1
    change(run / "dataset" / LABELS, bytes(content))


def a_missing_epoch(run: Path) -> None:
    (run / "dataset" / LABELS).unlink()


def one_swapped_image(run: Path) -> None:
    rows = list(read_parquet(run / "dataset" / DATA))
    rows[0], rows[3] = rows[3], rows[0]  # of the same class
    names = ["red", "green", "blue"]
    write_parquet(run / "dataset" / DATA, [png for png, _ in rows], [label for _, label in rows], names)
    reseal(run)


def labels_of_another_view(run: Path) -> None:
    first, second = (run / "dataset/soft_labels" / f"epoch-0000{epoch}.safetensors" for epoch in (0, 1))
    other = load_file(first)
    change(first, b"")
    save_file(other | {"logits": load_file(second)["logits"]}, first)
    reseal(run)


def a_changed_result(run: Path) -> None:
    file = run / "dataset" / "metrics.json"
    change(file, file.read_bytes().replace(b"0.", b"1.", 1))


def an_image_too_many(run: Path) -> None:
    shutil.copy(run / "dataset" / DATA, run / "dataset" / "data" / "train-extra.parquet")


def a_card_with_another_count(run: Path) -> None:
    file = run / "dataset" / "README.md"
    change(file, file.read_bytes().replace(b"num_examples: 9", b"num_examples: 8"))


def classes_swapped_on_the_card(run: Path) -> None:
    """Swap two class names on the card, whose features `load_dataset` prefers to those of the parquet files."""
    file = run / "dataset" / "README.md"
    change(file, file.read_bytes().replace(b"'0': red", b"'0': green").replace(b"'1': green", b"'1': red"))


def logits_beyond_all_numbers(run: Path) -> None:
    weights = load_file(run / "teacher_repo" / "model.safetensors")
    change(run / "teacher_repo" / "model.safetensors", b"")
    huge = {k: np.asarray(v * (1e38 if "classifier" in k else 1), v.dtype) for k, v in weights.items()}
    save_file(huge, run / "teacher_repo" / "model.safetensors", {"format": "pt"})
    change_manifest(run / "dataset", precision="bfloat16")
    reseal(run)


@pytest.mark.parametrize(("share", "fails"), [(0.015, False), (0.1, True)])
def test_a_bfloat16_label_may_be_off_by_a_share_of_the_typical_one(own: Path, share: float, fails: bool) -> None:
    """A network's errors do not shrink with its logits: the row of the smallest ones is off by as much as others."""
    for file in sorted((own / "dataset" / "soft_labels").glob("*.safetensors")):
        stored = load_file(file)
        logits = stored["logits"].astype(np.float32)
        norms = np.linalg.norm(logits, axis=1)
        row = norms.argmin()
        logits[row, logits[row].argmax()] += share * norms.mean()
        change(file, b"")
        save_file(stored | {"logits": logits.astype(np.float16)}, file)
    change_manifest(own / "dataset", precision="bfloat16")
    reseal(own)
    assert ("replay" in failures(own / "dataset")) == fails


TAMPERED: dict[Callable[[Path], None], tuple[str, str]] = {
    wrong_class_order_in_the_data: ("class names", "the dataset, but 'red' in the manifest"),
    wrong_class_order_in_the_teacher: ("class names", "class 0 is 'blue' in the teacher, but 'red' in the manifest"),
    swapped_teacher: (
        "teacher",
        "not the teacher that labeled this dataset (the sha256 of model.safetensors differs)",
    ),
    swapped_and_resealed_teacher: ("replay", "the stored logits differ from the teacher's by up to"),
    one_flipped_byte: ("soft labels", "epoch-00001.safetensors: its sha256 differs from the manifest's"),
    a_missing_epoch: ("files", "soft_labels/epoch-00001.safetensors is missing"),
    one_swapped_image: ("images", "sha256 of the image table differs"),
    labels_of_another_view: ("replay", "epoch 0, image"),
    a_changed_result: ("files", "the sha256 of metrics.json differs from the manifest's"),
    an_image_too_many: ("files", "data/train-extra.parquet is not listed in the manifest"),
    a_card_with_another_count: ("card", "dataset_info counts [('train', 8)], but the manifest has 9 images"),
    classes_swapped_on_the_card: ("card", "dataset_info has the features"),
    logits_beyond_all_numbers: ("replay", "the teacher's logits are not finite"),
}


@pytest.mark.parametrize("tamper", TAMPERED, ids=lambda tamper: tamper.__name__)
def test_what_was_tampered_with_is_named(
    own: Path, tamper: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    check, reason = TAMPERED[tamper]
    tamper(own)
    messages = failures(own / "dataset")
    assert reason in messages.get(check, ""), messages
    assert main(["verify", str(own / "dataset")]) == 1
    said = capsys.readouterr().out
    assert "FAILED " in said and "NOT what it claims to be: " in said


def test_rows_swapped_behind_an_unchanged_date_are_noticed(own: Path) -> None:
    """`datasets` keeps its copies by path and date."""
    file = own / "dataset" / DATA
    _ = load_condensed(own / "dataset").images
    before = file.stat()
    one_swapped_image(own)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert "sha256 of the image table differs" in failures(own / "dataset")["images"]


def test_fast_hashes_what_lies_here(own: Path) -> None:
    one_flipped_byte(own)
    assert f"the sha256 of {LABELS} differs" in results(own / "dataset", fast=True)["files"].message


def test_a_line_stays_a_line(own: Path) -> None:
    file = own / "dataset" / "README.md"
    change(file, file.read_bytes().replace(b"license: mit", b'license: "mit\\nall is well\\e[2J"'))
    assert str(results(own / "dataset")["card"]) == "ok     card: license mit?all is well?[2J, 9 examples"


def test_which_labels_are_computed_again_nobody_knows_beforehand(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of 18 labels is wrong and one is looked at: now and then it is that one."""
    monkeypatch.setattr("srel_hub.labels.replay.SAMPLED_EPOCHS", 1)
    monkeypatch.setattr("srel_hub.labels.replay.SAMPLED_IMAGES", 1)
    epoch_with(logits=set_row(4, [9, -9, 9]))(own)
    store = Folder(own / "dataset")
    claim = Subject(store, read_manifest(store.fetch(MANIFEST)), fast=False)

    def passes() -> bool:
        try:
            return replay(claim) is not None
        except UserError:
            return False

    assert {passes() for _ in range(400)} == {True, False}


def test_an_accuracy_below_the_manifests_is_caught(own: Path) -> None:
    dataset = own / "dataset"
    manifest = read_json(dataset / "soft_labels/manifest.json")
    weights = load_file(own / "teacher_repo" / "model.safetensors")
    change(own / "teacher_repo" / "model.safetensors", b"")
    zeros = {k: np.asarray(v * ("classifier" not in k), v.dtype) for k, v in weights.items()}
    save_file(zeros, own / "teacher_repo" / "model.safetensors", {"format": "pt"})
    reseal(own)
    accuracy = manifest["teacher"]["accuracy"]
    assert f"the manifest says {accuracy:.1%}" in failures(dataset)["accuracy"]
    sealed = read_json(dataset / "soft_labels/manifest.json")
    change_manifest(dataset, teacher=sealed["teacher"] | {"accuracy": 0.0})
    assert set(failures(dataset)) == {"replay"}  # an accuracy that the manifest states is true, but the labels are not


def exchange_classes(run: Path, order: Sequence[int]) -> None:
    """Give the images of class i class order[i], in the data and in the manifest."""
    rows = [(png, order[label]) for png, label in read_parquet(run / "dataset" / DATA)]
    write_parquet(
        run / "dataset" / DATA, [png for png, _ in rows], [label for _, label in rows], ["red", "green", "blue"]
    )
    reseal(run)
    condensed = load_condensed(run / "dataset")
    change_manifest(run / "dataset", image_table_sha256=image_table_sha256(condensed.pixels, condensed.labels))


@pytest.mark.parametrize("order", list(itertools.permutations(range(3)))[1:], ids=str)
def test_exchanged_classes_are_caught_although_all_digests_fit(own: Path, order: tuple[int, ...]) -> None:
    exchange_classes(own, order)
    assert "but the manifest says" in failures(own / "dataset").get("accuracy", "")


@pytest.mark.parametrize(
    ("hits", "count", "classes", "is_below"),
    [
        (0, 50, 10, True),  # exchanged classes of the smallest quickstart
        (0, 100, 10, True),
        (20, 50_000, 1000, True),
        (0, 9, 3, False),  # so few images may all be wrong by chance
        (0, 10, 10, False),
        (5, 50, 10, False),  # exactly chance
        (40, 50_000, 1000, False),
        (49, 50, 10, False),
    ],
)
def test_below_chance_is_what_no_honest_set_is(hits: int, count: int, classes: int, is_below: bool) -> None:
    assert is_below_chance(hits, count, classes) == is_below


@pytest.fixture(scope="module")
def untrained(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset of a run whose teacher hardly knows its classes, as in a first look at own images."""
    overrides = ["squeeze.optimizer.lr=1e-9", "recover.iterations=1", "source.eval_split=null"]
    root = tmp_path_factory.mktemp("untrained")
    run = Run(small_recipe(finished.parent.parent / "colors.yaml", root, *overrides))
    squeeze(run)
    recover(run)
    relabel(run)
    evaluate(run)
    return assemble(run.folder, run.recipe, run.folder, run.progress)[0]


def test_an_accuracy_near_chance_that_the_manifest_states_is_a_note(untrained: Path) -> None:
    claimed = read_json(untrained / MANIFEST)["teacher"]["accuracy"]
    assert claimed <= 1 / 3 + BETTER_THAN_CHANCE * 2 / 3, "the teacher is not as bad as this test needs it"
    found = results(untrained)
    assert all(check.passed for check in found.values()), found
    assert "note: this is near that of guessing (33.3%)" in found["accuracy"].message
    assert main(["verify", str(untrained)]) == 0


# What means harm: an error that says so, from load_condensed and from verify, and nothing else


def manifest_with(**fields: Any) -> Callable[[Path], None]:
    return lambda run: change_manifest(run / "dataset", **fields)


def file_named(name: str) -> Callable[[Path], None]:
    def harm(run: Path) -> None:
        files = read_json(run / "dataset/soft_labels/manifest.json")["files"]
        files[0]["name"] = name
        change_manifest(run / "dataset", files=files)

    return harm


def card_with(head: str) -> Callable[[Path], None]:
    return lambda run: change(run / "dataset" / "README.md", f"---\n{head}\n---\n# Card\n".encode())


def manifest_text(text: str) -> Callable[[Path], None]:
    return lambda run: change(run / "dataset" / "soft_labels" / "manifest.json", text.encode())


def huge_png(run: Path) -> None:
    """Write a PNG of a few bytes whose header says 60,000 x 60,000 pixels."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(10**6))) + chunk(b"IEND", b"")
    )
    rows = list(read_parquet(run / "dataset" / DATA))
    rows[4] = (bomb, rows[4][1])
    table = {"image": [{"bytes": png, "path": None} for png, _ in rows], "label": [label for _, label in rows]}
    with hide_progress_bars():
        datasets.Dataset.from_dict(table, features=table_features(["red", "green", "blue"])).to_parquet(
            run / "dataset" / DATA
        )
    reseal(run)


def epoch_with(**tensors: Callable[[Any], Any]) -> Callable[[Path], None]:
    """Change tensors of the first epoch, and adapt the manifest to them."""

    def harm(run: Path) -> None:
        file = run / "dataset/soft_labels/epoch-00000.safetensors"
        stored = load_file(file)
        change(file, b"")
        save_file(stored | {name: make(stored[name].copy()) for name, make in tensors.items()}, file)
        reseal(run)

    return harm


def cut_safetensors(run: Path) -> None:
    file = run / "dataset/soft_labels/epoch-00000.safetensors"
    change(file, file.read_bytes()[:200])
    reseal(run)


def a_header_of_an_exabyte(run: Path) -> None:
    file = run / "dataset/soft_labels/epoch-00000.safetensors"
    change(file, struct.pack("<Q", 2**60) + file.read_bytes()[8:])
    reseal(run)


def a_shape_of_a_petabyte(run: Path) -> None:
    file = run / "dataset/soft_labels/epoch-00000.safetensors"
    header = json.dumps({"logits": {"dtype": "F16", "shape": [2**40, 2**9], "data_offsets": [0, 2**50]}}).encode()
    change(file, struct.pack("<Q", len(header)) + header + bytes(100))
    reseal(run)


def set_row(row: int, value: Any) -> Callable[[Any], Any]:
    def make(array: Any) -> Any:
        array[row] = value
        return array

    return make


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "\n".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]" for before, name in zip("abcdefghi", "bcdefghij", strict=True)
)

HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "a name above": (file_named("../../../etc/passwd"), "'../../../etc/passwd' is not the name of a label file"),
    "an absolute name": (file_named("/etc/passwd"), "'/etc/passwd' is not the name of a label file"),
    "a name with backslashes": (file_named("..\\x.safetensors"), "is not the name of a label file"),
    "another file above": (
        manifest_with(others=[{"name": "../x", "bytes": 1, "sha256": ""}]),
        "others: '../x' is not a path inside the repository",
    ),
    "a teacher's file above": (
        manifest_with(teacher={"repo_id": None, "tag": None, "sha256": {"../../x": ""}, "accuracy": 1.0}),
        "teacher.sha256: must name model.safetensors, config.json, got ../../x",
    ),
    "too many epochs": (manifest_with(epochs=2**31 - 1), "epochs: 2147483647, but the 2 files of labels hold 2"),
    "an unheard-of precision": (manifest_with(precision="any"), "precision 'any': must be one of float32"),
    "faults beyond counting": (manifest_with(files=[{}] * 100_000), "files.0.name: is required"),
    "a teacher on the reader's disk": (
        manifest_with(
            teacher={
                "repo_id": "/home/me",
                "tag": None,
                "sha256": {"model.safetensors": "", "config.json": ""},
                "accuracy": 1.0,
            }
        ),
        "teacher.repo_id '/home/me': must be namespace/name",
    ),
    "YAML of a wrong type": (card_with("a: !!int ''"), "the metadata of README.md is not plain YAML"),
    "too many images": (manifest_with(num_images=2**40), "out of range"),
    "more images than there are": (manifest_with(num_images=10), "not all of [0, 10)"),
    "images of a gigapixel": (manifest_with(image_size=[32767, 32767]), "must be an RGB PNG of 32767 x 32767"),
    "images too large": (manifest_with(image_size=[10**9, 10**9]), "image_size [1000000000, 1000000000]"),
    "K and names disagree": (manifest_with(num_classes=4), "num_classes: 4, but class_names has 3 names"),
    "a name twice": (manifest_with(class_names=["red", "red", "blue"]), "3 names, 2 of them different"),
    "a normalization by nothing": (manifest_with(std=[0.2, 0.0, 0.2]), "std positive"),
    "no number": (manifest_text('{"format": NaN}'), "format nan is not supported"),
    "no mapping": (manifest_text("[1, 2]"), "not a manifest: it must be a JSON object, not list"),
    "no JSON": (manifest_text("\x00\x01"), "not a manifest: it is not valid JSON"),
    "a nest of lists": (manifest_text("[" * 100_000), "not a manifest: it is not valid JSON"),
    "a YAML bomb": (card_with(BOMB), "the metadata of README.md expands to more than 1000000 values"),
    "YAML that holds itself": (
        card_with("a: &a [*a]"),
        "the metadata of README.md expands to more than 1000000 values",
    ),
    "YAML that makes objects": (
        card_with("a: !!python/object/apply:os.getcwd []"),
        "the metadata of README.md is not plain YAML",
    ),
    "a nest of YAML": (card_with("[" * 100_000), "the metadata of README.md is not plain YAML"),
    "a card too large": (card_with("a: " + "x" * 3_000_000), "but a card of srel_hub has at most 2000000"),
    "no card": (lambda run: change(run / "dataset/README.md", b"# Hello"), "does not begin with metadata"),
    "a PNG of 60,000 x 60,000": (huge_png, "image 4: must be an RGB PNG of 8 x 8 pixels, but is"),
    "a cut safetensors file": (cut_safetensors, "epoch-00000.safetensors: this is not a safetensors file"),
    "a header too large": (a_header_of_an_exabyte, "epoch-00000.safetensors: this is not a safetensors file"),
    "a shape too large": (a_shape_of_a_petabyte, "epoch-00000.safetensors: this is not a safetensors file"),
    "logits of more classes": (
        epoch_with(logits=lambda z: np.concatenate([z, z], 1)),
        "logits F16 [9, 6], order I32 [9]; it must have",
    ),
    "a box beyond the image": (
        epoch_with(boxes=set_row(5, [4, 4, 8, 8])),
        "boxes of image 5 is [4, 4, 8, 8], out of range",
    ),
    "a box of nothing": (epoch_with(boxes=set_row(5, [4, 4, 0, 1])), "boxes of image 5 is [4, 4, 0, 1], out of range"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_give_an_error_and_nothing_else(own: Path, case: str, hub: Hub) -> None:
    harm, reason = HOSTILE[case]
    harm(own)
    before = set(own.rglob("*"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError) as caught:
        condensed = load_condensed(own / "dataset")
        _ = condensed.pixels
        condensed[0]
    assert reason in str(caught.value)
    messages = failures(own / "dataset")
    assert any(reason in message for message in messages.values()), messages
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 300_000  # KiB
    assert set(own.rglob("*")) == before


@pytest.mark.parametrize(("tensor", "row", "value"), [("order", 3, 0), ("logits", 2, float("nan"))])
def test_what_only_a_check_would_notice_is_noticed(own: Path, tensor: str, row: int, value: float) -> None:
    epoch_with(**{tensor: set_row(row, value)})(own)
    messages = {
        "order": "epoch 0: the stored order is not a permutation",
        "logits": "the logits of image 2 are not finite",
    }
    assert messages[tensor] in failures(own / "dataset")["soft labels"]


@pytest.mark.parametrize(
    ("mix", "tensor", "value"),
    [("cutmix", "partners", 9), ("cutmix", "mix_boxes", [0, 0, 9, 1]), ("mixup", "mix_weights", 257)],
)
def test_mixes_out_of_range_are_refused(
    recovered: tuple[Path, Path], tmp_path: Path, mix: str, tensor: str, value: Any
) -> None:
    run = branch(recovered, tmp_path, "source.eval_split=null", f"relabel.augment={{mix: {mix}, mix_alpha: 1}}")
    relabel(run)
    evaluate(run)
    dataset, _ = assemble(run.folder, run.recipe, run.folder, run.progress)
    value = [0, 0, 99, 1] if tensor == "mix_boxes" else value
    epoch_with(**{tensor: set_row(1, value)})(run.folder)
    with pytest.raises(UserError, match=f"{tensor} of image 1 is .*, out of range"):
        load_condensed(dataset)[0]


def test_a_hostile_dataset_on_the_hub_writes_nothing_but_its_cache(
    hub: Hub, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    file_named("../../../../escaped.safetensors")(own)
    hub.put("datasets", "alice/harm", own / "dataset")
    with pytest.raises(UserError, match="is not the name of a label file"):
        load_condensed("alice/harm")
    assert not list(tmp_path.rglob("escaped*"))
    assert all("cache" in path.parts or "runs" in path.parts for path in tmp_path.rglob("*") if path.is_file())


def parquet_of(rows: list[dict[str, Any]]) -> Callable[[Path], None]:
    def harm(run: Path) -> None:
        table = pyarrow.Table.from_pylist(rows, pyarrow.parquet.read_schema(run / "dataset" / DATA))
        pyarrow.parquet.write_table(table, run / "dataset" / DATA)
        reseal(run)

    return harm


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([{"image": {"bytes": b"x" * 10**6, "path": None}, "label": 0}] * 400, "the dataset has 400 images of 3"),
        ([{"image": {"bytes": b"", "path": "/etc/hostname"}, "label": 0}] * 9, "image 0: must be an RGB PNG"),
        ([{"image": {"bytes": None, "path": "/etc/hostname"}, "label": 0}] * 9, "image 0: must be an RGB PNG"),
    ],
    ids=["too many rows", "a path", "no bytes"],
)
def test_hostile_parquet_files_are_refused(own: Path, rows: list[dict[str, Any]], reason: str) -> None:
    parquet_of(rows)(own)
    with pytest.raises(UserError, match=reason):
        _ = load_condensed(own / "dataset").images
    assert any(reason in message for message in failures(own / "dataset").values())


@pytest.mark.parametrize(
    ("file", "fields"),
    [
        ("config.json", {"id2label": {"0": "red", "7": "x", "9": "y"}}),
        ("config.json", {"quantization_config": {"quant_method": "gptq"}}),
        ("config.json", {"hidden_size": "x"}),
        ("config.json", {"hidden_size": 100_000}),
        ("preprocessor_config.json", {"size": None}),
        ("preprocessor_config.json", {"image_mean": "abc"}),
        ("preprocessor_config.json", {"image_processor_type": 5}),
    ],
)
def test_hostile_teachers_are_refused(own: Path, file: str, fields: dict[str, Any]) -> None:
    path = own / "teacher_repo" / file
    path.write_text(json.dumps(read_json(path) | fields))
    reseal(own)
    with pytest.raises(UserError, match="transformers cannot load a classifier"):
        load_condensed(own / "dataset").teacher()
    assert "teacher" in failures(own / "dataset")


def test_a_teacher_without_all_its_weights_is_refused(own: Path) -> None:
    weights = load_file(own / "teacher_repo" / "model.safetensors")
    change(own / "teacher_repo" / "model.safetensors", b"")
    incomplete = {name: value for name, value in weights.items() if "classifier" not in name}
    save_file(incomplete, own / "teacher_repo" / "model.safetensors", {"format": "pt"})
    reseal(own)
    with pytest.raises(UserError, match="its weights lack classifier.bias, classifier.weight"):
        load_condensed(own / "dataset").teacher()
