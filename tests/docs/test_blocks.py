"""Every block of commands and code in the README and in docs runs, in order, as it is printed.

A reader's folder has a finished quickstart run, the shipped recipes, the examples and a folder of images. The same run
is published on the Hub. Commands that would take long get smaller values (SMALLER). What cannot run here is listed
with a reason (NOT_RUN). Blocks of the cards run in tests/test_condense.py.
"""

import contextlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from blocks import all_blocks, commands, run_block, run_command
from conftest import HUB, ROOT, make_source, stand_in_teacher
from datasets import load_dataset

from srel_hub.condense import condense
from srel_hub.config import load_recipe
from srel_hub.publish import publish
from srel_hub.runs.run import Run


DOCS = ROOT / "docs"
PAGES = {
    file.relative_to(ROOT).as_posix(): file.read_text() for file in (ROOT / "README.md", *sorted(DOCS.rglob("*.md")))
}
SLOW_PAGES = {
    f"docs/guides/{name}.md" for name in ("bad-results", "own-images", "performance", "publishing", "sweeps")
}  # whose blocks take 4 to 10 seconds
GENERATED = {"docs/reference/cli.md"}  # from the help pages, whose examples tests/commands parses
TEXT = {"text", "math", "bibtex"}  # languages of blocks that are not code
NOT_RUN = {  # how a command or block begins, or what it has in it: why it does not run here
    "pip install": "needs the package index",
    "examples/train_lightning.py": "needs lightning, which the tests do not install",
    "notebook_launcher": "starts eight processes on GPUs",
    "rsync": "needs a second machine",
    "#SBATCH": "needs Slurm; tests/runs/test_scale.py runs its command in several processes",
    "--multi_gpu": "needs several GPUs or machines; tests/runs/test_scale.py runs it on CPU processes",
}
QUICKSTART = """\
extends: quickstart.yaml
name: quickstart
pictures: false
squeeze: {network: {width: 0.1}, epochs: 4}
recover: {iterations: 30}
relabel: {epochs: 3}
evaluate: {students: [{model: convnet, width: 0.1}], epochs: 1, seeds: 1}
run: {cpu_threads: 1}
"""  # a file `quickstart` in the working directory takes the place of the shipped recipe
SMALL = [
    "pictures=false",
    "squeeze.network={model: convnet, width: 0.1}",
    "squeeze.epochs=1",
    "squeeze.optimizer.warmup_epochs=0",
    "recover.iterations=2",
    "relabel.epochs=1",
    "evaluate.students=[{model: convnet, width: 0.1}]",
    "evaluate.epochs=1",
    "evaluate.seeds=1",
    "run.cpu_threads=1",
]
SMALLER = {  # how a command begins: what follows it here
    "srel-hub condense cifar10_ipc10": [*SMALL, "source.path=my/flowers"],
    "srel-hub condense own_images": [*SMALL, "source.image_size=8"],
    "srel-hub condense first_look": [*SMALL, "source.image_size=8"],
    "srel-hub condense flowers.yaml": [*SMALL, "source.image_size=8"],
    "srel-hub condense shapes.yaml": [],  # as the tutorial has it: its point is that it is small
    "srel-hub condense runs/quickstart": [],
    "srel-hub pictures": ["pictures=true"],
    "srel-hub condense quickstart name=mine": ["squeeze.epochs=4"],
    "srel-hub continual": ["--seeds", "1", "evaluate.epochs=1", "run.overwrite=true"],
}


@pytest.fixture(scope="module")
def finished_quickstart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reader's folder: a finished quickstart run, recipes, examples and images."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "quickstart").write_text(QUICKSTART)
    with contextlib.chdir(folder):
        run = Run(load_recipe("quickstart"))
        condense(run)
        run.close()
    make_source(folder / "my" / "flowers", (8, 8), ["daisy", "rose", "tulip"])
    for name in ("recipes", "examples"):
        shutil.copytree(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def published_quickstart(finished_quickstart: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The same run on the Hub, and somebody who is logged in there."""
    HUB.reset()
    runs = tmp_path_factory.mktemp("published") / "runs"
    shutil.copytree(finished_quickstart / "runs", runs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TOKEN", "hf_my-name")
        target = ["publish.repo_id=my-name/srel-digits-ipc10", "publish.private=false"]
        publish(Run(load_recipe(runs / "quickstart", [f"run.root={runs}", *target])))
        yield
    HUB.reset()


@pytest.fixture
def reader(finished_quickstart: Path, published_quickstart: None, tmp_path: Path) -> Path:
    """A copy of the reader's folder, for one page to change."""
    return shutil.copytree(finished_quickstart, tmp_path / "reader")


def not_run(code: str) -> str | None:
    """Return why this command or block cannot run here, None if it can."""
    return next((reason for part, reason in NOT_RUN.items() if part in code), None)


def smaller(words: list[str]) -> list[str]:
    """Return a command with the values that make it short enough for a test; those of the page itself win."""
    command = " ".join(words)
    start = max((start for start in SMALLER if command.startswith(start)), key=len, default=None)
    own = {word.split("=")[0] for word in words if "=" in word}
    return words if start is None else [*words, *(text for text in SMALLER[start] if text.split("=")[0] not in own)]


def run_page(page: str, folder: Path) -> str:
    """Run the blocks of a page in order, and return what its code printed."""
    printed = ""
    for language, block in all_blocks(PAGES[page]):
        if language == "python" and not_run(block) is None:
            printed += run_block(block, folder)
        elif language == "bash":
            for words in commands(block):
                if not_run(" ".join(words)) is None:
                    run_command(smaller(words), folder)
        elif language == "yaml" and page == "docs/tutorial.md":
            (folder / "shapes.yaml").write_text(block)
    return printed


def pages_to_run() -> list[str]:
    """Return the pages that have code to run, but for the two that have a test of their own below."""
    return [
        page
        for page, text in PAGES.items()
        if page not in GENERATED | {"docs/guides/teachers.md", "docs/tutorial.md"}
        and {"python", "bash"} & {language for language, _ in all_blocks(text)}
    ]


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=pytest.mark.long) if page in SLOW_PAGES else page for page in pages_to_run()],
)
def test_every_block_of_a_page_runs(page: str, reader: Path) -> None:
    run_page(page, reader)


@pytest.mark.long
def test_an_imagenet_recipe_runs_with_a_pretrained_teacher_from_the_hub(
    stand_in: list[str], reader: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guide on teachers: a small teacher has the name of the recipe's, and a few images those of ImageNet."""
    pretrained = load_recipe("in1k_ipc50").squeeze.pretrained
    assert pretrained is not None
    HUB.put("models", pretrained.path, stand_in_teacher(stand_in))
    overrides = [text for text in stand_in if not text.startswith("squeeze.pretrained.path=")]
    monkeypatch.setitem(
        SMALLER,
        "srel-hub condense in1k_ipc50",
        [*overrides, "pictures=false", "publish.repo_id=my-name/srel-in1k-ipc50"],
    )
    run_page("docs/guides/teachers.md", reader)
    assert load_dataset("my-name/srel-in1k-ipc50")["train"].num_rows == 1000
    fetched = [entry["path"] for entry in HUB.log() if "resnet18.tv_in1k/resolve" in entry["path"]]
    assert fetched and all(re.search("[0-9a-f]{40}", path) for path in fetched)  # by commit, not by branch


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_the_tutorial_runs_from_a_folder_of_images_to_what_users_run(
    published_quickstart: None, tmp_path: Path
) -> None:
    printed = run_page("docs/tutorial.md", tmp_path)
    assert "condensed  " in printed
    assert "['disc', 'square', 'triangle'] 15" in printed and "'label': " in printed
    assert sorted(file.name for file in tmp_path.glob("*.png")) == ["disc.png", "square.png", "triangle.png"]
    assert {"datasets/my-name/shapes-ipc5", "models/my-name/shapes-ipc5-teacher"} <= set(HUB.state()["repos"])


def test_every_block_has_a_language_that_is_run_or_is_text() -> None:
    for page, text in PAGES.items():
        assert {language for language, _ in all_blocks(text)} <= {"python", "bash", "sh", "yaml"} | TEXT, page
        for block in [block for language, block in all_blocks(text) if language == "sh" and page not in GENERATED]:
            assert not_run(block), f"{page}: use bash for commands that can run"


def test_every_exception_and_every_stand_in_is_used() -> None:
    code = "\n".join(block for text in PAGES.values() for language, block in all_blocks(text) if language not in TEXT)
    assert [part for part in NOT_RUN if part not in code] == []
    lines = [" ".join(words) for text in PAGES.values() for block in bash_blocks(text) for words in commands(block)]
    assert [start for start in SMALLER if not any(line.startswith(start) for line in lines)] == []


def bash_blocks(text: str) -> list[str]:
    """Return the blocks of commands that are run one by one."""
    return [block for language, block in all_blocks(text) if language == "bash"]


@pytest.mark.parametrize("page", [page for page, text in PAGES.items() if "```yaml" in text])
def test_every_recipe_in_a_document_is_one(page: str, tmp_path: Path) -> None:
    for index, block in enumerate(block for language, block in all_blocks(PAGES[page]) if language == "yaml"):
        file = tmp_path / f"{index}.yaml"
        file.write_text(block if "extends" in block else f"extends: own_images\n{block}")
        load_recipe(file)


def test_the_readme_has_the_main_commands() -> None:
    readme = PAGES["README.md"]
    assert "\nsrel-hub condense quickstart\n" in readme
    assert "\naccelerate launch -m srel_hub.condense recipes/in1k_ipc50.yaml\n" in readme
    assert "/srel-hub condense recipes/quickstart.yaml\n" in (ROOT / "Makefile").read_text()


def test_the_readme_is_short() -> None:
    assert (ROOT / "README.md").stat().st_size <= 12_000
