"""The command lines of the guide "GPUs and clusters", with stand-ins, as far as two cores allow."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import HUB, ROOT
from runs import bytes_of, units_done


pytestmark = pytest.mark.usefixtures("launcher_port")


GUIDE = (ROOT / "docs" / "guides" / "distributed.md").read_text()
LAUNCHES, ARRAY = re.findall(r"^```sh\n(.*?)^```", GUIDE, re.M | re.S)


def together(lines: list[str], overrides: list[str], cwd: Path) -> None:
    """Run command lines at once, each to its end."""
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    environment = {**HUB.environment(cwd / ".hf", None), "PATH": path, "OMP_NUM_THREADS": "1"}
    words = [[*line.split(), *overrides] for line in lines]
    running = [subprocess.Popen(each, cwd=cwd, env=environment, stderr=subprocess.PIPE, text=True) for each in words]
    for process in running:
        _, said = process.communicate(timeout=1500)
        assert process.returncode == 0, said[-3000:]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("scale")
    shutil.copytree(ROOT / "recipes", place / "recipes")
    return place


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_every_line_gives_the_same_dataset(stand_in: list[str], folder: Path) -> None:
    one, eight, first, second = LAUNCHES.splitlines()
    array = next(line for line in ARRAY.splitlines() if line.startswith("srun ")).removeprefix("srun ")
    eight = eight.replace("--num_processes 8", "--num_processes 2")
    machines = [
        line.replace("--num_processes 16", "--num_processes 2").replace("node0", "127.0.0.1")
        for line in (first, second)
    ]
    found = {}
    for name, lines in {"one": [one], "eight": [eight], "machines": machines, "array": [array] * 2}.items():
        together(lines, [*stand_in, "recover.class_block=100", "run.cpu_threads=1", f"run.root={name}"], folder)
        run = folder / name / "in1k_ipc50"
        found[name] = bytes_of(run, ("images", "soft_labels", "evaluate", "dataset"))
        done = units_done(run)
        assert len(done) == len(set(done)), name
    assert found["one"] == found["eight"] == found["machines"] == found["array"]
