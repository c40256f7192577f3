"""Loading from the Hub: only what is needed, when it is needed, checked, and never an older state in silence."""

import shutil
import time
import warnings
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from conftest import ROOT, branch
from local_hub.client import Hub
from torch.utils.data import DataLoader

from srel_hub import load_condensed
from srel_hub.config import load_recipe
from srel_hub.errors import UnavailableError, UserError
from srel_hub.evaluate import evaluate
from srel_hub.labels.verify import verify
from srel_hub.relabel import relabel
from srel_hub.reports.assemble import assemble
from srel_hub.runs.run import Run


DATASET = "alice/colors"


@pytest.fixture(scope="module")
def assembled(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the finished run with its two folders to publish and four epochs of labels."""
    run_folder = tmp_path_factory.mktemp("assembled") / "colors"
    for part in ("teacher", "images", "units/squeeze", "units/recover"):
        shutil.copytree(finished / part, run_folder / part)
    overrides = ["relabel.epochs=4", "source.eval_split=null", f"publish.repo_id={DATASET}"]
    run = Run(load_recipe(finished / "recipe.yaml", [f"run.root={run_folder.parent}", *overrides]))
    relabel(run)
    evaluate(run)
    assemble(run.folder, run.recipe, run.folder, run.progress)
    return run_folder


@pytest.fixture
def shared(hub: Hub, assembled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """Return a Hub with the dataset and its teacher; the cache is empty."""
    put(hub, assembled)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    hub.faults()
    return hub


def put(hub: Hub, run_folder: Path) -> None:
    hub.put("datasets", DATASET, run_folder / "dataset")
    hub.put("models", f"{DATASET}-teacher", run_folder / "teacher_repo")
    for kind, name in (("datasets", DATASET), ("models", f"{DATASET}-teacher")):
        hub.tag(kind, name, "v1.0")


def downloaded(hub: Hub) -> list[str]:
    """Return the files that were requested, without repetitions."""
    paths = [
        entry["path"].split("/resolve/")[1].split("/", 1)[1] for entry in hub.log() if "/resolve/" in entry["path"]
    ]
    return list(dict.fromkeys(paths))


def test_opening_downloads_no_labels_and_each_epoch_its_own(shared: Hub) -> None:
    condensed = load_condensed(DATASET)
    assert downloaded(shared) == ["soft_labels/manifest.json", "README.md", "data/train-00000-of-00001.parquet"]
    shared.faults()
    condensed[2]
    assert downloaded(shared) == ["soft_labels/epoch-00002.safetensors"]


def test_the_next_epoch_is_fetched_while_this_one_trains(shared: Hub) -> None:
    epochs = iter(load_condensed(DATASET))
    shared.faults()
    next(epochs)
    for _ in range(100):  # nothing asks for the second epoch but the first one's training
        if "soft_labels/epoch-00001.safetensors" in downloaded(shared):
            break
        time.sleep(0.05)
    assert downloaded(shared) == [f"soft_labels/epoch-0000{epoch}.safetensors" for epoch in (0, 1)]
    assert len(list(epochs)) == 3


def test_a_pool_is_cycled_and_downloaded_once(shared: Hub) -> None:
    condensed = load_condensed(DATASET, epochs=9)
    shared.faults()
    first, *_, last = [epoch.batch(torch.arange(9)) for epoch in condensed]
    assert torch.equal(first[0], last[0]) and torch.equal(first[1], last[1])
    assert sum("/_cdn/" in entry["path"] for entry in shared.log()) == 4


def test_the_price_is_told_before_anything_large_comes(
    shared: Hub, assembled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {path.name: path.stat().st_size for path in (assembled / "dataset").rglob("*.*")}
    labels = sum(size for name, size in sizes.items() if name in ("epoch-00000.safetensors", "epoch-00001.safetensors"))
    condensed = load_condensed(DATASET, epochs=2)
    assert condensed.download_bytes == labels + sizes["train-00000-of-00001.parquet"]
    said = capsys.readouterr().err
    assert " to download: " in said and "during the training of 2 stored epochs" in said
    list(condensed)
    assert load_condensed(DATASET, epochs=2).download_bytes == 0
    assert "to download" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["manifest.json", "README.md", "_cdn"])
def test_a_file_damaged_on_its_way_is_fetched_again(shared: Hub, assembled: Path, name: str) -> None:
    shared.faults({"kind": "corrupt", "method": "GET", "path": name})
    condensed = load_condensed(DATASET)
    own = load_condensed(assembled / "dataset")
    for epoch, ours in zip(condensed, own, strict=True):
        for one, other in zip(epoch.batch(torch.arange(9)), ours.batch(torch.arange(9)), strict=True):
            assert torch.equal(one, other)
    assert [entry["fault"] for entry in shared.log()].count("corrupt") == 1


def test_a_file_that_is_damaged_each_time_is_refused_by_name(shared: Hub) -> None:
    condensed = load_condensed(DATASET)
    shared.faults({"kind": "corrupt", "method": "GET", "path": "_cdn", "times": 9})
    with pytest.raises(UserError, match="epoch-00003.safetensors was downloaded twice, and was damaged both times"):
        condensed[3]


def test_what_was_cached_works_without_the_hub_and_says_which_commit_it_is(shared: Hub) -> None:
    for epoch in load_condensed(DATASET):
        epoch.batch(torch.arange(9))
    load_condensed(DATASET).teacher()
    commit = shared.state()["repos"][f"datasets/{DATASET}"]["refs"]["main"]["sha"]
    shared.faults({"kind": "503", "times": 999})
    with pytest.warns(UserWarning, match=f"using the cached {DATASET}, in which main was commit {commit[:7]}"):
        condensed = load_condensed(DATASET)
    with pytest.warns(UserWarning, match=f"the cached {DATASET}-teacher, in which v1.0 was commit"):
        assert condensed.teacher() is not None
    assert len([epoch.batch(torch.arange(9)) for epoch in condensed]) == 4


def test_an_older_state_is_never_served_in_silence(shared: Hub) -> None:
    """The Hub has moved on and is down: the cache has another revision than the one requested."""
    load_condensed(DATASET, revision="v1.0")
    shared.put_file("datasets", DATASET, "README.md", b"---\nlicense: mit\n---\n# Newer\n")
    shared.faults({"kind": "503", "times": 999})
    with pytest.raises(UnavailableError, match="the Hub responded with status 503"):
        load_condensed(DATASET)  # main was never seen
    with pytest.raises(UnavailableError):
        load_condensed(DATASET, revision="v1.1")
    with pytest.warns(UserWarning, match="v1.0 was commit"):
        load_condensed(DATASET, revision="v1.0")


def test_a_commit_that_is_partly_in_the_cache_is_completed(shared: Hub) -> None:
    commit = shared.state()["repos"][f"datasets/{DATASET}"]["refs"]["main"]["sha"]
    shared.faults({"kind": "page", "path": "parquet", "times": 99})
    with pytest.raises((UserError, UnavailableError)):
        load_condensed(DATASET, revision=commit)
    shared.faults()
    assert len(load_condensed(DATASET, revision=commit).pixels) == 9
    assert {check.name: check.passed for check in verify(DATASET, commit)}["files"]


@pytest.mark.parametrize(
    "name", ["data/train-00000-of-00001.parquet", "soft_labels/epoch-00000.safetensors", "model.safetensors"]
)
def test_a_clone_without_its_large_files_is_refused_by_the_first_one(
    assembled: Path, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "clone" / "dataset"
    shutil.copytree(assembled / "dataset", folder)
    shutil.copytree(assembled / "teacher_repo", folder.parent / "teacher_repo")
    file = folder.parent / "teacher_repo" / name if name == "model.safetensors" else folder / name
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1f\nsize 99\n")
    with pytest.raises(UserError, match=f"{file}: it is a Git LFS pointer instead of the file; run `git lfs pull`"):
        condensed = load_condensed(folder)
        _ = condensed[0].batch(torch.arange(2)), condensed.teacher()


def test_leaving_the_loop_does_not_wait_for_what_is_fetched(shared: Hub) -> None:
    epochs = iter(load_condensed(DATASET))
    shared.faults({"kind": "hold", "path": "epoch-00001", "times": 9})
    next(epochs)
    began = time.monotonic()
    epochs.close()  # type: ignore[attr-defined]
    assert time.monotonic() - began < 5


def test_a_damaged_cache_is_told_as_such_without_the_hub(shared: Hub, tmp_path: Path) -> None:
    load_condensed(DATASET)[0]
    (file,) = (tmp_path / "cache").rglob("epoch-00000.safetensors")
    content = file.resolve().read_bytes()
    file.resolve().write_bytes(content[:-4] + b"xxxx")
    shared.faults({"kind": "503", "times": 999})
    with pytest.warns(UserWarning), pytest.raises(UserError, match="epoch-00000.safetensors is damaged in the cache"):
        load_condensed(DATASET)[0]
    shared.faults()
    assert load_condensed(DATASET)[0] is not None  # downloaded again


def test_a_page_in_between_is_no_answer_of_a_hub(shared: Hub) -> None:
    shared.faults({"kind": "page", "path": "api/datasets", "times": 9})
    with pytest.raises(UnavailableError, match=r"unexpected response \(not from the Hub\)"):
        load_condensed(DATASET)


def test_a_gated_dataset_says_how_to_get_access(shared: Hub) -> None:
    shared.put_file("datasets", DATASET, "NOTES.md", b"", gated=True)
    with pytest.raises(
        UserError, match="the repository is gated; request access on its page on the Hub, then log in with"
    ):
        load_condensed(DATASET)


def test_a_local_folder_of_the_teachers_name_is_not_the_teacher(
    shared: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"{DATASET}-teacher").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert load_condensed(DATASET).teacher() is not None


def test_a_commit_in_the_cache_needs_no_warning(shared: Hub) -> None:
    commit = shared.state()["repos"][f"datasets/{DATASET}"]["refs"]["main"]["sha"]
    load_condensed(DATASET, revision=commit)
    shared.faults({"kind": "503", "times": 999})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_condensed(DATASET, revision=commit)


@pytest.mark.parametrize("token", [None, "hf_carol"])
def test_nobody_else_reads_what_is_private(
    hub: Hub, assembled: Path, monkeypatch: pytest.MonkeyPatch, token: str | None
) -> None:
    hub.put("datasets", DATASET, assembled / "dataset", private=True)
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(
        UserError,
        match=f"{DATASET}: there is no local folder of this name, and no dataset on the Hub that you may read",
    ):
        load_condensed(DATASET)


# Readers of other people


@pytest.mark.parametrize("mix", ["none", "cutmix", "mixup"])
def test_the_reader_without_srel_hub_gives_the_same_bits(
    recovered: tuple[Path, Path], tmp_path: Path, mix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    from read_without_srel_hub import read_epoch

    crop = "padded" if mix == "none" else "resized"
    augment = f"relabel.augment={{crop: {crop}, mix: {mix}, mix_alpha: 1}}"
    run = branch(recovered, tmp_path, "source.eval_split=null", augment)
    relabel(run)
    evaluate(run)
    dataset, _ = assemble(run.folder, run.recipe, run.folder, run.progress)
    condensed = load_condensed(dataset)
    for number in range(2):
        pixel_values, logits = read_epoch(dataset, number)
        ours = condensed[number].batch(torch.arange(9))
        assert np.array_equal(pixel_values, ours[0].numpy()) and np.array_equal(logits, ours[1].numpy())
        loader = DataLoader(condensed[number], batch_size=4)
        assert np.array_equal(pixel_values, torch.cat([batch["pixel_values"] for batch in loader]).numpy())


def test_the_reader_without_srel_hub_needs_no_srel_hub() -> None:
    text = (ROOT / "examples" / "read_without_srel_hub.py").read_text()
    assert "import srel_hub" not in text and "from srel_hub" not in text and "torch" not in text


@pytest.mark.parametrize("start_method", ["fork", pytest.param("spawn", marks=pytest.mark.long)])
def test_epochs_travel_to_workers_of_every_kind(assembled: Path, start_method: str) -> None:
    epoch = load_condensed(assembled / "dataset")[1]
    loader = DataLoader(epoch, batch_size=5, num_workers=1, multiprocessing_context=start_method)
    batches = [batch["logits"] for batch in loader]
    assert torch.equal(torch.cat(batches), epoch.batch(torch.arange(9))[1])
