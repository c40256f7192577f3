"""A stranger's side, over the real clients: load a published dataset by its id."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import branch

from srel_hub import load_condensed
from srel_hub.evaluate import evaluate
from srel_hub.publish import publish
from srel_hub.relabel import relabel


STRANGER = """
import json
from datasets import load_dataset
from srel_hub import load_condensed

images = load_dataset("org/colours")["train"]
condensed = load_condensed("org/colours", epochs=3)
first = condensed[0][4]
print(json.dumps({
    "rows": len(images),
    "pixel": first["pixel_values"].flatten()[:5].tolist(),
    "logits": first["logits"].tolist(),
    "teacher": condensed.teacher()(first["pixel_values"][None]).logits[0].tolist(),
}))
"""


@pytest.mark.parametrize("recovered", [(8, 8)], indirect=True, ids=["8x8"])
def test_a_stranger_loads_images_labels_and_teacher_by_id(recovered: tuple[Path, Path], tmp_path: Path) -> None:
    run = branch(recovered, tmp_path / "runs", "publish.repo_id=org/colours", "source.eval_split=null")
    relabel(run)
    evaluate(run)
    dataset, teacher_repo = publish(run)
    shutil.copytree(dataset, tmp_path / "hub/datasets/org/colours")
    shutil.copytree(teacher_repo, tmp_path / "hub/org/colours-teacher")
    hub = Path(__file__).parent / "read_only_hub.py"
    with subprocess.Popen([sys.executable, hub, tmp_path / "hub"], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            environment = {
                **{key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"},
                "HF_ENDPOINT": f"http://127.0.0.1:{server.stdout.readline().strip()}",
                "HF_HOME": str(tmp_path / "home"),
                "HF_HUB_DISABLE_XET": "1",
                "HF_HUB_DISABLE_TELEMETRY": "1",
                "HF_HUB_DISABLE_UPDATE_CHECK": "1",
                "HF_UPDATE_DOWNLOAD_COUNTS": "0",
                "DISABLE_SAFETENSORS_CONVERSION": "1",
                "NO_PROXY": "127.0.0.1,localhost",
            }
            command = [sys.executable, "-c", STRANGER]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, cwd=tmp_path)
        finally:
            server.terminate()
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    own = load_condensed(dataset)
    assert seen["rows"] == 9
    assert seen["pixel"] == own[0][4]["pixel_values"].flatten()[:5].tolist()
    assert seen["logits"] == own[0][4]["logits"].tolist()
    assert seen["teacher"] == pytest.approx(own[0][4]["logits"].tolist(), rel=2**-9, abs=2e-3)
    fetched = [path.name for path in (tmp_path / "home").rglob("epoch-*.safetensors")]
    assert set(fetched) == {"epoch-00000.safetensors"}  # the other epoch was not asked for
