"""Kill it at any moment, fill its disk, damage its files, change its recipe: the same command gives the same dataset.

`make test` tries a seeded sample, `make test-long` all of it, going on where it was stopped (`.long/`), and writes the
table `tests/tables/kills.md`.
"""

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT, refused, small_recipe
from runs import (
    PARTS,
    STAGES,
    arguments,
    bytes_of,
    finish,
    marked,
    paused,
    records,
    start,
    units_done,
    until,
    up_to,
    wait,
    world,
)

from srel_hub.data.sources import open_source
from srel_hub.runs import claims, heartbeat
from srel_hub.runs import resume as settle
from srel_hub.runs import work_queue as work
from srel_hub.runs.checkpoint import Checkpoint
from srel_hub.runs.decoded_images import source_images
from srel_hub.runs.run import Run
from srel_hub.runs.work_queue import WorkQueue
from srel_hub.stages import relabel as relabel
from srel_hub.stages.evaluate import stage as evaluate
from srel_hub.storage import files as files


KILLS, SAMPLED_KILLS = 20, 1
FULL, SAMPLED_FULL = 30, 2
PROGRESS = ROOT / ".long" / "kills.jsonl"
TABLE = ROOT / "tests" / "tables" / "kills.md"


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A recipe, and its uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    recipe = world(folder)
    finish(arguments(recipe, folder), folder / "log")
    return recipe, folder / "world"


def kill_after(delay: float, command: list[str], log: Path, begun: Path, every_epoch: bool) -> bool:
    """Kill a run so many seconds after a file appeared; return whether it was still working."""
    pid = start(command, log, every_epoch)
    assert until(begun.is_file, pid)
    time.sleep(delay)
    os.kill(pid, signal.SIGKILL)
    status = wait(pid)
    assert status in (0, -signal.SIGKILL), log.read_text()[-2000:]
    return status != 0


def try_kill(whole: tuple[Path, Path], folder: Path, stage: str, number: int) -> dict[str, object]:
    """Kill a run at a random moment of a stage, run it again, and compare; what that cost."""
    recipe, reference = whole
    draw = random.Random(f"{stage}-{number}")
    run = up_to(reference, folder / "world", stage)
    times = [line["time"] for line in records(reference) if line["stage"] == stage and "unit" in line]
    begun = (reference / "units" / f"{stage}.json").stat().st_mtime
    delay = draw.random() * (max(times) - begun)
    every_epoch = draw.random() < 0.5
    command, log = arguments(recipe, folder), folder / "log"
    while not kill_after(delay, command, log, run / "units" / f"{stage}.json", every_epoch):
        delay /= 2  # the run was faster than the reference, and complete before the kill
        shutil.rmtree(run)
        up_to(reference, run, stage)
    before = marked(run, stage)
    kept = list((run / "checkpoints").glob("*")) if (run / "checkpoints").is_dir() else []
    newest = [(run / "units" / stage / f"{name}.json").stat().st_mtime for name in before]
    newest += [file.stat().st_mtime for file in kept] + [(run / "units" / f"{stage}.json").stat().st_mtime]
    lost = max(0.0, delay - (max(newest) - (run / "units" / f"{stage}.json").stat().st_mtime))
    finish(command, log, every_epoch=every_epoch)
    assert bytes_of(run) == bytes_of(reference)
    done = [unit for name, unit in units_done(run) if name == stage]
    twice = {unit for unit in done if done.count(unit) > 1}
    assert not twice & set(before) and len(twice) <= 1, "a unit that was marked was done again"
    assert not list(run.rglob(".*.tmp")) and not list(run.rglob("*.claim"))
    return {
        "stage": stage, "number": number, "units": len(marked(run, stage)), "kept": len(before),
        "checkpoint": bool(kept), "lost": round(lost, 3), "length": round(max(times) - begun, 3),
    }  # fmt: skip


@pytest.mark.parametrize("number", range(SAMPLED_KILLS))
@pytest.mark.parametrize("stage", STAGES)
def test_killed_equals_not_killed(whole: tuple[Path, Path], tmp_path: Path, stage: str, number: int) -> None:
    try_kill(whole, tmp_path, stage, number)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_killed_twenty_times_a_stage(whole: tuple[Path, Path], tmp_path: Path) -> None:
    PROGRESS.parent.mkdir(exist_ok=True)
    lines = PROGRESS.read_text().splitlines() if PROGRESS.is_file() else []
    told = {(case["stage"], case["number"]): case for case in map(json.loads, lines)}
    for stage in STAGES:
        for number in range(KILLS):
            if (stage, number) not in told:
                case = try_kill(whole, tmp_path / f"{stage}-{number}", stage, number)
                shutil.rmtree(tmp_path / f"{stage}-{number}")
                told[stage, number] = case
                with PROGRESS.open("a") as file:
                    file.write(json.dumps(case) + "\n")
    TABLE.write_text(table(list(told.values())))
    PROGRESS.unlink()


def table(cases: list[dict[str, object]]) -> str:
    lines = [
        "# Runs killed at random moments",
        "",
        f"Each stage was killed with SIGKILL at {KILLS} seeded random moments, and the same command run again; all",
        f"{len(cases)} datasets, teachers, images, labels and results were byte for byte those of the run that",
        "nobody stopped. Lost is the time from the last mark or checkpoint to the kill. Written by `make test-long`.",
        "",
        "| stage | kills | units | kept, mean | with a checkpoint | seconds of the stage | lost, mean | lost, most |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for stage in STAGES:
        of = [case for case in cases if case["stage"] == stage]
        lost = [float(str(case["lost"])) for case in of]
        kept = sum(int(str(case["kept"])) for case in of) / len(of)
        with_checkpoint = sum(bool(case["checkpoint"]) for case in of)
        cells = (stage, len(of), of[0]["units"], f"{kept:.1f}", with_checkpoint, of[0]["length"])
        spent = (f"{sum(lost) / len(lost):.2f}", f"{max(lost):.2f}")
        lines.append(f"| {' | '.join(str(cell) for cell in (*cells, *spent))} |")
    return "\n".join([*lines, ""])


@pytest.mark.parametrize(
    ("stage", "number", "status"), [("squeeze", signal.SIGTERM, 143), ("evaluate", signal.SIGINT, 130)]
)
def test_stopped_by_a_signal(
    whole: tuple[Path, Path], tmp_path: Path, stage: str, number: signal.Signals, status: int
) -> None:
    recipe, reference = whole
    run, command = up_to(reference, tmp_path / "world", stage), arguments(recipe, tmp_path)
    pid = start(command, tmp_path / "log", every_epoch=True)
    assert until(lambda: list((run / "checkpoints").glob("*")), pid)
    os.kill(pid, number)
    assert wait(pid) == status
    said = (tmp_path / "log").read_text()
    assert f"stopped by {number.name}: finished work is kept; run the same command again to resume" in said
    assert "Traceback" not in said and list((run / "checkpoints").glob("*"))
    assert not list((run / "processes").glob("*")) and not list(run.rglob("*.claim"))
    said = finish(command, tmp_path / "log")
    assert bytes_of(run) == bytes_of(reference)
    if stage == "squeeze":
        assert "squeeze: resuming after epoch" in said


def fail_at(nth: int, code: int) -> None:
    """Let the nth renaming of the atomic write fail."""
    rename, count = os.replace, 0

    def replace(source: Path, target: Path) -> None:
        nonlocal count
        count += 1
        if count >= nth:
            raise OSError(code, os.strerror(code), str(target))
        rename(source, target)

    files.os.replace = replace  # type: ignore[assignment, attr-defined]


def try_full(whole: tuple[Path, Path], folder: Path, number: int) -> None:
    recipe, reference = whole
    command, log = arguments(recipe, folder), folder / "log"
    count = sum(1 for line in units_done(reference)) * 2 + 20  # about as many files are written
    nth = random.Random(number).randrange(1, count)
    code = errno.ENOSPC if number % 2 else errno.EROFS
    status = wait(start(command, log, before=lambda: fail_at(nth, code)))
    said = log.read_text()
    assert status == 1 and os.strerror(code) in said and "run the same command again to resume" in said, said[-2000:]
    assert "Traceback" not in said
    finish(command, log)
    assert bytes_of(folder / "world") == bytes_of(reference)


@pytest.mark.parametrize("number", range(SAMPLED_FULL))
def test_no_space_left(whole: tuple[Path, Path], tmp_path: Path, number: int) -> None:
    try_full(whole, tmp_path, number)


@pytest.mark.long
@pytest.mark.parametrize("number", range(SAMPLED_FULL, FULL))
def test_no_space_left_anywhere(whole: tuple[Path, Path], tmp_path: Path, number: int) -> None:
    try_full(whole, tmp_path, number)


@pytest.mark.parametrize(
    "kilobytes", [80, *(pytest.param(size, marks=pytest.mark.long) for size in (40, 120, 160, 200))]
)
def test_a_disk_that_is_really_full(whole: tuple[Path, Path], tmp_path: Path, kilobytes: int) -> None:
    recipe, reference = whole
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here")
    try:
        (disk / "full").write_bytes(bytes(16 * 1024**2 - kilobytes * 1024))
        command = arguments(recipe, disk)
        status, said = wait(start(command, tmp_path / "log")), (tmp_path / "log").read_text()
        enough = "not enough disk" in said  # told before anything is written
        assert (status, "No space left" in said or enough) == (2 if enough else 1, True), said[-2000:]
        assert "Traceback" not in said
        (disk / "full").unlink()
        finish(command, tmp_path / "log")
        assert bytes_of(disk / "world") == bytes_of(reference)
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_a_directory_that_vanishes_is_not_made_anew(whole: tuple[Path, Path], tmp_path: Path) -> None:
    recipe, reference = whole
    run = up_to(reference, tmp_path / "world", "relabel")
    pid = start(arguments(recipe, tmp_path), tmp_path / "log")
    assert until((run / "units" / "relabel.json").is_file, pid)
    with paused(pid):
        run.rename(tmp_path / "elsewhere")
    assert wait(pid) == 1
    said = (tmp_path / "log").read_text()
    assert (
        "the run directory is gone; once it is back, finished work is kept" in said
        and "Traceback" not in said
        and not run.exists()
    )
    (tmp_path / "elsewhere").rename(run)
    finish(arguments(recipe, tmp_path), tmp_path / "log")
    assert bytes_of(run) == bytes_of(reference)


@pytest.mark.parametrize(
    "name",
    ["soft_labels", *(pytest.param(name, marks=pytest.mark.long) for name in ("images", "teacher", "evaluate"))],
)
def test_altered_files_are_done_again(whole: tuple[Path, Path], tmp_path: Path, name: str) -> None:
    recipe, reference = whole
    run = tmp_path / "world"
    shutil.copytree(reference, run)
    file = sorted(path for path in (run / name).rglob("*") if path.suffix in (".parquet", ".safetensors", ".jsonl"))[0]
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    stamp = file.stat()
    file.unlink()  # label files are links to the dataset's
    file.write_bytes(content)
    said = finish(arguments(recipe, tmp_path), tmp_path / "log")
    assert "changed since this part was completed; redoing it" in said and bytes_of(run) == bytes_of(reference)
    file.unlink()
    file.write_bytes(content)
    os.utime(file, ns=(stamp.st_atime_ns, (reference / file.relative_to(run)).stat().st_mtime_ns))
    marker = next(
        path for path in (run / "units").glob("*/*.json") if file.relative_to(run).as_posix() in path.read_text()
    )
    told = json.loads(marker.read_text())
    told[file.relative_to(run).as_posix()][1] = file.stat().st_mtime_ns
    marker.write_text(json.dumps(told))
    assert "nothing to do" in finish(arguments(recipe, tmp_path), tmp_path / "second")  # size and time agree
    finish(arguments(recipe, tmp_path, "run.check=full"), tmp_path / "third")
    assert bytes_of(run) == bytes_of(reference)


def test_a_complete_run_is_left_alone(whole: tuple[Path, Path], tmp_path: Path) -> None:
    recipe, reference = whole
    run = tmp_path / "world"
    shutil.copytree(reference, run)
    finish(arguments(recipe, tmp_path), tmp_path / "log")
    before = {file: file.stat().st_mtime_ns for part in PARTS for file in (run / part).rglob("*")}
    said = finish(arguments(recipe, tmp_path), tmp_path / "log")
    assert "is complete: nothing to do" in said
    assert before == {file: file.stat().st_mtime_ns for part in PARTS for file in (run / part).rglob("*")}


def test_a_changed_recipe(whole: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What changed is told; without overwrite nothing is touched, with it the rest is as if made afresh."""
    recipe, reference = whole
    run = tmp_path / "world"
    shutil.copytree(reference, run)
    before = bytes_of(run)
    said = refused(capsys, *arguments(recipe, tmp_path, "relabel.batch_size=3", "evaluate.epochs=3"))
    assert (
        "relabel.batch_size: 4 in the run, 3 requested" in said and "evaluate.epochs: 8 in the run, 3 requested" in said
    )
    assert "still valid: squeeze, recover; outdated: relabel, evaluate" in said
    assert "run.overwrite=true" in said and bytes_of(run) == before
    teacher = (run / "teacher" / "model.safetensors").stat().st_mtime_ns
    changed = ["relabel.epochs=7", "evaluate.epochs=3"]
    said = finish(arguments(recipe, tmp_path, *changed, "run.overwrite=true"), tmp_path / "log")
    assert (
        f"removed {run}/soft_labels_before (41 files, " in said and "relabel.epochs: 40 in the run, 7 requested" in said
    )
    assert (run / "teacher" / "model.safetensors").stat().st_mtime_ns == teacher
    finish(arguments(recipe, tmp_path / "fresh", *changed), tmp_path / "log")
    assert bytes_of(run) == bytes_of(tmp_path / "fresh" / "world")
    assert "nothing to do" in finish(arguments(recipe, tmp_path, *changed), tmp_path / "log")


def test_a_stack_is_found_anew_for_another_recipe(whole: tuple[Path, Path], tmp_path: Path) -> None:
    """And so is what was decoded, of a size that the first recipe did not have."""
    recipe, _ = whole
    few = ["recover.stack=auto", "recover.ipc=1", "relabel.epochs=4", "evaluate.epochs=4"]
    more = [*few, "recover.ipc=4", "source.image_size=6"]
    begun = arguments(recipe, tmp_path, *few)
    finish([*begun, "evaluate.students=[{model: convnet, width: 0.1}]", "source.eval_split=null"], tmp_path / "log")
    finish(arguments(recipe, tmp_path, *more, "run.overwrite=true"), tmp_path / "log")
    finish(arguments(recipe, tmp_path / "fresh", *more), tmp_path / "log")
    assert bytes_of(tmp_path / "world") == bytes_of(tmp_path / "fresh" / "world")
    assert len(list((tmp_path / "world" / "images").iterdir())) == 1, "four indices in one pass"


def test_nothing_is_replaced_under_a_launch_that_lives(
    whole: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, reference = whole
    run = up_to(reference, tmp_path / "world", "recover")
    pid = start(arguments(recipe, tmp_path), tmp_path / "log")
    assert until((run / "units" / "recover.json").is_file, pid)
    with paused(pid):
        said = refused(
            capsys, *arguments(recipe, tmp_path, "run.cooperate=true", "run.overwrite=true", "recover.lr=0.3")
        )
        assert f"process {pid} is working in" in said and "stop that launch first" in said
    assert wait(pid) == 0 and bytes_of(run) == bytes_of(reference)


def test_a_launch_that_slept_while_the_run_was_begun_anew(whole: tuple[Path, Path], tmp_path: Path) -> None:
    """It puts nothing of the old recipe into the new run."""
    recipe, reference = whole
    run = up_to(reference, tmp_path / "world", "recover")
    pid = start(arguments(recipe, tmp_path), tmp_path / "log", before=look_always)
    assert until((run / "units" / "recover.json").is_file, pid)
    changed = ["recover.lr=0.3"]
    with paused(pid):
        mark = next((run / "processes").glob("*.json"))
        os.utime(mark, (0, 0))  # for longer than ten beats
        finish(arguments(recipe, tmp_path, *changed, "run.overwrite=true"), tmp_path / "second")
    assert wait(pid) != 0
    finish(arguments(recipe, tmp_path / "fresh", *changed), tmp_path / "third")
    assert bytes_of(run) == bytes_of(tmp_path / "fresh" / "world")


def look_always() -> None:
    work.LOOK_EVERY = 0.0


def test_more_seeds_keep_the_trainings_that_are_there(whole: tuple[Path, Path], tmp_path: Path) -> None:
    recipe, reference = whole
    run = tmp_path / "world"
    shutil.copytree(reference, run)
    finish(arguments(recipe, tmp_path, "evaluate.seeds=3"), tmp_path / "log")
    done = [unit for stage, unit in units_done(run) if stage == "evaluate"]
    assert len(done) == len(set(done)) and sum("seed2" in unit for unit in done) == 3
    summary = json.loads((run / "evaluate" / "summary.json").read_text())
    assert {row["n"] for row in summary["students"][0]["rows"]} == {3}


def test_a_second_launch_is_refused_unless_it_cooperates(
    whole: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, reference = whole
    run = up_to(reference, tmp_path / "world", "recover")
    pid = start(arguments(recipe, tmp_path), tmp_path / "log")
    assert until((run / "units" / "recover.json").is_file, pid)
    with paused(pid):
        said = refused(capsys, *arguments(recipe, tmp_path))
        assert f"another launch is working in it ({os.uname().nodename}, process {pid})" in said
        assert "run.cooperate=true" in said
        second = start(arguments(recipe, tmp_path, "run.cooperate=true"), tmp_path / "second")
        assert until(lambda: len(marked(run, "recover")) >= 2, second)
    assert wait(pid) == 0 and wait(second) == 0
    done = units_done(run)
    assert len(done) == len(set(done)), "a unit was done twice while both lived"
    assert bytes_of(run) == bytes_of(reference) and len(workers(run)) == 2


@pytest.mark.parametrize("killed", [False, True], ids=["both live", "one is killed"])
def test_two_launches_share_the_work(whole: tuple[Path, Path], tmp_path: Path, killed: bool) -> None:
    recipe, reference = whole
    command, run = arguments(recipe, tmp_path, "run.cooperate=true"), tmp_path / "world"
    both = [start(command, tmp_path / name) for name in ("first", "second")]
    if killed:
        assert until(lambda: any(name.endswith(f"-{both[0]}") for name in workers(run)), both[0])
        os.kill(both[0], signal.SIGKILL)
    assert [wait(pid) for pid in both] == [-signal.SIGKILL if killed else 0, 0]
    done = units_done(run)
    assert len(done) == len(set(done)) and bytes_of(run) == bytes_of(reference)
    assert len(workers(run)) == 2 or not killed  # where both live, one may be too slow to get a unit


def workers(run: Path) -> set[str]:
    """The processes that did a unit."""
    return {line["process"] for line in records(run) if "unit" in line}


def in_the_middle(whole: tuple[Path, Path], root: Path) -> Run:
    """A run before relabel, in this process."""
    recipe, reference = whole
    up_to(reference, root / "world", "relabel")
    run = Run(small_recipe(recipe, root, *arguments(recipe, root)[1:]))
    run.begin()
    (run.folder / "units" / "relabel").mkdir()
    return run


def another(run: Run, **about: object) -> Path:
    """Write the file of a process on another machine."""
    file = run.path("processes", "far-1.json")
    told = json.loads(run.path("processes", f"{files.process_name()}.json").read_text())
    file.write_text(json.dumps({**told, "host": "far", "pid": 1, "launch": "other", **about}))
    return file


def test_a_claim_is_taken_over_after_ten_missed_beats(whole: tuple[Path, Path], tmp_path: Path) -> None:
    run = in_the_middle(whole, tmp_path)
    file, claim = another(run), run.marks.claim("relabel", "epoch-00000.safetensors")
    claim.write_text("far-1")
    assert run.heartbeat is not None and not claims.take(claim, run.heartbeat)
    now = time.time()
    os.utime(file, (now, now - heartbeat.MISSED * heartbeat.BEAT + 5))
    assert not claims.take(claim, run.heartbeat)
    os.utime(file, (now, now - heartbeat.MISSED * heartbeat.BEAT - 5))
    assert claims.take(claim, run.heartbeat) and claim.read_text() == files.process_name()
    run.close()


def test_a_unit_done_twice_is_counted(whole: tuple[Path, Path], tmp_path: Path) -> None:
    run = in_the_middle(whole, tmp_path)
    another(run)
    with WorkQueue(run, "relabel", {"epoch": 2}, "step") as work:
        for name in work:
            for _ in work.steps(range(2)):
                run.marks.claim("relabel", name).write_text("far-1")  # it slept, and another took over
            files.write_text(run.path("soft_labels.txt"), "the same bytes")
            work.done([run.path("soft_labels.txt")])
    assert [line["twice"] for line in records(run.folder) if line.get("unit") == "epoch"] == [True]
    assert "epoch was computed twice" in run.path("log.txt").read_text()
    run.close()


def test_two_splits_that_are_streamed_are_not_taken_for_one(whole: tuple[Path, Path], tmp_path: Path) -> None:
    """They have the same number of images, and nothing else is known of them."""
    recipe, _ = whole
    run = Run(small_recipe(recipe, tmp_path, "source.streaming=true"))
    run.begin()
    source = open_source(run.recipe.source, run.progress)
    assert source.train is not None and source.eval is not None
    for split in (source.eval, source.train):
        assert torch.equal(source_images(run, split, None).pixels, split.images(None).pixels)
    run.close()


def test_launches_of_different_machines_share_the_threads_of_the_first(
    whole: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, _ = whole
    options = ["run.cooperate=true", "run.cpu_threads=auto"]
    monkeypatch.setattr(settle, "fair_threads", lambda: 4)
    second = Run(small_recipe(recipe, tmp_path, *options))
    with monkeypatch.context() as machine:
        machine.setattr(settle, "fair_threads", lambda: 2)
        first = Run(small_recipe(recipe, tmp_path, *options))
        first.begin()
    another(first)
    second.begin()
    assert second.recipe.run.cpu_threads == 2
    first.close()
    assert second.path("processes", f"{files.process_name()}.json").is_file(), "it still works there"
    second.close()
    torch.set_num_threads(1)


def test_what_sums_up_a_stage_follows_its_units(whole: tuple[Path, Path], tmp_path: Path) -> None:
    """On a device that gives other bits each time, a unit that is done again changes what rests on it."""
    recipe, reference = whole
    run = tmp_path / "world"
    shutil.copytree(reference, run)
    label, metrics = (
        run / "soft_labels/epoch-00003.safetensors",
        run / "evaluate/convnet-0.1-condensed-seed0/metrics.json",
    )
    for file in (label, metrics):
        file.unlink()
    finish(arguments(recipe, tmp_path), tmp_path / "log", before=other_bits)
    manifest = json.loads((run / "soft_labels" / "manifest.json").read_text())
    assert files.sha256(label) == next(f["sha256"] for f in manifest["files"] if f["name"] == label.name)
    summary = json.loads((run / "evaluate" / "summary.json").read_text())
    assert summary["students"][0]["rows"][0]["top1"]["values"][0] == json.loads(metrics.read_text())["top1"] == 0.125


def other_bits() -> None:
    compute = relabel.label
    relabel.label = lambda *arguments: ((images, logits + 0.5) for images, logits in compute(*arguments))
    evaluate.accuracy = lambda *_: (0.125, 0.5)  # type: ignore[attr-defined]


def test_a_temporary_folder_of_a_process_of_the_same_number(tmp_path: Path) -> None:
    (tmp_path / f".place.{files.process_name()}.tmp" / "left").mkdir(parents=True)
    with files.atomic_write(tmp_path / "place") as temporary:
        temporary.mkdir()
        (temporary / "new").touch()
    assert [path.name for path in (tmp_path / "place").iterdir()] == ["new"]


def test_a_damaged_checkpoint_is_not_used(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 2)
    kept = Checkpoint(tmp_path / "kept", model, torch.optim.SGD(model.parameters()))
    kept.add(False, loss=1.0)
    kept._write()
    fresh = Checkpoint(tmp_path / "kept", model, torch.optim.SGD(model.parameters()))
    fresh.restore()
    assert fresh.curve == [{"loss": 1.0}]
    content = bytearray((tmp_path / "kept").read_bytes())
    content[-10] ^= 1
    (tmp_path / "kept").write_bytes(content)
    damaged = Checkpoint(tmp_path / "kept", model, torch.optim.SGD(model.parameters()))
    damaged.restore()
    assert damaged.epochs == 0
