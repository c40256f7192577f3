"""Continual learning: order of classes, soft labels, memories, interruption, several processes, tables."""

import csv
import os
import shutil
import signal
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import execute, make_source, small_recipe, write_recipe
from hypothesis import given
from hypothesis import strategies as st
from runs import bytes_of, records, start, until, wait

from srel_hub.commands.program import main
from srel_hub.condense import condense
from srel_hub.config import Evaluate, load_recipe
from srel_hub.data.sources import open_source
from srel_hub.data.splits import DecodedSplit, Images, channel_statistics
from srel_hub.labels.labeller import make_labeller
from srel_hub.recover import recover
from srel_hub.runs.run import Run
from srel_hub.squeeze import squeeze
from srel_hub.storage.condensed_table import encode_png, write_parquet
from srel_hub.storage.files import read_json
from srel_hub.studies.continual.protocol import Setting, Training, memory_names, remap_labels, restrict_labeller
from srel_hub.studies.continual.study import results_folder
from srel_hub.studies.continual.teachers import StepTeachers
from srel_hub.studies.continual.trainer import ContinualTrainer
from srel_hub.teachers.classifier import Classifier, load_classifiers


QUICK = [
    "precision=float32",
    "squeeze={network: {model: convnet, width: 0.1}, epochs: 4}",
    "recover={ipc: 3, iterations: 5}",
    "relabel.augment={mix: cutmix}",
    "evaluate={students: [{model: convnet, width: 0.1}], epochs: 4, batch_size: 15}",
    "run.cpu_threads=1",
]
THREE = Setting(3, "seen", 2, 0)  # of 3, 3 and 4 classes
MEMORIES = memory_names(Evaluate())


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of the digits whose squeeze and recover are complete."""
    root = tmp_path_factory.mktemp("begun")
    run = Run(load_recipe("quickstart", [*QUICK, f"run.root={root}"]))
    squeeze(run)
    recover(run)
    run.close()
    return run.folder


def learn(run: Path, setting: Setting) -> Path:
    """Run `srel-hub continual RUN ...` and return its folder of results."""
    main(["continual", *command(run, setting)])
    return results_folder(Run(load_recipe(run, [f"run.root={run.parent}"])), setting)


def command(run: Path, setting: Setting) -> list[str]:
    options = {"steps": setting.steps, "labels": setting.labels, "seeds": setting.seeds, "order": setting.order}
    return [str(run), *(f"--{name}={value}" for name, value in options.items())]


@pytest.fixture(scope="module")
def learned(begun: Path) -> Path:
    return learn(begun, THREE)


@pytest.fixture(scope="module")
def taught(begun: Path) -> Path:
    """Return the results of a study with a teacher for each of two steps."""
    return learn(begun, Setting(2, "step", 1, 0))


@pytest.fixture
def own(begun: Path, learned: Path, tmp_path: Path) -> Path:
    """Return a copy of the run that a test may change."""
    shutil.copytree(begun, tmp_path / begun.name)
    return tmp_path / begun.name


def classifiers_of(run: Run) -> list[Classifier]:
    return load_classifiers([run.path(name) for name in run.recipe.label_folders], run.device)


@contextmanager
def trainer_of(run_folder: Path, setting: Setting, folder: Path) -> Iterator[ContinualTrainer]:
    run = Run(load_recipe(run_folder, [f"run.root={run_folder.parent}"]))
    run.begin()
    try:
        yield ContinualTrainer(run, setting, open_source(run.recipe.source, run.progress), classifiers_of(run), folder)
    finally:
        run.close()


@given(st.integers(4, 60), st.data())
def test_classes_arrive_in_equal_parts_in_a_seeded_order(count: int, data: st.DataObject) -> None:
    steps, order = data.draw(st.integers(2, count // 2)), data.draw(st.integers(0, 2**32 - 1))
    setting = Setting(steps, "seen", 1, order)
    seen = setting.seen(count)
    sizes = [len(late) - len(early) for early, late in zip([[], *seen], seen, strict=False)]
    assert max(sizes) - min(sizes) <= 1 and min(sizes) >= 2 and len(seen) == steps
    assert all(late[: len(early)] == early for early, late in zip(seen, seen[1:], strict=False))
    assert sorted(seen[-1]) == list(range(count))
    assert seen == setting.seen(count)
    assert len({tuple(replace(setting, order=other).seen(count)[-1]) for other in range(8)}) > 1


def test_a_restricted_labeller_gives_the_columns_of_the_classes(begun: Path, tmp_path: Path) -> None:
    with trainer_of(begun, THREE, tmp_path) as trainer:
        labeller = make_labeller(classifiers_of(trainer.run), trainer.run.engine, trainer.run.device, None)
        pixels = trainer.memory(Training(2, "condensed", 0)).pixels
        classes = torch.tensor([7, 0, 4])
        assert torch.equal(restrict_labeller(labeller, classes)(pixels), labeller(pixels)[:, [7, 0, 4]])
        assert torch.equal(trainer.labeller(0)(pixels), labeller(pixels)[:, THREE.seen(10)[0]])


def test_labels_become_indices_of_outputs() -> None:
    images = Images(torch.arange(4).view(4, 1, 1, 1), torch.tensor([8, 1, 8, 5]))
    mapped = remap_labels(images, torch.tensor([5, 8, 1]))
    assert mapped.labels.tolist() == [1, 2, 1, 0] and torch.equal(mapped.pixels, images.pixels)
    with pytest.raises(AssertionError):
        remap_labels(images, torch.tensor([5, 8]))


def as_set(images: Images, classes: torch.Tensor) -> set[tuple[int, bytes]]:
    """Return each image with its class."""
    own = classes[images.labels].tolist()
    return {(label, x.numpy().tobytes()) for label, x in zip(own, images.pixels, strict=True)}


def test_memories_have_the_classes_seen_and_keep_their_images(begun: Path, tmp_path: Path) -> None:
    with trainer_of(begun, THREE, tmp_path) as trainer:
        source = open_source(trainer.run.recipe.source, trainer.run.progress)
        assert source.train is not None
        all_classes = torch.arange(10)
        real = as_set(source.train.images(None), all_classes)
        for memory in MEMORIES:
            before = set[tuple[int, bytes]]()
            for step in range(3):
                images = trainer.memory(Training(step, memory, 1))
                counts = images.labels.bincount(minlength=len(trainer.outputs(step)))
                assert counts.tolist() == [3] * len(THREE.seen(10)[step])
                here = as_set(images, trainer.outputs(step))
                assert before <= here and (here <= real) == memory.startswith("random")
                before = here
        soft, hard, other = (
            as_set(trainer.memory(Training(2, memory, seed)), all_classes)
            for memory, seed in [("random-real", 0), ("random-real-hard", 0), ("random-real", 1)]
        )
        assert soft == hard != other


@pytest.mark.parametrize("labels", ["seen", "all"])
def test_students_are_evaluated_on_the_classes_seen(begun: Path, tmp_path: Path, labels: str) -> None:
    setting = replace(THREE, labels=labels)
    with trainer_of(begun, setting, tmp_path) as trainer:
        source = open_source(trainer.run.recipe.source, trainer.run.progress)
        assert source.eval is not None
        for step, seen in enumerate(setting.seen(10)):
            test = trainer.test_images(step)
            assert trainer.outputs(step)[test.labels].unique().tolist() == sorted(seen)
            assert len(test.labels) == sum(int((source.eval.labels == label).sum()) for label in seen)
            outputs = 10 if labels == "all" else len(seen)
            assert trainer.student(Training(step, "condensed", 0)).config.num_labels == outputs
            assert trainer.labeller(step)(test.pixels[:2]).shape == (2, outputs)


def test_memories_of_a_seed_start_from_equal_weights(begun: Path, tmp_path: Path) -> None:
    with trainer_of(begun, THREE, tmp_path) as trainer:

        def weights(training: Training) -> bytes:
            return b"".join(value.numpy().tobytes() for value in trainer.student(training).state_dict().values())

        assert len({weights(Training(1, memory, 0)) for memory in MEMORIES}) == 1
        assert weights(Training(1, "condensed", 0)) != weights(Training(1, "condensed", 1))


def test_labels_without_future_classes_give_other_students(begun: Path, learned: Path) -> None:
    of_all = learn(begun, Setting(3, "all", 1, 0))
    for memory in MEMORIES:
        names = [f"{Training(step, memory, 0).name}.json" for step in range(3)]
        own, others = ([read_json(folder / name) for name in names] for folder in (learned, of_all))
        assert [result["images"] for result in own] == [result["images"] for result in others] == [9, 18, 30]
        assert own != others
    assert "chosen among all classes" in (of_all / "table.md").read_text()
    assert "chosen among these classes" in (learned / "table.md").read_text()


def test_a_teacher_of_a_step_does_not_depend_on_later_classes(own: Path, taught: Path) -> None:
    """Replace the images of later classes: the teacher is the same, bit for bit."""
    setting = Setting(2, "step", 1, 0)
    with trainer_of(own, setting, taught) as trainer:
        seen = setting.seen(10)
        for step, classes in enumerate(seen):
            teacher = trainer.teachers.load(step)
            assert teacher.class_names == tuple(map(str, classes))
            assert (teacher.mean, teacher.std) == channel_statistics(trainer.teachers.images(step).pixels)
        source = open_source(trainer.run.recipe.source, trainer.run.progress)
        assert source.train is not None
        whole = source.train.images(None)
        pixels = whole.pixels.clone()
        pixels[~torch.isin(whole.labels, torch.tensor(seen[0]))] = 0
        split = DecodedSplit(Images(pixels, whole.labels))
        other = own / "continual" / "other"
        other.mkdir()
        run, spec, seed = trainer.run, trainer.run.recipe.squeeze, trainer.run.recipe.seed
        StepTeachers(run, spec, seed, setting, classifiers_of(run)[0], split, other).train_missing()
    ours, theirs = ([(folder / f"teacher-{n}.safetensors").read_bytes() for n in (1, 2)] for folder in (taught, other))
    assert ours[0] == theirs[0] and ours[1] != theirs[1]


def test_summary_table_csv_and_trainings_agree(learned: Path) -> None:
    results = {
        (step, memory, seed): read_json(learned / f"{Training(step, memory, seed).name}.json")
        for step in range(3)
        for memory in MEMORIES
        for seed in range(2)
    }
    summary, text = read_json(learned / "summary.json"), (learned / "table.md").read_text()
    lines = {line.split(" | ")[0].strip("| "): line for line in text.splitlines() if line.startswith("|")}
    assert lines["memory"] == "| memory | 3 classes | 6 classes | 10 classes | average |"
    with (learned / "table.csv").open() as file:
        records = list(csv.DictReader(file))
    assert len(records) == 4 * 3
    for memory in MEMORIES:
        cells = []
        for step in range(3):
            values = [results[step, memory, seed]["top1"] for seed in range(2)]
            mean, std = sum(values) / 2, abs(values[0] - values[1]) / 2**0.5
            row = next(row for row in records if row["memory"] == memory and row["step"] == str(step + 1))
            assert (row["classes"], row["images"], row["n"]) == (str([3, 6, 10][step]), str([9, 18, 30][step]), "2")
            assert float(row["top1"]) == pytest.approx(mean) and float(row["std"]) == pytest.approx(std)
            cells.append(f"{100 * mean:.2f} +- {100 * std:.2f}")
        means = [sum(results[step, memory, seed]["top1"] for step in range(3)) / 3 for seed in range(2)]
        assert summary["memories"][memory]["average"]["mean"] == pytest.approx(sum(means) / 2)
        cells.append(f"{100 * sum(means) / 2:.2f} +- {100 * statistics.stdev(means):.2f}")
        assert lines[memory] == f"| {memory} | {' | '.join(cells)} |"
    assert (learned / "plot.png").read_bytes()[1:4] == b"PNG"


def test_a_complete_study_trains_nothing_and_fewer_seeds_are_reported(own: Path, learned: Path) -> None:
    before = bytes_of(own, ("continual", "units")), (own / "metrics.jsonl").read_bytes()
    learn(own, THREE)
    assert before == (bytes_of(own, ("continual", "units")), (own / "metrics.jsonl").read_bytes())
    learn(own, replace(THREE, seeds=1))
    assert before[1] == (own / "metrics.jsonl").read_bytes()
    text = (own / "continual" / learned.name / "table.md").read_text()
    assert "+-" not in text and "one seed" in text


def test_another_student_order_or_teacher_has_another_folder(own: Path, learned: Path) -> None:
    def place(setting: Setting, *overrides: str) -> str:
        return results_folder(Run(load_recipe(own, [f"run.root={own.parent}", *overrides])), setting).name

    narrow, wide = ("evaluate.students=[" + "{model: convnet, width: 0.1}, " * n + "{model: convnet}]" for n in (1, 0))
    same = [place(THREE), place(replace(THREE, seeds=9)), place(THREE, narrow), place(THREE, "evaluate.seeds=1")]
    assert set(same) == {learned.name}
    others = [
        place(replace(THREE, order=1)),
        place(THREE, wide),
        place(THREE, "squeeze.epochs=9", "run.overwrite=true"),
    ]
    others += [place(replace(THREE, steps=2)), place(replace(THREE, labels="all"))]
    mark = own / "units" / "squeeze" / "teacher.json"
    mark.write_text(mark.read_text().replace(read_json(mark)["teacher/model.safetensors"][2], "0" * 64))
    others.append(place(THREE))
    assert len({learned.name, *others}) == 1 + len(others)


@pytest.mark.long
def test_a_killed_study_resumes_to_the_same_results(begun: Path, taught: Path, tmp_path: Path) -> None:
    run = tmp_path / begun.name
    shutil.copytree(begun, run, ignore=lambda _, names: {"continual", "metrics.jsonl"} & {*names})
    line, log = command(run, Setting(2, "step", 1, 0)), tmp_path / "log.txt"
    for pattern in ("continual-*teacher-2", "continual-*-step-1-condensed-hard-seed0"):
        pid = start(["continual", *line], log, every_epoch=True, main=main)
        until(lambda pattern=pattern: list(run.glob(f"checkpoints/{pattern}")), pid)
        os.kill(pid, signal.SIGKILL)
        assert wait(pid) == -signal.SIGKILL
    done = {line["unit"] for line in records(run)}
    assert done and not any("random" in unit for unit in done)
    assert wait(start(["continual", *line], log, every_epoch=True, main=main)) == 0, log.read_text()[-3000:]
    units = [line["unit"] for line in records(run)]
    assert len(units) == len(set(units)) == 2 + 8
    assert bytes_of(run / "continual", (taught.name,)) == bytes_of(begun / "continual", (taught.name,))
    assert not list(run.glob("checkpoints/*"))


@pytest.mark.long
def test_two_processes_equal_one(begun: Path, taught: Path, tmp_path: Path, launcher_port: None) -> None:
    run = tmp_path / begun.name
    shutil.copytree(begun, run, ignore=lambda _, names: {"continual", "metrics.jsonl"} & {*names})
    line = command(run, Setting(2, "step", 1, 0))
    done = execute("accelerate", "launch", "--multi_gpu", "--num_processes", "2", "-m", "srel_hub", "continual", *line,
                   cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert len({line["process"] for line in records(run) if "teacher" in line["unit"]}) == 2
    assert bytes_of(run / "continual", (taught.name,)) == bytes_of(begun / "continual", (taught.name,))


def test_a_loss_of_class_labels_has_two_memories() -> None:
    assert memory_names(Evaluate(loss="hard")) == ("condensed", "random-real")


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the error message of a command that exits with status 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main(["continual", *arguments])
    error = capsys.readouterr().err
    assert caught.value.code == 2 and "Traceback" not in error
    return error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "6"], "--steps=6: must be from 2 to 5: each step needs"),
        (["--steps", "1"], "--steps=1: must be from 2 to 5: each step needs"),
        (["--seeds", "0"], "--seeds=0: must be at least 1"),
        (["--order", "-1"], "--order=-1: must be 0 to 4294967295"),
        (["--order", str(2**32)], "--order=4294967296: must be"),
        (["--labels", "none"], "invalid choice: 'none'"),
        (["squeeze.epochs=9"], "holds a run of another recipe"),
        (
            ["squeeze.epochs=9", "run.overwrite=true"],
            "teacher is missing, or was made with another recipe; run `srel-hub squeeze",
        ),
        (
            ["recover.iterations=9", "run.overwrite=true"],
            "images is incomplete, or was made with another recipe; run `srel-hub recover",
        ),
        (["evaluate.epohs=9"], "did you mean epochs?"),
    ],
)
def test_a_mistake_is_reported_before_anything_is_written(
    begun: Path, learned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    before = bytes_of(begun, ("continual", "images", "teacher", "units"))
    assert message in refusal(capsys, str(begun), *arguments)
    assert before == bytes_of(begun, ("continual", "images", "teacher", "units"))


def test_an_incomplete_run_is_refused(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "teacher is missing" in refusal(capsys, "quickstart", f"run.root={tmp_path / 'none'}")
    assert not (tmp_path / "none").exists()
    next((own / "images").glob("*.parquet")).unlink()
    assert "images is incomplete" in refusal(capsys, str(own))


def colors(folder: Path, count: int) -> Run:
    """Return a run, complete up to recover, of a dataset with `count` classes and eval images of the first two."""
    names = ["red", "green", "blue", "gray"][:count]
    source = make_source(folder / "source", (8, 8), names)
    noise = torch.randint(0, 256, (9, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    write_parquet(source / "test.parquet", [encode_png(x) for x in noise], [0, 1, 0] * 3, names)
    run = Run(small_recipe(write_recipe(folder / "colors.yaml", source), folder / "runs"))
    squeeze(run)
    recover(run)
    run.close()
    return run


@pytest.mark.long
def test_a_dataset_on_disk_and_its_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "continual learning needs at least 4 classes" in refusal(capsys, str(colors(tmp_path / "three", 3).folder))
    run = colors(tmp_path / "four", 4)
    order, lacking = (
        next(order for order in range(99) if set(Setting(2, "seen", 1, order).seen(4)[0]) == first)
        for first in ({0, 3}, {2, 3})
    )
    assert "has no image of the first step's classes" in refusal(
        capsys, str(run.folder), "--steps", "2", "--order", str(lacking)
    )
    folder = learn(run.folder, Setting(2, "step", 1, order))
    results = [read_json(folder / f"{Training(step, 'random-real', 0).name}.json") for step in (0, 1)]
    assert [(result["images"], result["eval_images"], result["classes"]) for result in results] == [
        (6, 6, 2),
        (12, 9, 4),
    ]
    assert any(run.path("cache").iterdir())  # a stage is not done yet, which may need them
    condense(Run(load_recipe(run.folder, [f"run.root={run.folder.parent}"])))
    learn(run.folder, Setting(2, "all", 1, order))
    assert not run.path("cache").exists() and not run.path("checkpoints").exists()
    make_source(tmp_path / "four" / "source", (8, 8), ["red", "green", "blue", "gray"], per_class=13)
    assert "the data changed since" in refusal(capsys, str(run.folder), "--steps", "2")


def test_a_teacher_of_all_classes_cannot_teach_step_by_step(
    begun: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(load_recipe("quickstart", [*QUICK, f"run.root={tmp_path}", f"squeeze.pretrained.path={begun}/teacher"]))
    squeeze(run)
    recover(run)
    run.close()
    assert "squeeze.pretrained sets a teacher that was trained on all classes" in refusal(
        capsys, str(run.folder), "--labels", "step"
    )
