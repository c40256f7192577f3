"""Read back the pushed repositories, by commit and with an empty cache, and compare them with the local files.

The Hub's clients compare sizes only, and a cache would return the local files. Therefore a push is reported as
published only after it was read back.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from huggingface_hub import get_token, hf_hub_download
from transformers import AutoModelForImageClassification

from srel_hub.core.augment import normalize
from srel_hub.errors import UnavailableError, UserError
from srel_hub.hub.client import Kind, hide_progress_bars, hub_errors, local_file, retried
from srel_hub.hub.compare_rows import DIFFERENT
from srel_hub.hub.push import Say
from srel_hub.hub.push_plan import Part, Progress
from srel_hub.storage.condensed_table import decode_image, read_parquet
from srel_hub.teachers import classifier as classifiers
from srel_hub.teachers.class_subset import complete


RETRY = "Do not use this commit; publish again with a new publish.tag"
SAMPLE = 16  # images whose logits are compared
CACHE_VARIABLES = (
    "HF_HUB_CACHE",
    "HUGGINGFACE_HUB_CACHE",
    "HF_DATASETS_CACHE",
    "HF_XET_CACHE",
    "HF_ASSETS_CACHE",
)  # that would move a cache out of HF_HOME


def read_back(
    dataset: Part, teacher: Part, commits: Mapping[Kind, str], folder: Path, say: Say, progress: Progress
) -> None:
    """Compare every file's size and sha256, the rows of `load_dataset`, and the teacher's logits on a few images.

    Args:
        dataset: The files that were pushed to the dataset's repository.
        teacher: The files that were pushed to the teacher's repository.
        commits: The commit of each push.
        folder: The run directory, with the local `dataset` and `teacher_repo`. The empty cache is created in it.
        say: Prints a message before a retry.
        progress: Shows a progress bar.

    Raises:
        UserError: If anything differs. The message describes the first difference.
        UnavailableError: If the Hub stays unavailable.
    """
    for leftover in folder.glob(".read-back-*"):  # of a process that was killed
        shutil.rmtree(leftover)
    with tempfile.TemporaryDirectory(prefix=".read-back-", dir=folder) as home:
        work = [(part, name) for part in (teacher, dataset) for name in part.files]
        for part, name in progress(work, len(work), "read back", "file"):
            retried(partial(_compare_file, part, name, commits[part.kind], Path(home)), say)
        retried(partial(_compare_rows, dataset, commits["dataset"], folder / "dataset", Path(home)), say)
        retried(partial(_compare_logits, teacher, commits["model"], folder, Path(home)), say)


def _compare_file(part: Part, name: str, commit: str, home: Path) -> None:
    local = part.files[name]
    with hub_errors(f"reading back {part}"), hide_progress_bars():
        path = Path(hf_hub_download(part.repo_id, name, repo_type=part.kind, revision=commit, cache_dir=home / "hub"))
    remote = local_file(path)
    if (remote.size, remote.sha256) != (local.size, local.sha256):
        raise UserError(
            f"{part}: {name} was read back as {remote.size} bytes with the sha256 {remote.sha256}, but {local.size} "
            f"bytes with {local.sha256} were sent at commit {commit}. {RETRY}"
        )
    if name.startswith("soft_labels/epoch"):  # most of the bytes, and no later comparison needs them
        path.resolve().unlink()
        path.unlink(missing_ok=True)


def _compare_rows(dataset: Part, commit: str, folder: Path, home: Path) -> None:
    token = get_token()
    environment = {name: value for name, value in os.environ.items() if name not in CACHE_VARIABLES}
    environment |= {"HF_HOME": str(home), "HF_TOKEN": token or "", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    command = [sys.executable, "-m", "srel_hub.hub.compare_rows", dataset.repo_id, commit, str(folder.resolve())]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode == DIFFERENT:
        raise UserError(
            f"{dataset} at {commit}: load_dataset returns rows that differ from those sent: {done.stdout.strip()}. "
            f"{RETRY}"
        )
    if done.returncode != 0:
        reason = (done.stderr.strip() or "no reason given").splitlines()[-1]
        raise UnavailableError(f"load_dataset cannot read {dataset} at {commit}: {reason}")


@torch.no_grad()
def _compare_logits(teacher: Part, commit: str, folder: Path, home: Path) -> None:
    local = complete(classifiers.load(folder / "teacher_repo", torch.device("cpu")))
    with hub_errors(f"reading back {teacher}"), classifiers.hide_loading_bars():
        remote = AutoModelForImageClassification.from_pretrained(
            teacher.repo_id, revision=commit, cache_dir=home / "hub", dtype=torch.float32, trust_remote_code=False
        )
    rows = read_parquet(next(iter(sorted((folder / "dataset" / "data").glob("*.parquet")))))
    pixels = torch.stack([decode_image(png) for (png, _), _ in zip(rows, range(SAMPLE), strict=False)])
    x = normalize(pixels, local.table(torch.device("cpu")))
    if not torch.equal(local.model(x).logits, remote.eval()(x).logits):
        raise UserError(f"{teacher} at {commit}: the logits differ from those of the teacher that was sent. {RETRY}")
