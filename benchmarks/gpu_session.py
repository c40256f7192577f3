"""Run every check that needs a GPU, step by step, on one that is available for minutes only.

    python benchmarks/gpu_session.py [--seconds 540] [--out FOLDER] [--commit HASH] [--cpu-dataset FOLDER]

Runs the pipeline, verifies, tests and times. A failing step does not stop the next ones. Finished steps are skipped, so
the same command resumes. Everything is stored in runs/gpu_session: session.json has the status of each step,
session.log the end of its output. Results are also copied to FOLDER. HASH names the commit on a machine without .git.
--cpu-dataset is the dataset folder of a run made on a CPU, with its teacher_repo beside it.
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
SHORTEST = 8  # seconds; with less time left no step is begun
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1", "-m"]
FACTS = """
import importlib.metadata as metadata, subprocess, sys, torch
subprocess.run(["nvidia-smi"])
print(sys.version)
for name in ("torch", "transformers", "accelerate", "datasets", "huggingface_hub", "numpy", "pillow", "pyarrow",
             "pydantic", "scikit-learn", "matplotlib", "triton", "pytest", "pytest-timeout", "pytest-xdist"):
    try:
        print(name, metadata.version(name))
    except metadata.PackageNotFoundError:
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
OPTIONS = [  # what the quickstart does not use
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
    """A command that is run in the root of the repository.

    Attributes:
        name: Its name in the log and in session.json.
        most: Seconds that it may take.
        command: The command line.
    """

    name: str
    most: float
    command: Sequence[str]


def run_named(name: str, *overrides: str) -> list[str]:
    """Return the arguments of a run of the quickstart under another name."""
    return ["recipes/quickstart.yaml", f"name={name}", f"run.root={SESSION}", *overrides]


def steps(cpu_dataset: str | None) -> list[Step]:
    """Return all steps, the most important ones first."""

    def module(*arguments: str) -> list[str]:
        return [sys.executable, "-m", *arguments]

    def cost(name: str, *more: str) -> list[str]:
        return module("srel_hub", "measure", "--iterations", "50", "--json", str(SESSION / f"{name}.json"), *more)

    def condense(*arguments: str) -> list[str]:
        return module("srel_hub", "condense", *arguments)

    def verify(name: str) -> list[str]:
        return module("srel_hub", "verify", str(SESSION / name / "dataset"))

    cases = [sys.executable, __file__, "--cases"]
    all_steps = [
        Step("facts", 60, [sys.executable, "-c", FACTS]),
        Step("quickstart", 150, condense(*run_named("quickstart"))),
        Step("verify quickstart", 60, verify("quickstart")),
        Step(
            "GPU tests",
            60,
            ["env", "SREL_TEST_GPU=1", *module("pytest", "-q", "-k", "gpu", "tests/core/test_augment.py")],
        ),
        Step("knobs", 90, LAUNCH + ["srel_hub.condense", *run_named("knobs", *OPTIONS)]),
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
        all_steps.insert(6, Step("verify one of a CPU", 60, module("srel_hub", "verify", cpu_dataset)))
    return all_steps


class Session:
    """How each step ended, and the end of its output."""

    def __init__(self, out: Path | None, commit: str | None) -> None:
        SESSION.mkdir(parents=True, exist_ok=True)
        self.out, self.commit, self.file = out, commit, SESSION / "session.json"
        self.done: dict[str, Any] = json.loads(self.file.read_text()) if self.file.is_file() else {}
        results, stored = RESULTS / "gpu.json", SESSION / "gpu.json"
        if stored.is_file() and not results.is_file():
            results.write_bytes(stored.read_bytes())

    def work(self, step: Step, left: float) -> bool:
        """Run a step and return whether it succeeded. One that the session's end cuts short is repeated next time."""
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
        text = last_states(log.read_bytes().decode(errors="replace"))
        self.done[step.name] = {"status": status, "seconds": seconds}
        self.file.write_text(json.dumps(self.done, indent=2) + "\n")
        with (SESSION / "session.log").open("a") as whole:
            whole.write(f"=== {step.name}: {status}, {seconds} s\n{text[-LOGGED_CHARACTERS:]}\n\n")
        print(text[-600 if status == 0 else -2500 :] + f"\n--- {step.name}: {status}, {seconds} s", flush=True)
        self.copy_results()
        return status == 0

    def copy_results(self) -> None:
        """Copy the results to the output folder, as few files."""
        results = RESULTS / "gpu.json"
        if results.is_file():
            (SESSION / "gpu.json").write_bytes(results.read_bytes())
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
        """Write the runs and the complete logs to one archive."""
        if self.out is not None:
            with tarfile.open(self.out / "runs.tar.gz", "w:gz") as archive:
                archive.add(SESSION, "gpu_session", filter=lambda item: None if "/checkpoints" in item.name else item)


def environment() -> dict[str, str]:
    """Return the environment of the steps, in which this checkout is imported."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "COLUMNS": "110"}


def stop(process: "subprocess.Popen[bytes]") -> None:
    """End a process and its children: with SIGTERM, and after 5 s with SIGKILL."""
    for number, patience in ((signal.SIGTERM, 5), (signal.SIGKILL, 5)):
        try:
            os.killpg(process.pid, number)
            process.wait(patience)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def last_states(text: str) -> str:
    """Return a log as a terminal shows it in the end, with only the last state of each progress bar."""
    return "\n".join(line.rsplit("\r", 1)[-1] for line in text.replace("\r\n", "\n").rstrip().split("\n"))


def measure_cases(kind: str) -> int:
    """Measure the cases of benchmarks/all.py, 'plain' or 'compiled' ones; a failing case does not stop the others."""
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
    """Run the steps that are not complete yet, until the time is over."""
    parser = argparse.ArgumentParser(description="Run every check that needs a GPU.")
    parser.add_argument("--seconds", type=float, default=540)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--commit")
    parser.add_argument("--cpu-dataset")
    parser.add_argument("--cases", choices=("plain", "compiled"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cases is not None:
        return measure_cases(options.cases)
    end, session = time.monotonic() + options.seconds, Session(options.out, options.commit)
    for step in steps(options.cpu_dataset):
        again = ("cut short", "too slow") if step.name.startswith("cases") else ("cut short",)
        if step.name in session.done and session.done[step.name]["status"] not in again:
            continue
        left = end - time.monotonic() - SHORTEST
        if left < SHORTEST:
            print(f"out of time before {step.name}; repeat the command to resume")
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
