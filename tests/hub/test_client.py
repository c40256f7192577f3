"""Another user loads a published dataset by its id, with the real clients."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import httpx2
import huggingface_hub
import pytest
import torch
from conftest import ROOT, as_user, branch, make_source
from families import save_family
from huggingface_hub.utils._http import default_client_factory, get_session
from huggingface_hub.utils.tqdm import are_progress_bars_disabled
from local_hub.client import Hub

from srel_hub import load_condensed
from srel_hub.evaluate import evaluate
from srel_hub.hub.client import TIMEOUT, account, hide_progress_bars, timeouts
from srel_hub.relabel import relabel
from srel_hub.reports.assemble import assemble
from srel_hub.storage.condensed_table import encode_png


ANOTHER_USER = """
import json
import os
import subprocess
import sys
from datasets import load_dataset
from srel_hub import load_condensed

images = load_dataset("org/colors")["train"]
condensed = load_condensed("org/colors", epochs=3)
first = condensed[0][4]
print(json.dumps({
    "rows": len(images),
    "pixel": first["pixel_values"].flatten()[:5].tolist(),
    "logits": first["logits"].tolist(),
    "teacher": condensed.teacher()(first["pixel_values"][None]).logits[0].tolist(),
}))
"""


@pytest.mark.parametrize("recovered", [(8, 8)], indirect=True, ids=["8x8"])
def test_another_user_loads_images_labels_and_teacher_by_id(
    recovered: tuple[Path, Path], tmp_path: Path, hub: Hub
) -> None:
    run = branch(
        recovered, tmp_path / "runs", "publish.repo_id=org/colors", "publish.tag=null", "source.eval_split=null"
    )
    relabel(run)
    evaluate(run)
    dataset, teacher_repo = assemble(run.folder, run.recipe, run.folder, run.progress)
    hub.put("datasets", "org/colors", dataset)
    hub.put("models", "org/colors-teacher", teacher_repo)
    done = as_user(tmp_path / "home", None, "-c", ANOTHER_USER, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    own = load_condensed(dataset)
    assert seen["rows"] == 9
    assert seen["pixel"] == own[0][4]["pixel_values"].flatten()[:5].tolist()
    assert seen["logits"] == own[0][4]["logits"].tolist()
    assert seen["teacher"] == pytest.approx(own[0][4]["logits"].tolist(), rel=2**-9, abs=2e-3)
    fetched = [path.name for path in (tmp_path / "home").rglob("epoch-*.safetensors")]
    assert set(fetched) == {"epoch-00000.safetensors"}  # the other epoch was not requested


OPEN = """
import json
import os
import subprocess
import sys
from srel_hub.teachers.pretrained import load_pretrained
from srel_hub.config import Pretrained
from srel_hub.config import Source
from srel_hub.data.sources import open_source

spec = Source(path="org/pictures", eval_split="test", streaming=STREAMING, revision="main")
opened = open_source(spec, lambda items, total, title, unit: iter(items), train=False)
classifier, origin = load_pretrained(Pretrained(path="org/net", revision="main"), "squeeze.pretrained")
images = opened.eval.images(None)
print(json.dumps([opened.class_names, len(images.pixels), origin.path, origin.revision, classifier.class_names]))
"""


@pytest.mark.parametrize("streaming", [False, pytest.param(True, marks=pytest.mark.long)])
def test_of_a_hub_dataset_only_the_wanted_split_is_downloaded(tmp_path: Path, streaming: bool, hub: Hub) -> None:
    names = ["ant", "bee", "cat"]
    hub.put("datasets", "org/pictures", make_source(tmp_path / "pictures", (8, 8), names))
    hub.put_file("datasets", "org/pictures", "README.md", b"# Pictures\n")
    save_family("resnet", tmp_path / "net", names)
    hub.put("models", "org/net", tmp_path / "net")
    done = as_user(tmp_path / "home", None, "-c", OPEN.replace("STREAMING", str(streaming)), cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    commit = hub.state()["repos"]["models/org/net"]["refs"]["main"]["sha"]
    assert json.loads(done.stdout.splitlines()[-1]) == [names, 36, "org/net", commit, names]
    fetched = {path.name for path in (tmp_path / "home").rglob("*") if path.is_file() or path.is_symlink()}
    assert "train.parquet" not in fetched and ("test.parquet" in fetched) == (not streaming)


FOLDERS = """
import json
import os
import subprocess
import sys
from srel_hub.config import Source
from srel_hub.data.sources import open_source

spec = Source(path="org/folders", eval_split="test")
opened = open_source(spec, lambda items, total, title, unit: iter(items), train=TRAIN)
splits = [split for split in (opened.train, opened.eval) if split is not None]
content = [(split.labels.tolist(), split.images(None).pixels[:, 0, 0, 0].tolist()) for split in splits]
print(json.dumps([opened.class_names, content]))
"""


@pytest.mark.parametrize("train", [False, pytest.param(True, marks=pytest.mark.long)])
def test_class_folders_on_the_hub_are_read_and_unwanted_splits_left_there(
    tmp_path: Path, train: bool, hub: Hub
) -> None:
    for split, gray in (("train", 10), ("test", 90)):
        for label, name in enumerate(("ant", "bee")):
            picture = encode_png(torch.full((3, 4, 4), gray + label, dtype=torch.uint8))
            hub.put_file("datasets", "org/folders", f"{split}/{name}/x.png", picture)
    done = as_user(tmp_path / "home", None, "-c", FOLDERS.replace("TRAIN", str(train)), cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    expected = [[[0, 1], [10, 11]], [[0, 1], [90, 91]]][0 if train else 1 :]
    assert json.loads(done.stdout.splitlines()[-1]) == [["ant", "bee"], expected]
    fetched = [path for path in (tmp_path / "home").rglob("*") if path.name.endswith(".png")]
    assert len(fetched) == (4 if train else 0)


@pytest.mark.parametrize("variable", ["HF_ENDPOINT=https://huggingface.co", "HUGGINGFACE_CO_STAGING=1"])
def test_the_suite_does_not_start_with_a_hub_that_is_not_loopback(variable: str) -> None:
    name, value = variable.split("=")
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "tests/test_layers.py"]
    environment = {**os.environ, name: value}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode != 0 and "these tests push" in done.stdout + done.stderr


def test_timeouts_are_scoped_and_give_the_users_client_back(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_alice")

    def own_factory() -> httpx2.Client:
        return httpx2.Client(timeout=7.0, follow_redirects=True)

    huggingface_hub.set_client_factory(own_factory)
    try:
        with timeouts(), timeouts():
            assert get_session().timeout.read == TIMEOUT
        owner = account()
        assert owner is not None and owner.name == "alice"
        assert get_session().timeout.read == 7.0
    finally:
        huggingface_hub.set_client_factory(default_client_factory)


@pytest.mark.parametrize("hidden", [False, True])
def test_progress_bars_are_hidden_and_restored(hidden: bool) -> None:
    with hide_progress_bars() if hidden else contextlib.nullcontext():
        before = are_progress_bars_disabled()
        with hide_progress_bars():
            assert are_progress_bars_disabled()
        assert are_progress_bars_disabled() == before == hidden
