"""Check on a GPU that the quickstart runs, that its dataset verifies, and that a killed run gives the same bytes.

    python benchmarks/gpu_resume.py [--out FOLDER] [--commit HASH]

A short run is killed with SIGKILL in the middle of recover and of evaluate, resumed each time, and compared with a run
that was not killed, in three settings:

- plain: as everybody runs it. A second run that is not killed shows what differs anyway.
- taught: the same, but all runs take the teacher of the first one, so that later stages are compared alone.
- exact: with PyTorch's deterministic algorithms.

Results are written to benchmarks/results/gpu-resume.json, and to FOLDER with a log. Runs are kept in runs/gpu_resume.
"""

import argparse
import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import measured
import torch
from safetensors.torch import load_file
from torch import Tensor

from srel_hub.config import load_recipe
from srel_hub.runs.shared_stages import borrow
from srel_hub.storage.condensed_table import decode_image, read_rows
from srel_hub.storage.files import read_json


ROOT = Path("runs/gpu_resume")
CHECKOUT = Path(__file__).resolve().parent.parent
NAME = "gpu-resume"
RECIPE = "quickstart"
SHORT = [  # five parts of recover, and a student that trains for longer than the 10 s between two checkpoints
    "pictures=false",
    "squeeze.epochs=5",
    "recover.stack=2",
    "relabel.epochs=50",
    "evaluate.seeds=1",
    "evaluate.baselines=false",
    "evaluate.epochs=1000",
    "run.cpu_threads=2",
]
PARTS = 5
PATIENCE = 240  # seconds for one run
EXACT = """
import runpy, sys, torch
torch.use_deterministic_algorithms(True, warn_only=True)
torch.backends.cudnn.benchmark = False
sys.argv = ["srel_hub", *sys.argv[1:]]
runpy.run_module("srel_hub", run_name="__main__")
"""
COMPARED = ("teacher", "images", "soft_labels", "evaluate")


class Runs:
    """Starts and kills commands of srel_hub, and keeps the end of their output.

    Args:
        changes: Overrides of all short runs.
    """

    def __init__(self, changes: Sequence[str]) -> None:
        self.changes = changes
        self.logs: dict[str, str] = {}
        self.killed: dict[str, dict[str, Any]] = {}

    def start(self, name: str, arguments: Sequence[str], exact: bool) -> "subprocess.Popen[bytes]":
        """Start a command in a process group of its own; its output is appended to the log `name`."""
        code = ["-c", EXACT] if exact else ["-m", "srel_hub"]
        path = os.pathsep.join([str(CHECKOUT), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
        if exact:
            environment["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # PyTorch requires it of deterministic matrix products
        with (ROOT / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, *code, *arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def finish(self, name: str, arguments: Sequence[str], exact: bool = False) -> None:
        """Run a command to its end.

        Raises:
            RuntimeError: If it fails or takes too long.
        """
        process = self.start(name, arguments, exact)
        try:
            status = process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            status = process.wait()
        if status != 0:
            raise RuntimeError(f"{name}: exit status {status}\n{self.output(name)[-3000:]}")

    def kill_when(self, name: str, arguments: Sequence[str], exact: bool, reached: Callable[[], bool]) -> None:
        """Run a command, and kill it once it has reached a point.

        Raises:
            RuntimeError: If it ends before, or takes too long.
        """
        process, until = self.start(name, arguments, exact), time.monotonic() + PATIENCE
        while not reached():
            if process.poll() is not None or time.monotonic() > until:
                os.killpg(process.pid, signal.SIGKILL) if process.poll() is None else None
                raise RuntimeError(f"{name}: ended before it could be killed\n{self.output(name)[-3000:]}")
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def output(self, name: str) -> str:
        """Return the output of a command, with only the last state of each progress bar."""
        text = (ROOT / f"{name}.log").read_text(errors="replace") if (ROOT / f"{name}.log").is_file() else ""
        return "\n".join(line.rsplit("\r", 1)[-1] for line in text.split("\n"))

    def short(self, name: str, exact: bool = False, lender: str | None = None) -> None:
        """Run the short run to its end."""
        self._borrow(name, lender)
        self.finish(name, self.arguments(name), exact)

    def short_killed(self, name: str, exact: bool = False, lender: str | None = None) -> None:
        """Run the short run, kill it in recover and in evaluate, and resume it each time."""
        folder, arguments = ROOT / name, self.arguments(name)
        self._borrow(name, lender)
        self.kill_when(name, arguments, exact, lambda: marks(folder, "recover") >= 2)
        parts = marks(folder, "recover")
        self.kill_when(name, arguments, exact, lambda: any(folder.glob("checkpoints/evaluate-*seed*")))
        self.killed[name] = {
            "recover_parts_done": f"{parts} of {PARTS}",
            "student_epochs_in_checkpoint": [
                checkpoint_epochs(file) for file in sorted(folder.glob("checkpoints/evaluate-*seed*"))
            ],
        }
        self.finish(name, arguments, exact)

    def arguments(self, name: str) -> list[str]:
        """Return the command line of the short run under a name."""
        return ["condense", RECIPE, *self.changes, f"name={name}", f"run.root={ROOT}"]

    def _borrow(self, name: str, lender: str | None) -> None:
        """Take the teacher of another run, but not its images."""
        if lender is None:
            return
        recipe = load_recipe(RECIPE, [*self.changes, f"name={name}", f"run.root={ROOT}"])
        only_teacher = ROOT / f"teacher-for-{name}" / lender
        ignored = shutil.ignore_patterns("images", "soft_labels", "evaluate", "dataset", "history", "processes")
        shutil.copytree(ROOT / lender, only_teacher, ignore=ignored, dirs_exist_ok=True)
        borrow(recipe, ROOT / name, [only_teacher])
        if not (ROOT / name / "units" / "squeeze" / "teacher.json").is_file():
            raise RuntimeError(f"{name}: no teacher was taken from {lender}")


def marks(folder: Path, stage: str) -> int:
    """Return the number of finished units of a stage."""
    return len(list((folder / "units" / stage).glob("*.json")))


def checkpoint_epochs(file: Path) -> int:
    """Return the number of finished epochs in a checkpoint of a student."""
    content = file.read_bytes()[32:]  # after the digest
    return len(torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")["curve"])


def compare(first: Path, second: Path) -> dict[str, Any]:
    """Compare the results of two runs: files that differ, and by how much."""
    report: dict[str, Any] = {}
    for part in COMPARED:
        files = [digests(run / part) for run in (first, second)]
        differing = sorted(
            name for name in files[0].keys() | files[1].keys() if files[0].get(name) != files[1].get(name)
        )
        report[part] = {"files": len(files[0]), "differing": len(differing), "examples": differing[:3]}
    report["identical"] = all(not report[part]["differing"] for part in COMPARED)
    weights = [load_file(run / "teacher" / "model.safetensors") for run in (first, second)]
    report["teacher"]["largest_difference"] = largest_difference(*weights)
    pixels = [torch.stack([decode_image(png) for png, _ in read_rows(run / "images")]) for run in (first, second)]
    apart = (pixels[0].int() - pixels[1].int()).abs()
    report["images"] |= {"differing_pixels": float((apart > 0).float().mean()), "largest_difference": int(apart.max())}
    labels = [logits(run / "soft_labels") for run in (first, second)]
    report["soft_labels"]["largest_difference"] = largest_difference(*labels)
    report["top1"] = [students(run / "evaluate") for run in (first, second)]
    return report


def digests(folder: Path) -> dict[str, str]:
    """Return the sha256 of every file by its path in the folder."""
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def logits(folder: Path) -> dict[str, Tensor]:
    """Return the stored logits of the first epoch."""
    return load_file(sorted(folder.glob("*.safetensors"))[0])


def students(folder: Path) -> list[float]:
    """Return the top-1 accuracy of every student."""
    return [read_json(file)["top1"] for file in sorted(folder.glob("*/metrics.json"))]


def largest_difference(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> float:
    """Return the largest absolute difference between tensors of the same name."""
    return max(float((first[name].double() - second[name].double()).abs().max()) for name in first)


def check_all(runs: Runs, report: dict[str, Any], write: Callable[[], None]) -> None:
    """Do all checks side by side. A failing one does not stop the others."""

    def checked(name: str, check: Callable[[], Any]) -> None:
        begun = time.monotonic()
        try:
            result = check()
        except Exception:
            result = {"error": traceback.format_exc()[-4000:]}
        report[name] = {"seconds": round(time.monotonic() - begun, 1), "result": result}
        print(f"{name}: {json.dumps(report[name])}", flush=True)
        write()

    def quickstart() -> Any:
        runs.finish("quickstart", ["condense", f"recipes/{RECIPE}.yaml", "name=quickstart", f"run.root={ROOT}"])
        return read_json(ROOT / "quickstart" / "evaluate" / "summary.json")["students"][0]["rows"]

    def verify(name: str) -> list[str]:
        runs.finish(f"verify-{name}", ["verify", str(ROOT / name / "dataset")])
        return [line for line in runs.output(f"verify-{name}").split("\n") if line.startswith(("ok", "all"))]

    def gpu_tests() -> str:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "gpu", "tests/core"]
        done = subprocess.run(
            command,
            cwd=CHECKOUT,
            env={**os.environ, "SREL_TEST_GPU": "1", "PYTHONPATH": os.environ.get("PYTHONPATH", "") + f":{CHECKOUT}"},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        return done.stdout[-1500:]

    def pair(setting: str, exact: bool, lender: str | None) -> list[str]:
        """Run and compare the runs of a setting; return the operations that PyTorch reports as not deterministic."""
        first = lender or f"{setting}-first"
        works = [] if lender else [(runs.short, first)]
        works += [(runs.short_killed, f"{setting}-killed")]
        works += [] if exact else [(runs.short, f"{setting}-second")]
        with ThreadPoolExecutor() as pool:
            for future in [pool.submit(do, name, exact, lender) for do, name in works]:
                future.result()
        others = [name for _, name in works if name != first]
        for name in others:
            checked(f"{first} and {name}", lambda name=name: compare(ROOT / first, ROOT / name))
        checked(f"verify {setting}-killed", lambda: verify(f"{setting}-killed"))
        return sorted(set(re.findall(r"(\S+) does not have a deterministic", runs.output(first))))

    def plain() -> None:
        checked("plain", lambda: pair("plain", False, None))
        checked("taught", lambda: pair("taught", False, "plain-first"))

    def first_hour() -> None:
        checked("quickstart", quickstart)
        checked("verify quickstart", lambda: verify("quickstart"))

    with ThreadPoolExecutor() as pool:
        futures = [
            pool.submit(first_hour),
            pool.submit(plain),
            pool.submit(checked, "exact", lambda: pair("exact", True, None)),
            pool.submit(checked, "GPU tests", gpu_tests),
        ]
        for future in futures:
            future.result()


def main() -> int:
    """Do all checks, and write the report after each."""
    parser = argparse.ArgumentParser(description="Check resuming on a GPU.")
    parser.add_argument("--change", action="append", default=[], metavar="section.key=value")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--commit")
    options = parser.parse_args()
    ROOT.mkdir(parents=True, exist_ok=True)
    facts = measured.machine()
    facts["commit"] = facts["commit"] or options.commit
    runs, report = Runs([*SHORT, *options.change]), dict[str, Any]()

    def write() -> None:
        text = json.dumps({**facts, "short_run": runs.changes, "killed": runs.killed, "results": report}, indent=2)
        for folder in filter(None, (measured.RESULTS, options.out)):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{NAME}.json").write_text(text + "\n")

    check_all(runs, report, write)
    if options.out is not None:
        with tarfile.open(options.out / f"{NAME}-logs.tar.gz", "w:gz") as archive:
            for log in sorted(ROOT.glob("*.log")):
                archive.add(log, log.name)
    failed = [
        name for name, entry in report.items() if isinstance(entry["result"], dict) and "error" in entry["result"]
    ]
    print(f"FAILED: {', '.join(failed)}" if failed else "every check ran")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
