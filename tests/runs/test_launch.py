"""One process equals two equals four, and the launcher's silent traps are errors."""

import os
import re
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, execute, refused
from runs import arguments, bytes_of, finish, records, units_done, world

from srel_hub.commands.program import main
from srel_hub.config import Network, Squeeze
from srel_hub.stages.preflight.recipe_checks import single_images
from srel_hub.storage.files import read_json


pytestmark = pytest.mark.usefixtures("launcher_port")


EVERY_EPOCH = """
from srel_hub.runs import checkpoint
from srel_hub.runs.stage_cli import cli
from srel_hub.squeeze import squeeze
checkpoint.EVERY = 0.0
cli(squeeze)
"""
LABELED = ("images", "soft_labels", "evaluate", "dataset")


def launch(count: int, *command: str, cwd: Path) -> None:
    several = ["--multi_gpu", "--num_processes", str(count)] if count > 1 else ["--num_processes", "1"]
    done = execute("accelerate", "launch", *several, "-m", *command, cwd=cwd)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="session")
def given(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], Path]:
    """A recipe, the overrides that give it a teacher, and its run by one process."""
    folder = tmp_path_factory.mktemp("given")
    recipe = world(folder)
    finish(arguments(recipe, folder / "first"), folder / "log")
    teacher = [f"squeeze.pretrained.path={folder}/first/world/teacher_repo"]
    finish(arguments(recipe, folder / "one", *teacher), folder / "log")
    return recipe, teacher, folder / "one" / "world"


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.long)])
def test_one_process_equals_several(given: tuple[Path, list[str], Path], tmp_path: Path, count: int) -> None:
    recipe, teacher, one = given
    launch(count, "srel_hub.condense", *arguments(recipe, tmp_path, *teacher), cwd=tmp_path)
    run = tmp_path / "world"
    assert bytes_of(run, LABELED) == bytes_of(one, LABELED)
    done = units_done(run)
    assert len(done) == len(set(done)) and len({line["process"] for line in records(run) if "unit" in line}) == count
    assert len([file for file in bytes_of(run) if file.startswith("evaluate/")]) == 13


@pytest.mark.long
def test_a_teacher_trained_by_two_processes_is_the_same_each_time(tmp_path: Path) -> None:
    recipe = world(tmp_path)
    for name in ("once", "again"):
        launch(2, "srel_hub.squeeze", *arguments(recipe, tmp_path / name), cwd=tmp_path)
    assert bytes_of(tmp_path / "once/world", ("teacher",)) == bytes_of(tmp_path / "again/world", ("teacher",))


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_two_processes_train_as_well_as_one(tmp_path: Path) -> None:
    """Equal global batch; BatchNorm sees half of it."""
    accuracy: dict[int, list[float]] = {1: [], 2: []}
    for count, found in accuracy.items():
        for seed in range(3):
            root = tmp_path / f"{count}-{seed}"
            launch(count, "srel_hub.squeeze", str(ROOT / "recipes" / "quickstart.yaml"), f"seed={seed}",
                   "run.cpu_threads=1", f"run.root={root}", cwd=tmp_path)  # fmt: skip
            found.append(read_json(root / "quickstart" / "teacher" / "metrics.json")["top1"])
    print({count: (statistics.fmean(found), statistics.stdev(found)) for count, found in accuracy.items()})
    spread = max(statistics.stdev(found) for found in accuracy.values())
    assert abs(statistics.fmean(accuracy[1]) - statistics.fmean(accuracy[2])) <= 2 * spread


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("MASTER_PORT", "29500", "accelerate launch --multi_gpu --num_processes N -m srel_hub.condense RECIPE"),
        (
            "ACCELERATE_MIXED_PRECISION",
            "bf16",
            "--mixed_precision bf16: precision is set in the recipe; pass --mixed_precision no",
        ),
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", "pass --dynamo_backend no"),
        ("ACCELERATE_USE_FSDP", "true", "ACCELERATE_USE_FSDP=true: FSDP is not supported, because every process has"),
        ("ACCELERATE_USE_DEEPSPEED", "true", "DeepSpeed is not supported"),
        ("ACCELERATE_USE_MEGATRON_LM", "True", "Megatron-LM is not supported"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "1", "tensor, context or sequence parallelism) is not supported"),
    ],
)
def test_the_launchers_traps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str,
    message: str,
) -> None:  # fmt: skip
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv(name, value)
    assert message in refused(capsys, *arguments(world(tmp_path), tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()


def test_all_traps_of_one_launch_are_reported_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("FSDP", "true"), ("DEEPSPEED", "false"), ("MEGATRON_LM", "false")):
        monkeypatch.setenv(f"ACCELERATE_USE_{name}", value)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp8")
    said = refused(capsys, *arguments(world(tmp_path), tmp_path / "runs")).splitlines()
    assert len(said) == 2 and "pass --mixed_precision no" in said[0] and "FSDP is not supported" in said[1]


CONFIG = """compute_environment: LOCAL_MACHINE
machine_rank: 0
main_training_function: main
mixed_precision: 'no'
num_machines: 1
num_processes: 1
use_cpu: true
"""


@pytest.mark.long
@pytest.mark.parametrize("kind", ["FSDP", "FSDP 2", "MEGATRON_LM"])
def test_a_config_of_accelerate_that_divides_networks(tmp_path: Path, kind: str) -> None:
    """The launcher adds a traceback of its own, without a file of this project."""
    config, (name, _, version) = tmp_path / "config.yaml", kind.partition(" ")
    fsdp = f"fsdp_config: {{fsdp_version: {version or 1}, fsdp_auto_wrap_policy: NO_WRAP}}\n" * (name == "FSDP")
    config.write_text(f"{CONFIG}distributed_type: {name}\n{fsdp}")
    command = ["--config_file", str(config), "-m", "srel_hub.condense", *arguments(world(tmp_path), tmp_path / "runs")]
    done = execute("accelerate", "launch", *command, cwd=tmp_path)
    assert done.returncode and done.stderr.count(f"error: ACCELERATE_USE_{name}=") == 1, done.stderr[-3000:]
    assert not re.search(r'File ".*srel_hub/', done.stderr) and not (tmp_path / "runs").exists()


@pytest.mark.long
def test_the_launcher_that_drops_processes(tmp_path: Path) -> None:
    command = [
        "--cpu",
        "--num_processes",
        "2",
        "-m",
        "srel_hub.condense",
        *arguments(world(tmp_path), tmp_path / "runs"),
    ]
    done = execute("accelerate", "launch", *command, cwd=tmp_path)
    assert done.returncode and "error: MASTER_PORT is set but WORLD_SIZE is not" in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.long
def test_a_batch_that_cannot_be_shared(tmp_path: Path) -> None:
    command = arguments(world(tmp_path), tmp_path / "runs", "squeeze.batch_size=3")
    done = execute("accelerate", "launch", "--multi_gpu", "--num_processes", "2", "-m", "srel_hub.condense", *command,
                   cwd=tmp_path)  # fmt: skip
    assert done.returncode and done.stderr.count("squeeze.batch_size=3: 2 processes share a batch") == 1


@pytest.mark.parametrize(("images", "processes", "fits"), [(18, 4, True), (17, 4, True), (17, 8, False), (17, 1, True)])
def test_every_process_has_two_images_of_each_batch(images: int, processes: int, fits: bool) -> None:
    """17 images in batches of 16 are batches of 9 and 8."""
    spec = Squeeze(network=Network(model="convnet", width=0.1), batch_size=16)
    problems = single_images(spec, images, processes)
    assert not problems if fits else "set at least 16, or start fewer" in problems[0]


@pytest.mark.long
def test_four_processes_train_on_after_a_kill_as_if_there_was_none(tmp_path: Path) -> None:
    recipe = world(tmp_path)
    whole, parts = (arguments(recipe, tmp_path / name, "squeeze.batch_size=12") for name in ("whole", "parts"))
    launch(4, "srel_hub.squeeze", *whole, cwd=tmp_path)
    run, command = tmp_path / "parts" / "world", [sys.executable, "-c", EVERY_EPOCH, *parts]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    launcher = [str(Path(sys.executable).with_name("torchrun")), "--nproc-per-node", "4", "--no-python", *command]
    first = subprocess.Popen(launcher, cwd=tmp_path, env=env, stderr=subprocess.DEVNULL)
    while not (run / "checkpoints" / "squeeze-teacher").exists():
        assert first.poll() is None, "it ended before its first checkpoint"
        time.sleep(0.01)
    for file in (run / "processes").glob("*.json"):
        os.kill(read_json(file)["pid"], signal.SIGKILL)
    assert first.wait() and not (run / "teacher").exists()
    launch(4, "srel_hub.squeeze", *parts, cwd=tmp_path)
    assert "resuming after epoch" in (run / "log.txt").read_text()
    assert bytes_of(run, ("teacher",)) == bytes_of(tmp_path / "whole/world", ("teacher",))


def test_a_tracker_that_is_not_installed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, *arguments(world(tmp_path), tmp_path / "runs", "run.trackers=[wandb]"))
    assert (
        "run.trackers=wandb: the package wandb cannot be imported (No module named 'wandb'); run `pip install wandb`"
        in said
    )
    assert "wandb" not in sys.modules and not (tmp_path / "runs").exists()
    assert main(["plan", *arguments(world(tmp_path), tmp_path / "runs", "run.trackers=[wandb]")]) == 2
    assert "run `pip install wandb`" in capsys.readouterr().err
