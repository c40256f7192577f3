"""Everything to check on a GPU that is available for minutes only, step by step.

    python benchmarks/gpu_session.py [--seconds 540] [--out FOLDER] [--commit HASH] [--cpu-dataset FOLDER]

Runs, verifies, tests and times. A failing step does not stop the next ones. Finished steps are skipped, so the same
command resumes. Everything is stored in runs/gpu_session: session.json has the status of each step, session.log the end
of its output. Results are also copied to FOLDER. HASH names the commit on a machine without .git. --cpu-dataset is the
dataset folder of a run made on a CPU, with its teacher_repo beside it.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


ROOT = Path(__file__).parent.parent
SESSION = ROOT / "runs" / "gpu_session"
RESULTS = ROOT / "benchmarks" / "results"
LOGGED_CHARACTERS = 12_000  # characters of a step's output, in session.log
SHORTEST = 8  # seconds that a step is begun with
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1", "-m"]
FACTS = """
import importlib.metadata as found, subprocess, sys, torch
subprocess.run(["nvidia-smi"])
print(sys.version)
for name in ("torch", "transformers", "accelerate", "datasets", "huggingface_hub", "numpy", "pillow", "pyarrow",
             "pydantic", "scikit-learn", "matplotlib", "triton", "pytest", "pytest-timeout", "pytest-xdist"):
    try:
        print(name, found.version(name))
    except found.PackageNotFoundError:
        print(name, "is missing")
print(torch.cuda.get_device_name(), torch.version.cuda, torch.backends.cudnn.version())
print("tf32 of convolutions and matrix products:", torch.backends.cudnn.allow_tf32,
      torch.backends.cuda.matmul.allow_tf32)
import sklearn.datasets, matplotlib
import srel_hub.condense
from srel_hub.core.engine import best_precision
print("best precision:", best_precision())
"""
TINY = ["pictures=false", "squeeze.epochs=3", "recover.iterations=20"]
TINY_STUDENT = "evaluate={students: [{model: convnet}], seeds: 1, epochs: 3, batch_size: 20}"
KNOBS = [  # what the quickstart does not do
    "pictures=false",
    "precision=bfloat16",
    "squeeze.epochs=20",
    "squeeze.network={model: resnet18, width: 0.25}",
    "squeeze.augment={crop: resized, mix: cutmix}",
    "recover={ipc: 10, iterations: 100, crop: resized, flip: true, roll: [0, 2], tv_weight: 0.001, "
    "l2_weight: 0.001, bn_weight: auto}",
    "relabel={epochs: 3, group_size: 8, encoding: topk, top_k: 3, augment: {mix: cutmix}}",
    "evaluate={students: [{model: resnet18, width: 0.25}], seeds: 1, epochs: 3, batch_size: 24, groups: true, "
    "scores: true, ema: 0.9}",
]


@dataclass(frozen=True)
class Step:
    """A command, in the repository, and the seconds that it may take."""

    name: str
    most: float
    command: Sequence[str]


def run_named(name: str, *overrides: str) -> list[str]:
    return ["recipes/quickstart.yaml", f"name={name}", f"run.root={SESSION}", *overrides]


def steps(cpu_dataset: str | None) -> list[Step]:
    def module(*arguments: str) -> list[str]:
        return [sys.executable, "-m", *arguments]

    def cost(name: str, *more: str) -> list[str]:
        return module("srel_hub", "measure", "--iterations", "50", "--json", str(SESSION / f"{name}.json"), *more)

    def condense(*arguments: str) -> list[str]:
        return module("srel_hub", "condense", *arguments)

    def verify(name: str) -> list[str]:
        return module("srel_hub", "verify", str(SESSION / name / "dataset"))

    cases = [sys.executable, __file__, "--cases"]
    found = [
        Step("facts", 60, [sys.executable, "-c", FACTS]),
        Step("quickstart", 150, condense(*run_named("quickstart"))),
        Step("verify quickstart", 60, verify("quickstart")),
        Step("GPU tests", 60, module("pytest", "-q", "-k", "gpu", "tests/core/test_augment.py")),
        Step("knobs", 90, LAUNCH + ["srel_hub.condense", *run_named("knobs", *KNOBS)]),
        Step("verify knobs", 60, verify("knobs")),
        Step("cost", 90, cost("cost-gpu")),
        Step("cost in float32", 90, cost("cost-gpu-float32", "--precision", "float32")),
        Step("cases", 240, [*cases, "plain"]),
        Step(
            "compiled",
            150,
            condense(*run_named("compiled", *TINY, "relabel.epochs=3", TINY_STUDENT, "run.compile=true")),
        ),
        Step("quickstart in float32", 90, condense(*run_named("float32", "precision=float32", "pictures=false"))),
        Step("verify float32", 60, verify("float32")),
        Step("cases compiled", 240, [*cases, "compiled"]),
        Step("cost compiled", 120, cost("cost-gpu-compiled", "--compile")),
        Step("continual", 60, module("srel_hub", "continual", str(SESSION / "quickstart"), "--steps", "2")),
        Step(
            "all tests",
            300,
            module("pytest", "-q", "-m", "not long", "--numprocesses", "12", "--dist", "loadfile", "--tb", "short"),
        ),
    ]
    if cpu_dataset is not None:
        found.insert(6, Step("verify one of a CPU", 60, module("srel_hub", "verify", cpu_dataset)))
    return found


class Session:
    """How each step ended, and what it printed."""

    def __init__(self, out: Path | None, commit: str | None) -> None:
        SESSION.mkdir(parents=True, exist_ok=True)
        self.out, self.commit, self.file = out, commit, SESSION / "session.json"
        self.done: dict[str, Any] = json.loads(self.file.read_text()) if self.file.is_file() else {}
        measured, kept = RESULTS / "gpu.json", SESSION / "gpu.json"
        if kept.is_file() and not measured.is_file():
            measured.write_bytes(kept.read_bytes())

    def work(self, step: Step, left: float) -> bool:
        """Whether the step ended well; one that was cut short by the session's end is done again."""
        print(f"=== {step.name}", flush=True)
        begun, most = time.monotonic(), min(step.most, left)
        log = SESSION / f"{step.name.replace(' ', '-')}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                step.command,
                cwd=ROOT,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                status: int | str = process.wait(most)
            except subprocess.TimeoutExpired:
                status = "cut short" if most < step.most else "too slow"
                stop(process)
        seconds = round(time.monotonic() - begun, 1)
        said = shown(log.read_bytes().decode(errors="replace"))
        self.done[step.name] = {"status": status, "seconds": seconds}
        self.file.write_text(json.dumps(self.done, indent=2) + "\n")
        with (SESSION / "session.log").open("a") as whole:
            whole.write(f"=== {step.name}: {status}, {seconds} s\n{said[-LOGGED_CHARACTERS:]}\n\n")
        print(said[-600 if status == 0 else -2500 :] + f"\n--- {step.name}: {status}, {seconds} s", flush=True)
        self.hand_out()
        return status == 0

    def hand_out(self) -> None:
        """Results to the folder that is taken away: few files."""
        measured = RESULTS / "gpu.json"
        if measured.is_file():
            (SESSION / "gpu.json").write_bytes(measured.read_bytes())
        if self.out is None:
            return
        for file in (self.file, SESSION / "session.log"):
            if file.is_file():
                (self.out / file.name).write_bytes(file.read_bytes())
        for name in ("gpu", "cost-gpu", "cost-gpu-float32", "cost-gpu-compiled"):
            if (SESSION / f"{name}.json").is_file():
                result = json.loads((SESSION / f"{name}.json").read_text())
                result["commit"] = result["commit"] or self.commit
                (self.out / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")

    def pack(self) -> None:
        """The runs and the whole logs, as one archive."""
        if self.out is not None:
            with tarfile.open(self.out / "runs.tar.gz", "w:gz") as archive:
                archive.add(SESSION, "gpu_session", filter=lambda item: None if "/checkpoints" in item.name else item)


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "COLUMNS": "110"}


def stop(process: "subprocess.Popen[bytes]") -> None:
    """The process and its own, first politely."""
    for number, patience in ((signal.SIGTERM, 5), (signal.SIGKILL, 5)):
        try:
            os.killpg(process.pid, number)
            process.wait(patience)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def shown(text: str) -> str:
    """As a terminal leaves it: of a bar only its last state."""
    return "\n".join(line.rsplit("\r", 1)[-1] for line in text.replace("\r\n", "\n").rstrip().split("\n"))


def measure_cases(kind: str) -> int:
    """Those of benchmarks/all.py, plain or compiled; one that fails does not stop the others."""
    import measured
    import pipeline
    import recover
    import relabel
    import train

    all_cases: dict[str, Callable[[], dict[str, Any]]] = (
        recover.cases() | relabel.cases() | train.cases() | pipeline.cases()
    )
    failed = 0
    for name, case in all_cases.items():
        if name.endswith(" compiled") is (kind == "compiled"):
            begun = time.monotonic()
            try:
                measured.run("gpu" if measured.DEVICE.type == "cuda" else "cpu-session", {name: case})
            except Exception:
                failed += 1
                print(f"FAILED: {name}", flush=True)
                traceback.print_exc()
            print(f"{name}: {time.monotonic() - begun:.1f} s", flush=True)
    return 1 if failed else 0


def main() -> int:
    parser = argparse.ArgumentParser(description="What has to be seen on a GPU.")
    parser.add_argument("--seconds", type=float, default=540)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--commit")
    parser.add_argument("--cpu-dataset")
    parser.add_argument("--cases", choices=("plain", "compiled"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.cases is not None:
        return measure_cases(asked.cases)
    end, session = time.monotonic() + asked.seconds, Session(asked.out, asked.commit)
    for step in steps(asked.cpu_dataset):
        again = ("cut short", "too slow") if step.name.startswith("cases") else ("cut short",)
        if step.name in session.done and session.done[step.name]["status"] not in again:
            continue
        left = end - time.monotonic() - SHORTEST
        if left < SHORTEST:
            print(f"out of time before {step.name}; the same command goes on from here")
            break
        if not session.work(step, left) and step.name == "facts":
            session.done.clear()
            session.file.write_text("{}\n")
            break  # nothing else could work
    session.pack()
    print(json.dumps(session.done))
    return 0


if __name__ == "__main__":
    sys.exit(main())
