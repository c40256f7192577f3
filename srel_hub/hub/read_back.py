"""Read back what was pushed, by commit and with an empty cache, and compare it with what was to be pushed.

The Hub's clients compare sizes only, and a cache would show us our own files; so nothing is called published before
this has been done.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import torch
from huggingface_hub import get_token, hf_hub_download
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from transformers import AutoModelForImageClassification

from srel_hub.core.augment import normalize
from srel_hub.errors import UserError
from srel_hub.hub.client import Kind, UnavailableError, local_file, retried, spoken
from srel_hub.hub.compare_rows import DIFFERENT
from srel_hub.hub.push import Part
from srel_hub.runs.run import Run
from srel_hub.storage.condensed_table import decode_image, read_parquet
from srel_hub.teachers import classifier as teacher


SAMPLE = 16  # images that the teacher is asked
HOMES = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_DATASETS_CACHE", "HF_XET_CACHE", "HF_ASSETS_CACHE")


def read_back(run: Run, dataset: Part, teacher_repo: Part, commits: Mapping[Kind, str]) -> None:
    """Every file by size and sha256; the rows that `load_dataset` gives; the teacher's logits on a sample.

    Raises:
        UserError: naming what differs.
        UnavailableError: where the Hub stays away.
    """
    for left in run.folder.glob(".read-back-*"):  # by a process that was killed
        shutil.rmtree(left)
    with tempfile.TemporaryDirectory(prefix=".read-back-", dir=run.folder) as home:
        work = [(part, name) for part in (teacher_repo, dataset) for name in part.files]
        for part, name in run.progress(work, len(work), "read back", "file"):
            retried(partial(_compare, part, name, commits[part.kind], Path(home)), run.print)
        retried(partial(_compare_rows, dataset, commits["dataset"], run.path("dataset"), Path(home)), run.print)
        retried(partial(_compare_logits, run, teacher_repo, commits["model"], Path(home)), run.print)


def _compare(part: Part, name: str, commit: str, home: Path) -> None:
    ours = part.files[name]
    with spoken(f"reading back {part}"), without_bars():
        file = Path(hf_hub_download(part.repo_id, name, repo_type=part.kind, revision=commit, cache_dir=home / "hub"))
    theirs = local_file(file)
    if (theirs.size, theirs.sha256) != (ours.size, ours.sha256):
        raise UserError(
            f"{part}: {name} comes back as {theirs.size} bytes with the sha256 {theirs.sha256}, sent were {ours.size} "
            f"with {ours.sha256}. Do not use commit {commit}; run the same command again, with a new publish.tag"
        )
    if name.startswith("soft_labels/epoch-"):  # the bulk of it, not needed any more
        file.resolve().unlink()
        file.unlink(missing_ok=True)


@contextlib.contextmanager
def without_bars() -> Iterator[None]:
    """One bar for all files instead of one each."""
    were_off = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not were_off:
            enable_progress_bars()


def _compare_rows(dataset: Part, commit: str, folder: Path, home: Path) -> None:
    token = get_token()
    environment = {name: value for name, value in os.environ.items() if name not in HOMES}
    environment |= {"HF_HOME": str(home), "HF_TOKEN": token or "", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    command = [sys.executable, "-m", "srel_hub.hub.compare_rows", dataset.repo_id, commit, str(folder.resolve())]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode == DIFFERENT:
        raise UserError(f"{dataset} at {commit}: load_dataset gives something else: {done.stdout.strip()}")
    if done.returncode != 0:
        reason = (done.stderr.strip() or "no reason given").splitlines()[-1]
        raise UnavailableError(f"load_dataset of {dataset} at {commit}: {reason}")


@torch.no_grad()
def _compare_logits(run: Run, part: Part, commit: str, home: Path) -> None:
    ours = teacher.load(run.path("teacher_repo"), torch.device("cpu"))
    with spoken(f"reading back {part}"), without_bars():
        theirs = AutoModelForImageClassification.from_pretrained(
            part.repo_id, revision=commit, cache_dir=home / "hub", dtype=torch.float32, trust_remote_code=False
        )
    rows = read_parquet(next(iter(sorted(run.path("dataset", "data").glob("*.parquet")))))
    pixels = torch.stack([decode_image(png) for (png, _), _ in zip(rows, range(SAMPLE), strict=False)])
    x = normalize(pixels, ours.table(torch.device("cpu")))
    if not torch.equal(ours.model(x).logits, theirs.eval()(x).logits):
        raise UserError(f"{part} at {commit}: its logits are not those of the teacher that was sent")
