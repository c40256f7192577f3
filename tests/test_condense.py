"""The whole chain, as a user runs it: from a recipe to a dataset that others can load."""

import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from blocks import code_blocks, run_block, run_command
from conftest import as_user, execute, make_source, refused, small_recipe, write_recipe
from datasets import load_dataset
from local_hub.client import Hub
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

import srel_hub.models  # noqa: F401
from srel_hub import load_condensed
from srel_hub.condense import condense
from srel_hub.config import load_recipe
from srel_hub.core.augment import normalization_table, normalize
from srel_hub.errors import UserError
from srel_hub.labels.read_manifest import read_manifest
from srel_hub.publish import publish
from srel_hub.runs.run import Run
from srel_hub.storage import condensed_table as images
from srel_hub.storage.files import read_json
from srel_hub.teachers import architectures as networks
from srel_hub.teachers import classifier as teacher


Quickstart = tuple[Path, "subprocess.CompletedProcess[str]"]
NAMES = ["red", "green", "blue"]


def tree(folder: Path) -> dict[str, str]:
    """sha256 of every file below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


# The quickstart


def test_quickstart_ends_with_where_how_large_how_good_and_how_to_load(quickstart: Quickstart) -> None:
    folder, done = quickstart
    assert re.search(
        r"^dataset: runs/quickstart/dataset \([\d.]+ KiB, of which images .*, soft labels", done.stdout, re.M
    )
    rows = re.findall(r"^convnet x 1 +(\S+) +100 +(\d+\.\d\d \+- \d+\.\d\d)", done.stdout, re.M)
    assert [name for name, _ in rows] == ["condensed", "random-real", "random-real-hard"]
    assert done.stdout.endswith(
        'from datasets import load_dataset\ndataset = load_dataset("runs/quickstart/dataset")\n'
    )
    assert "Traceback" not in done.stderr


@pytest.mark.long
def test_quickstart_student_reaches_95_percent_over_three_seeds(full_quickstart: Path) -> None:
    summary = read_json(full_quickstart / "evaluate/summary.json")
    rows = {row["row"]: row for row in summary["students"][0]["rows"]}
    assert rows["condensed"]["top1"]["mean"] >= 0.95
    assert all(len(row["top1"]["values"]) == row["n"] == 3 for row in rows.values())
    assert all(row["train_images"] == 100 for row in rows.values())


@pytest.mark.parametrize("streaming", [False, True])
def test_the_dataset_loads_with_image_and_named_label(quickstart: Quickstart, streaming: bool) -> None:
    loaded = load_dataset(str(quickstart[0] / "runs/quickstart/dataset"), streaming=streaming)
    assert list(loaded) == ["train"]
    assert loaded["train"].features["label"].names == [str(digit) for digit in range(10)]
    rows = list(loaded["train"])
    assert [row["label"] for row in rows] == list(range(10)) * 10
    assert {row["image"].size for row in rows} == {(8, 8)} and {row["image"].mode for row in rows} == {"RGB"}


def test_the_auto_classes_load_the_teacher(quickstart: Quickstart) -> None:
    repo = quickstart[0] / "runs/quickstart/teacher_repo"
    model, processor = AutoModelForImageClassification.from_pretrained(repo), AutoImageProcessor.from_pretrained(repo)
    loaded = load_dataset(str(quickstart[0] / "runs/quickstart/dataset"), split="train")
    inputs = processor(loaded["image"][:], return_tensors="pt")
    assert (model(**inputs).logits.argmax(1) == torch.tensor(loaded["label"][:])).float().mean() > 0.95
    table = normalization_table(processor.image_mean, processor.image_std)
    stored = torch.stack([images.decode_image(images.encode_png(_pixels(row["image"]))) for row in loaded])
    torch.testing.assert_close(inputs["pixel_values"], normalize(stored, table), rtol=0, atol=1e-5)
    answer = pipeline("image-classification", model=str(repo))(loaded[7]["image"])
    assert answer[0]["label"] == "7"


def _pixels(image: object) -> torch.Tensor:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")  # type: ignore[attr-defined]
    return images.decode_image(buffer.getvalue())


@pytest.mark.parametrize("card", ["dataset", "teacher_repo"])
def test_every_code_block_of_the_cards_runs(quickstart: Quickstart, card: str) -> None:
    folder = quickstart[0]
    text = (folder / "runs/quickstart" / card / "README.md").read_text().replace("path/to/", "runs/quickstart/")
    blocks, commands = code_blocks(text), code_blocks(text, "bash")
    assert (len(blocks), len(commands)) == (2, 1 if card == "dataset" else 0)
    for block in blocks:
        run_block(block, folder)
    for command in commands:
        run_command(command.split(), folder)


def test_the_cards_first_block_is_what_was_printed(quickstart: Quickstart) -> None:
    folder, done = quickstart
    card = (folder / "runs/quickstart/dataset/README.md").read_text().replace("path/to/", "runs/quickstart/")
    block = code_blocks(card)[0]
    for line in done.stdout.strip().splitlines()[-2:]:
        assert line in block


def test_every_number_on_the_card_is_the_artifacts(quickstart: Quickstart) -> None:
    folder = quickstart[0] / "runs/quickstart"
    card = (folder / "dataset/README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["dataset_info"]["splits"] == [
        {"name": "train", "num_bytes": _arrow_bytes(folder), "num_examples": 100}
    ]
    assert front["configs"] == [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*"}]}]
    assert front["license"] == "cc-by-4.0"
    for row in read_json(folder / "evaluate/summary.json")["students"][0]["rows"]:
        mean, std = 100 * row["top1"]["mean"], 100 * row["top1"]["std"]
        assert f"| {row['train_images']} | {mean:.2f} +- {std:.2f} |" in card
    for part in ("data", "soft_labels"):
        assert f"| {sum(f.stat().st_size for f in (folder / 'dataset' / part).iterdir())} |" in card
    assert f"{100 * read_json(folder / 'teacher/metrics.json')['top1']:.2f} % top-1" in card


def _arrow_bytes(folder: Path) -> int:
    info = load_dataset("parquet", data_files=str(folder / "dataset/data/*.parquet"), split="train").info
    return int(info.splits["train"].num_bytes)


def test_the_manifest_describes_what_lies_beside_it(quickstart: Quickstart) -> None:
    dataset = quickstart[0] / "runs/quickstart/dataset"
    manifest = read_manifest(dataset / "soft_labels/manifest.json")
    assert sum(file.epochs for file in manifest.files) == manifest.epochs == 100 and len(manifest.files) == 50
    for file in manifest.files:
        content = (dataset / "soft_labels" / file.name).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (file.bytes, file.sha256)
    weights = (dataset.parent / "teacher_repo/model.safetensors").read_bytes()
    assert manifest.teacher.sha256["model.safetensors"] == hashlib.sha256(weights).hexdigest()
    condensed = load_condensed(dataset)
    assert images.image_table_sha256(condensed.pixels, condensed.labels) == manifest.image_table_sha256


def test_nothing_published_tells_where_or_when(quickstart: Quickstart) -> None:
    folder = quickstart[0]
    paths = [str(folder), str(Path.home())]
    words = [os.uname().nodename, "cpu_threads", time.strftime("%Y-%m-%d")]  # short ones may stand in pixels by chance
    for part in ("dataset", "teacher_repo"):
        for file in (folder / "runs/quickstart" / part).rglob("*"):
            content = file.read_bytes() if file.is_file() else b""
            assert not [path for path in paths if path.encode() in content], file
            if file.suffix in (".md", ".json", ".yaml", ".py"):
                assert not [word for word in words if re.search(rf"\b{word}\b", content.decode())], file


# Published, and seen by others

STRANGER = """
import sys, torch
from datasets import load_dataset
from huggingface_hub import hf_hub_download
from srel_hub import load_condensed
from srel_hub.core.augment import normalization_table
from srel_hub.config import Source
from srel_hub.data.sources import open_source
from srel_hub.core.metrics import accuracy

name = "alice/srel-digits-ipc10"
assert load_dataset(name)["train"].num_rows == 100
card = open(hf_hub_download(name, "README.md", repo_type="dataset")).read()
blocks = [block.split("```")[0] for block in card.split("```python\\n")[1:]]
torch.manual_seed(0)
exec(blocks[0])
exec(blocks[1])
test = open_source(Source(builtin="digits"), lambda items, *_: iter(items)).eval.images(None)
table = normalization_table(condensed.manifest.mean, condensed.manifest.std)
print("student", accuracy(student, test.pixels, test.labels, table)[0])

import srel_hub.models
from transformers import pipeline
classify = pipeline("image-classification", model=condensed.manifest.teacher.repo_id, revision="v1.0")
train = load_dataset(name, split="train")
print("teacher", sum(classify(row["image"])[0]["label"] == str(row["label"]) for row in train) / len(train))
from srel_hub.commands.program import main
sys.exit(main(["verify", name, "--revision", "v1.0"]))
"""


@pytest.fixture(scope="module")
def published(quickstart: Quickstart, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the quickstart's run, with its cards as they are published."""
    folder = tmp_path_factory.mktemp("published") / "runs"
    shutil.copytree(quickstart[0] / "runs" / "quickstart", folder / "quickstart")
    return folder / "quickstart"


@pytest.fixture
def on_the_hub(hub: Hub, published: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The quickstart, pushed by alice for all to see; nobody is logged in any more."""
    monkeypatch.setenv("HF_TOKEN", "hf_alice")
    overrides = [f"run.root={published.parent}", "publish.repo_id=alice/srel-digits-ipc10", "publish.private=false"]
    publish(Run(load_recipe(published, overrides)))
    monkeypatch.delenv("HF_TOKEN")
    return published


@pytest.mark.long
def test_a_second_user_loads_trains_and_verifies(on_the_hub: Path, tmp_path: Path) -> None:
    """In an empty home and without a token; a student trained as the card says reaches what the card says."""
    done = as_user(tmp_path / "home", None, "-c", STRANGER, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    told = dict(line.split() for line in done.stdout.splitlines() if line.startswith(("student ", "teacher ")))
    summary = read_json(on_the_hub / "evaluate/summary.json")["students"][0]["rows"][0]["top1"]
    spread = max(0.02, 3 * summary["std"])
    assert abs(float(told["student"]) - summary["mean"]) <= spread
    assert float(told["teacher"]) == pytest.approx(
        read_manifest(on_the_hub / "dataset/soft_labels/manifest.json").teacher.accuracy, abs=0.011
    )
    assert done.stdout.count("\nok ") + done.stdout.startswith("ok ") == 9 and "FAILED" not in done.stdout


@pytest.mark.long
def test_every_block_of_the_published_cards_runs(on_the_hub: Path, tmp_path: Path) -> None:
    ran = 0
    for card in ("dataset", "teacher_repo"):
        text = (on_the_hub / card / "README.md").read_text()
        for block in code_blocks(text):
            run_block(block, tmp_path)
            ran += 1
        for block in code_blocks(text, "bash"):
            run_command(block.split(), tmp_path)
            ran += 1
    assert ran == 5


# Mistakes


@pytest.fixture(scope="module")
def colors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("colors")
    write_recipe(folder / "colors.yaml", make_source(folder / "source", (8, 8), NAMES))
    return folder


BAD = {
    "a misspelt field": (["recover.itertions=5"], "recover.itertions: unknown field; did you mean iterations?"),
    "a value out of range": (
        ["squeeze.optimizer.lr=-1"],
        "squeeze.optimizer.lr: must be a number above 0, got -1",
    ),
    "an unknown network": (["squeeze.network.model=resnet19"], "got 'resnet19'; did you mean resnet18?"),
    "a source that is not there": (["source.path=./nowhere"], "source.path=./nowhere: there is no such folder"),
    "a split that is not there": (["source.eval_split=dev"], "source.eval_split=dev: "),
    "a column that is not there": (["source.image_column=photo"], "source.image_column=photo: "),
    "two sources": (["source.builtin=digits"], "exactly one of source.path"),
    "an override without a value": (["recover.ipc"], "'recover.ipc': an override is key=value"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_recipe_is_one_screen_status_2_and_leaves_nothing(
    colors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    overrides, message = BAD[case]
    said = refused(capsys, str(colors / "colors.yaml"), f"run.root={tmp_path}/runs", *overrides)
    assert message in said and len(said.strip().splitlines()) <= 24
    assert not (tmp_path / "runs").exists()


def test_a_bad_recipe_ends_the_process_with_status_2(colors: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "srel_hub.condense", str(colors / "colors.yaml"), "recover.lr=-1"]
    done = execute(*command, cwd=tmp_path)
    assert done.returncode == 2 and "recover.lr: " in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_run_directory_of_another_recipe_is_refused(colors: Path, tmp_path: Path) -> None:
    run = Run(small_recipe(colors / "colors.yaml", tmp_path))
    condense(run)
    before = tree(run.folder)
    with pytest.raises(UserError, match="recover.lr: 0.25 in the run, 0.5 requested"):
        Run(small_recipe(colors / "colors.yaml", tmp_path, "recover.lr=0.5"))
    assert tree(run.folder) == before


def test_what_only_the_cards_say_may_change_on_a_finished_run(
    colors: Path, whole: Run, tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_alice")
    shutil.copytree(whole.folder, tmp_path / "colors")
    overrides = ["recover.stack=1", "publish.repo_id=lab/later", "publish.dry_run=true", "source.license=cc0-1.0"]
    again = Run(small_recipe(colors / "colors.yaml", tmp_path, *overrides))
    condense(again)
    card = again.path("dataset", "README.md").read_text()
    assert "license: cc0-1.0" in card and 'load_condensed("lab/later"' in card
    manifest = read_manifest(again.path("dataset", "soft_labels", "manifest.json"))
    assert manifest.teacher.repo_id == "lab/later-teacher"
    assert tree(again.path("evaluate")) == tree(whole.path("evaluate"))


def test_a_training_that_diverges_stops_before_the_next_stage(colors: Path, tmp_path: Path) -> None:
    run = Run(small_recipe(colors / "colors.yaml", tmp_path, "squeeze.optimizer.lr=1e30"))
    with pytest.raises(
        UserError, match=r"squeeze, epoch \d: the optimization diverged: values became nan; lower squeeze.optimizer.lr"
    ):
        condense(run)
    assert not run.path("teacher").exists()


@pytest.mark.long
def test_a_stage_without_its_predecessor_says_so(colors: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "srel_hub.recover", str(colors / "colors.yaml"), f"run.root={tmp_path}/runs"]
    done = execute(*command, cwd=tmp_path)
    assert done.returncode == 2 and "run `srel-hub squeeze` first" in done.stderr and "Traceback" not in done.stderr


# The same dataset, whatever happens


@pytest.fixture(scope="module")
def whole(colors: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run(small_recipe(colors / "colors.yaml", tmp_path_factory.mktemp("whole"), "recover.stack=1"))
    condense(run)
    return run


def test_two_runs_give_the_same_bytes(colors: Path, whole: Run, tmp_path: Path) -> None:
    again = Run(small_recipe(colors / "colors.yaml", tmp_path, "recover.stack=1"))
    condense(again)
    for part in ("teacher", "images", "soft_labels", "evaluate", "dataset", "teacher_repo"):
        assert tree(again.path(part)) == tree(whole.path(part)), part


def test_a_finished_run_is_left_alone(whole: Run) -> None:
    stages = ("teacher", "images", "soft_labels", "evaluate")
    before = {f: f.stat().st_mtime_ns for part in stages for f in whole.path(part).rglob("*.[psj]*") if f.is_file()}
    del before[whole.path("evaluate", "summary.json")]
    condense(whole)
    assert {file: file.stat().st_mtime_ns for file in before} == before


def test_lost_units_are_redone_to_the_same_bytes(colors: Path, whole: Run, tmp_path: Path) -> None:
    shutil.copytree(whole.folder, tmp_path / "colors")
    again = Run(small_recipe(colors / "colors.yaml", tmp_path, "recover.stack=1"))
    for lost in ("images/ipc-00001-class-00000.parquet", "soft_labels/epoch-00001.safetensors"):
        again.path(lost).unlink()
    with again.path("images/ipc-00002-class-00000.parquet").open("ab") as file:
        file.write(b"half-written")
    shutil.rmtree(again.path("evaluate", "convnet-0.1-condensed-seed1"))
    condense(again)
    for part in ("images", "soft_labels", "evaluate", "dataset"):
        assert tree(again.path(part)) == tree(whole.path(part)), part


@pytest.mark.long
@pytest.mark.parametrize("stage", ["squeeze", "recover", "relabel", "evaluate"])
def test_killed_equals_not_killed(colors: Path, whole: Run, tmp_path: Path, stage: str) -> None:
    """SIGKILL in the middle of a stage, then the same command again."""
    recipe = tmp_path / "colors.yaml"
    settled = yaml.safe_load(whole.path("recipe.yaml").read_text()) | {"run": {"root": str(tmp_path), "cpu_threads": 1}}
    recipe.write_text(yaml.safe_dump(settled))
    command = [sys.executable, "-m", "srel_hub.condense", str(recipe)]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    seen = ""
    while process.poll() is None and not re.search(rf"{stage}: +\d+%", seen):
        seen += process.stderr.read(1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    assert not (tmp_path / "colors" / "dataset").exists()
    condense(Run(small_recipe(colors / "colors.yaml", tmp_path, "recover.stack=1")))
    for part in ("teacher", "images", "soft_labels", "dataset", "teacher_repo"):
        assert tree(tmp_path / "colors" / part) == tree(whole.path(part)), part


# What a user would expect


def test_without_an_eval_split_results_are_not_measured(colors: Path, tmp_path: Path) -> None:
    run = Run(small_recipe(colors / "colors.yaml", tmp_path, "source.eval_split=null"))
    condense(run)
    assert "**not measured**" in run.path("dataset", "README.md").read_text()
    assert "Not measured" in run.path("teacher_repo", "README.md").read_text()
    assert read_json(run.path("dataset", "metrics.json")) == {"measured": False, "students": []}


def test_published_cards_name_their_repositories(
    colors: Path, tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_alice")
    overrides = ["publish.repo_id=lab/colors-ipc3", "publish.dry_run=true"]
    run = Run(small_recipe(colors / "colors.yaml", tmp_path, *overrides))
    condense(run)
    assert hub.state()["repos"] == {}
    card = run.path("dataset", "README.md").read_text()
    assert 'load_dataset("lab/colors-ipc3")' in card and "lab/colors-ipc3-teacher" in card
    front = yaml.safe_load(run.path("teacher_repo", "README.md").read_text().split("---")[1])
    assert "datasets" not in front  # the source is a local folder
    manifest = read_manifest(run.path("dataset", "soft_labels", "manifest.json"))
    assert manifest.teacher.repo_id == "lab/colors-ipc3-teacher"


def test_the_first_rows_are_the_smaller_dataset(colors: Path, whole: Run, tmp_path: Path) -> None:
    """Row order is ipc-major, and every ipc index has its own generator."""
    recipe = small_recipe(colors / "colors.yaml", tmp_path, "recover.ipc=2", "recover.stack=1")
    smaller = Run(recipe)
    condense(smaller)
    big, small = (load_condensed(run.path("dataset")) for run in (whole, smaller))
    assert torch.equal(big.pixels[:6], small.pixels) and torch.equal(big.labels[:6], small.labels)


def test_blocks_of_classes_and_stacks_come_together_in_row_order(tmp_path: Path) -> None:
    names = ["a", "b", "c", "d", "e"]
    file = write_recipe(tmp_path / "five.yaml", make_source(tmp_path / "source", (8, 8), names))
    overrides = ["recover.class_block=2", "recover.stack=2", "recover.iterations=60", "squeeze.epochs=20"]
    run = Run(small_recipe(file, tmp_path, "squeeze.network.width=0.3", "source.eval_split=null", *overrides))
    condense(run)
    assert len(list(run.path("images").glob("*.parquet"))) == 2 * 2  # stacks (2, 1) by blocks (2, 3)
    condensed = load_condensed(run.path("dataset"))
    assert condensed.labels.tolist() == [0, 1, 2, 3, 4] * 3
    assert condensed.manifest.teacher.accuracy > 0.9  # every image lies beside its own label


def test_progress_is_written_to_the_log(whole: Run) -> None:
    log = whole.path("log.txt").read_text()
    for stage in ("squeeze", "recover", "relabel", "evaluate"):
        assert re.search(rf"{stage}: 100%\|.*\|.*\[.*/s\]", log), stage
    lines = [json.loads(line) for line in whole.path("metrics.jsonl").read_text().splitlines()]
    assert {line["stage"] for line in lines} >= {"squeeze", "recover", "evaluate"}


@pytest.mark.long
def test_stages_run_alone_on_a_run_directory(whole: Run, tmp_path: Path) -> None:
    shutil.copytree(whole.folder, tmp_path / "colors")
    shutil.rmtree(tmp_path / "colors" / "dataset")
    started = time.time()
    for stage in ("relabel", "condense"):
        done = execute(sys.executable, "-m", f"srel_hub.{stage}", "colors", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "colors" / "dataset" / "README.md").stat().st_mtime > started
    assert tree(tmp_path / "colors" / "dataset") == tree(whole.path("dataset"))


@pytest.mark.parametrize(
    "model", ["resnet18", "resnet34", "resnet50", "resnet101", "convnet", "bn_vit_tiny", "regnet_y_400mf"]
)
def test_a_saved_teacher_comes_back_bit_for_bit(tmp_path: Path, model: str) -> None:
    from srel_hub.config.networks import Network

    network = networks.build(Network(model=model, width=0.05), NAMES, (16, 16), seed=1).train()  # type: ignore[arg-type]
    network(torch.randn(8, 3, 16, 16))  # moves the running statistics
    saved = teacher.Classifier(network.eval(), (0.4, 0.5, 0.6), (0.2, 0.3, 0.25), tuple(NAMES), (16, 16))
    teacher.save(saved, tmp_path)
    loaded = teacher.load(tmp_path, torch.device("cpu"))
    assert replace(loaded, model=network) == saved
    ours, theirs = network.state_dict(), loaded.model.state_dict()
    assert list(ours) == list(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)
    x = torch.randn(4, 3, 16, 16)  # equal weights need not give equal bits: kernels look at where memory is aligned
    torch.testing.assert_close(loaded.model(x).logits, network(x).logits)
