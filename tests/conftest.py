"""Small real worlds for the tests: no mocks, no network but 127.0.0.1, every file under a temporary folder.

A Hub of our own (tests/local_hub) starts before any Hugging Face library is imported, because these read their
environment at import.
"""

import fcntl
import os
import sys
import tempfile

import pytest
from local_hub.client import OWN_FOLDERS, Hub


if os.environ.get("HUGGINGFACE_CO_STAGING") or not os.environ.get("HF_ENDPOINT", "http://127.0.0.1:").startswith(
    "http://127.0.0.1:"
):
    pytest.exit(f"these tests push: HF_ENDPOINT={os.environ.get('HF_ENDPOINT')} must be unset, or 127.0.0.1", 2)

# Tests fork processes, which cannot use a GPU that their parent has started, and compare bits, which only CPUs promise.
# `SREL_TEST_GPU=1 pytest -k gpu` runs the tests that need one.
if "SREL_TEST_GPU" not in os.environ:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
HUB = Hub()
for name in [name for name in os.environ if name.startswith("HF_") or name in OWN_FOLDERS]:
    del os.environ[name]
if sys.platform == "linux" and "PYTEST_XDIST_WORKER" in os.environ:  # threads of two workers on one core wait long
    allowed = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {allowed[int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw")) % len(allowed)]})
os.environ |= HUB.environment(tempfile.mkdtemp(prefix="srel-home-"))
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import shutil  # noqa: E402
import subprocess  # noqa: E402
from collections.abc import Iterator, Sequence  # noqa: E402
from pathlib import Path  # noqa: E402

import huggingface_hub  # noqa: E402
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402
from own_network import forgetting_own_code  # noqa: E402
from reference_resnet import forward, random_state  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from srel_hub.condense import condense  # noqa: E402
from srel_hub.config.loading import load_recipe  # noqa: E402
from srel_hub.config.recipe import Recipe  # noqa: E402
from srel_hub.recover import recover  # noqa: E402
from srel_hub.runs.run import Run  # noqa: E402
from srel_hub.runs.stage_cli import cli  # noqa: E402
from srel_hub.squeeze import squeeze  # noqa: E402
from srel_hub.storage.condensed_table import encode_png, write_parquet  # noqa: E402


if HUB.endpoint != huggingface_hub.constants.ENDPOINT:
    pytest.exit(f"these tests push, and would to {huggingface_hub.constants.ENDPOINT}", 2)
torch.set_num_threads(1)  # tiny tensors
pytest_plugins = ("resuming",)
LONGEST = ("test_condense", "test_publish", "test_interruption", "test_push_faults")  # begun first by `make test`
ROOT = Path(__file__).parent.parent
SMALL = [
    "precision=float32",  # which is what bits, and tight tolerances, are promised for
    "pictures=false",  # which take seconds
    "squeeze.network={model: convnet, width: 0.1}",
    "squeeze.epochs=2",
    "squeeze.batch_size=16",
    "recover.iterations=3",
    "relabel.epochs=2",
    "evaluate={students: [{model: convnet, width: 0.1}], seeds: 2, epochs: 2, batch_size: 8}",
    "run.cpu_threads=1",
]
LESS = ("squeeze.epochs=15", "recover.iterations=100", "evaluate.epochs=10", "pictures=false")  # of the quickstart


def pytest_configure(config: pytest.Config) -> None:
    """Let hypothesis try the same examples each time in `make test`, and new ones in `make test-long`."""
    settings.register_profile("same", derandomize=True, deadline=None)
    settings.register_profile("new", deadline=None)
    settings.load_profile("new" if config.getoption("--resume") else "same")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.stem not in LONGEST)


def make_source(folder: Path, size: tuple[int, int], names: list[str], per_class: int = 12) -> Path:
    """A dataset that load_dataset opens: classes of distinct color with noise, splits train and test."""
    draw = torch.Generator().manual_seed(7)
    colors = torch.randint(40, 216, (len(names), 3, 1, 1), generator=draw)
    for split in ("train", "test"):
        labels = torch.arange(len(names)).repeat(per_class)
        noise = torch.randint(-40, 40, (len(labels), 3, *size), generator=draw)
        pixels = (colors[labels] + noise).clamp(0, 255).to(torch.uint8)
        folder.mkdir(parents=True, exist_ok=True)
        write_parquet(folder / f"{split}.parquet", [encode_png(x) for x in pixels], labels.tolist(), names)
    return folder


def write_recipe(file: Path, source: Path, ipc: int = 3) -> Path:
    file.write_text(f"source: {{path: '{source}', license: mit, title: Colors}}\nrecover: {{ipc: {ipc}}}\n")
    return file


def small_recipe(file: Path, root: Path, *overrides: str) -> Recipe:
    return load_recipe(file, [*SMALL, f"run.root={root}", *overrides])


@pytest.fixture(scope="session", params=[(8, 8), (10, 13)], ids=["8x8", "10x13"])
def recovered(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A recipe file, and a run of it that went as far as recover: three classes, three images each."""
    folder = tmp_path_factory.mktemp("recovered")
    file = write_recipe(folder / "colors.yaml", make_source(folder / "source", request.param, ["red", "green", "blue"]))
    run = Run(small_recipe(file, folder / "runs"))
    squeeze(run)
    recover(run)
    return file, run.folder


def branch(recovered: tuple[Path, Path], root: Path, *overrides: str) -> Run:
    """A new run directory with the same teacher and images, and another recipe from relabel on."""
    file, folder = recovered
    for part in ("teacher", "images", "units"):
        shutil.copytree(folder / part, root / "colors" / part)
    return Run(small_recipe(file, root, *overrides))


def execute(*command: str, cwd: Path, timeout: int = 1500) -> subprocess.CompletedProcess[str]:
    """Run a command as a user would, in a process of its own, with this interpreter's scripts on the path."""
    environment = {
        **HUB.environment(cwd / ".hf", os.environ.get("HF_TOKEN")),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "COLUMNS": "100",
    }
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """An empty Hub; nobody is logged in."""
    HUB.reset()
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield HUB
    HUB.faults()


@pytest.fixture(autouse=True)
def own_code_of_one_test() -> Iterator[None]:
    """Let no test see the networks that another one imported: in a user's process there are none."""
    with forgetting_own_code():
        yield


@pytest.fixture
def launcher_port() -> Iterator[None]:
    """Let one test at a time start several processes: launchers share port 29500, also between xdist's workers."""
    with Path(tempfile.gettempdir(), "srel-hub-tests-port-29500.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def last_of_each(arguments: Sequence[str]) -> list[str]:
    """Return a command line without the overrides that a later one replaces, which the program refuses."""
    kept: list[str] = []
    for argument in arguments:
        key = argument.partition("=")[0]
        kept = [other for other in kept if not f"{other.partition('=')[0]}.".startswith(f"{key}.")]
        kept.append(argument)
    return kept


def as_user(home: Path, token: str | None, *arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    """Run this interpreter in a process of its own, as a user of the Hub with this home and token."""
    environment = HUB.environment(home, token) | {"COLUMNS": "100"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1500, cwd=cwd)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of three classes, three images each and two epochs, whose teacher knows its images."""
    folder = tmp_path_factory.mktemp("finished")
    file = write_recipe(folder / "colors.yaml", make_source(folder / "source", (8, 8), ["red", "green", "blue"]))
    overrides = ["squeeze.network.width=0.3", "squeeze.epochs=20", "recover.iterations=60"]
    run = Run(small_recipe(file, folder / "runs", *overrides))
    condense(run)
    return run.folder


@pytest.fixture
def own(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to be changed."""
    shutil.copytree(finished, tmp_path / "runs" / finished.name)
    return tmp_path / "runs" / finished.name


@pytest.fixture(scope="session")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The README's main command with less work, run once in a folder with the shipped recipes."""
    return run_quickstart(tmp_path_factory.mktemp("quickstart"), *LESS)


@pytest.fixture(scope="session")
def full_quickstart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of the README's main command as it stands."""
    return run_quickstart(tmp_path_factory.mktemp("full"))[0] / "runs" / "quickstart"


def run_quickstart(folder: Path, *overrides: str) -> tuple[Path, subprocess.CompletedProcess[str]]:
    shutil.copytree(ROOT / "recipes", folder / "recipes")
    command = ("accelerate", "launch", "-m", "srel_hub.condense", "recipes/quickstart.yaml", *overrides)
    done = execute(*command, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, done


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the command line says as it refuses `srel-hub condense ARGUMENTS`, in this process."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        cli(condense, last_of_each(arguments))
    said = capsys.readouterr().err
    assert caught.value.code == 2 and "Traceback" not in said, said
    return said[said.index("error: ") :]


@pytest.fixture(scope="session")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides for an ImageNet-1K of 32 pixels: a tiny teacher under torchvision's names, images that it labeled."""
    folder = tmp_path_factory.mktemp("in1k")
    state = random_state([1, 1, 1, 1], 2, classes=1000, base=8)
    (folder / "teacher").mkdir()
    save_file(state, folder / "teacher" / "model.safetensors")
    pixels = torch.randint(0, 256, (200, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    labels = forward(state, ((pixels / 255 - mean) / std).double()).argmax(1)
    names = load_recipe("in1k_ipc50").squeeze.pretrained.class_names  # type: ignore[union-attr]
    (folder / "data").mkdir()
    write_parquet(folder / "data" / "validation.parquet", [encode_png(x) for x in pixels], labels.tolist(), names or ())
    return [
        f"squeeze.pretrained.path={folder}/teacher",
        f"source.path={folder}/data",
        "source.eval_split=validation",
        "source.image_size=32",
        "recover.iterations=2",
        "recover.ipc=1",
        "relabel.epochs=1",
        "evaluate.epochs=1",
        "evaluate.seeds=1",
        "evaluate.students=[{model: resnet18, width: 0.1}]",
    ]


def stand_in_teacher(overrides: list[str]) -> Path:
    """The folder of the stand-in's teacher."""
    return Path(next(text for text in overrides if text.startswith("squeeze.pretrained.path=")).split("=", 1)[1])
