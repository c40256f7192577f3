"""Label files of several epochs: the same labels in fewer files, read like those with one epoch per file."""

import contextlib
import io
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import HUB
from hypothesis import example, given, settings
from hypothesis import strategies as st
from local_hub.client import Hub
from test_reader import an_epoch, fake_manifest, write

from srel_hub import load_condensed, verify_dataset
from srel_hub.config import load_recipe
from srel_hub.core.encodings import encoding_of
from srel_hub.errors import UserError
from srel_hub.labels import packing
from srel_hub.labels.epoch_files import write_epoch_file
from srel_hub.labels.manifest import LabelFile, manifest_values
from srel_hub.labels.read_manifest import read_manifest
from srel_hub.labels.reader import SoftLabels
from srel_hub.publish import publish
from srel_hub.runs.run import Run
from srel_hub.storage.files import read_json, write_json


def stored(folder: Path, epochs: int, parts: list[range], mix: str = "cutmix") -> packing.Manifest:
    """Write label files of several epochs, and return their manifest."""
    files = [file for epoch in range(epochs) for file in write(folder, epoch, parts, mix, parts[-1].stop, 3)]
    return replace(fake_manifest(parts[-1].stop, 3, mix, files), epochs=epochs)


@settings(max_examples=20, deadline=None)
@example(epochs=1, parts=70)  # one epoch has nothing to be packed with
@given(epochs=st.integers(1, 150), parts=st.sampled_from([1, 2, 5, 70]))
def test_every_row_of_every_epoch_is_packed_once(epochs: int, parts: int) -> None:
    spans = [(10 * part, 10 * part + 10) for part in range(parts)]
    files = [
        LabelFile(name=f"{epoch}-{rows}", epoch=epoch, rows=rows, bytes=1, sha256="")
        for epoch in range(epochs)
        for rows in spans
    ]
    groups = packing.groups(replace(fake_manifest(10 * parts, 3, "none", files), epochs=epochs))
    if len(files) <= packing.MOST_FILES or epochs == 1:
        assert groups == []
        return
    assert sorted((file.epoch, file.rows) for group in groups for file in group) == [(f.epoch, f.rows) for f in files]
    assert len(groups) <= max(packing.MOST_FILES, parts)
    for group in groups:
        assert len({file.rows for file in group}) == 1
        assert [file.epoch for file in group] == list(range(group[0].epoch, group[0].epoch + len(group)))


@pytest.mark.parametrize("mix", ["none", "cutmix", "mixup"])
@pytest.mark.parametrize("parts", [[range(7)], [range(4), range(4, 7)]], ids=["whole", "split"])
def test_packed_labels_are_read_like_the_originals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: list[range], mix: str
) -> None:
    monkeypatch.setattr(packing, "MOST_FILES", 4)
    monkeypatch.setattr(packing, "COPIED_BYTES", 100)  # so that a file is copied in several steps
    (tmp_path / "packed").mkdir()
    manifest = stored(tmp_path, 5, parts, mix)
    packed = packing.pack(tmp_path, manifest, tmp_path / "packed", packing.groups(manifest))
    assert len(packed.files) <= 4 and packed.version == 2
    before, after = (
        SoftLabels(one, lambda name, folder=folder: folder / name)
        for one, folder in ((manifest, tmp_path), (packed, tmp_path / "packed"))
    )
    indices = torch.tensor([6, 0, 3, 3])
    for epoch in range(5):
        assert torch.equal(before.order(epoch), after.order(epoch))
        assert torch.equal(before.logits(epoch, indices), after.logits(epoch, indices))
        assert str(before.views(epoch)) == str(after.views(epoch))


def test_packing_needs_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "MOST_FILES", 1)
    monkeypatch.setattr(packing, "COPIED_BYTES", 100_000)
    (tmp_path / "packed").mkdir()
    views, order, logits = an_epoch(60_000, 3, "none")
    files = []
    for epoch in range(3):
        path, rows = tmp_path / f"epoch-{epoch}", range(60_000)
        with write_epoch_file(path, epoch, rows, views, order, encoding_of("float16", 3)) as append:
            append(torch.arange(60_000), logits)
        size = path.stat().st_size
        files.append(LabelFile(name=path.name, epoch=epoch, rows=(0, 60_000), bytes=size, sha256=""))
    manifest = replace(fake_manifest(60_000, 3, "none", files), epochs=3)
    tracemalloc.start()
    packing.pack(tmp_path, manifest, tmp_path / "packed", packing.groups(manifest))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 500_000 < manifest.files[0].bytes


def test_a_dataset_with_many_epochs_is_published_in_few_files(
    hub: Hub, finished: Path, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "MOST_FILES", 1)
    monkeypatch.setenv("HF_TOKEN", "hf_alice")
    expected = load_condensed(finished / "dataset")
    with contextlib.redirect_stdout(io.StringIO()):
        publish(Run(load_recipe(own, [f"run.root={own.parent}", "publish.repo_id=alice/packed"])))
    names = HUB.state()["repos"]["datasets/alice/packed"]["refs"]["main"]["files"]
    assert [name for name in names if name.endswith(".safetensors")] == ["soft_labels/epochs-00000-00001.safetensors"]
    published = load_condensed("alice/packed")
    assert published.manifest.version == 2 and len(published) == len(expected) == 2
    for epoch in range(2):
        for row in range(len(expected[epoch])):
            for key, value in expected[epoch][row].items():
                assert torch.equal(published[epoch][row][key], value)
    assert verify_dataset("alice/packed").passed
    assert "several epochs per file" in (own / "dataset" / "README.md").read_text()
    assert (own / "packed_labels").is_dir() and (own / "soft_labels" / "epoch-00001.safetensors").is_file()


BAD = {
    "version 1 with several epochs": {"version": 1},
    "an epoch too many": {"epochs": 3},
    "no epoch": {"files.0.epochs": 0},
    "epochs without end": {"epochs": 2**31 - 1, "files.0.epochs": 2**31 - 1},
    "the name of a path": {"files.0.name": "epochs-00000-../x.safetensors"},
    "epochs twice": {"files.1.epoch": 0},
}


@pytest.mark.parametrize("case", BAD)
def test_a_manifest_that_contradicts_itself_is_refused(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.setattr(packing, "MOST_FILES", 0)
    manifest = read_manifest(own / "soft_labels" / "manifest.json")
    packing.pack(own / "soft_labels", manifest, tmp_path, [[file] for file in manifest.files])
    values = read_json(tmp_path / "manifest.json")
    assert values == manifest_values(read_manifest(tmp_path / "manifest.json")) and values["files"][0]["epochs"] == 1
    for path, value in BAD[case].items():
        *above, key = path.split(".")
        below = values[above[0]][int(above[1])] if above else values
        below[key] = value
    if case == "version 1 with several epochs":
        values["files"] = [values["files"][0] | {"epochs": 2}]
    write_json(tmp_path / "manifest.json", values)
    with pytest.raises(UserError, match="not a valid manifest"):
        read_manifest(tmp_path / "manifest.json")
