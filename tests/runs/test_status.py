"""The status of a run that works, was stopped, failed, or is complete."""

import json
import os
import signal
from pathlib import Path

import pytest
from runs import STAGES, arguments, finish, marked, paused, start, until, wait, world

from srel_hub.commands.program import main
from srel_hub.runs.status import status, status_lines


def test_a_run_from_its_beginning_to_its_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, run, log = world(tmp_path), tmp_path / "world", tmp_path / "log"
    pid = start(arguments(recipe, tmp_path), log)
    assert until(lambda: len(marked(run, "recover")) >= 2, pid)
    with paused(pid):
        found = status(run)
        squeeze, recover, relabel, _ = found.stages
        assert (squeeze.units, squeeze.units_done, squeeze.share) == (1, 1, 1.0) and squeeze.seconds_left is None
        assert recover.units == 5 and 2 <= recover.units_done < 5 and recover.bytes > 0
        assert recover.rate and recover.seconds_left and 0.4 <= recover.share < 1
        # what is left at this rate: steps of the units that are not done
        assert recover.seconds_left == pytest.approx((1 - recover.share) * 75 / recover.rate)
        assert relabel.units is None and not found.assembled
        assert [process["pid"] for process in found.processes] == [pid]
        assert f"process {pid}" in "\n".join(status_lines(found))
    os.kill(pid, signal.SIGTERM)
    assert wait(pid) == 143
    assert status(run).processes == () and status(run).error is None
    finish(arguments(recipe, tmp_path), log)
    assert main(["status", str(run), "--json"]) == 0
    whole = json.loads(capsys.readouterr().out)
    assert [(stage["units_done"], stage["share"]) for stage in whole["stages"]] == [(1, 1), (5, 1), (40, 1), (6, 1)]
    assert not any(stage["checkpoints"] for stage in whole["stages"])
    assert whole["assembled"] and whole["bytes"] == sum(f.stat().st_size for f in run.rglob("*") if f.is_file())


def test_the_last_error(tmp_path: Path) -> None:
    recipe, run = world(tmp_path), tmp_path / "world"
    assert wait(start(arguments(recipe, tmp_path, "squeeze.optimizer.lr=1e30"), tmp_path / "log")) == 2
    assert "diverged" in (status(run).error or "") and "last error: squeeze" in "\n".join(status_lines(status(run)))
    finish(arguments(recipe, tmp_path), tmp_path / "log")
    assert status(run).error is None


def test_a_training_that_was_stopped_is_shown_with_its_checkpoint(tmp_path: Path) -> None:
    recipe, run, log = world(tmp_path), tmp_path / "world", tmp_path / "log"
    quick = ["recover={ipc: 1, iterations: 1}", "relabel.epochs=1"]
    command = arguments(recipe, tmp_path, "squeeze.epochs=50", "evaluate.epochs=50", *quick)
    for stage in ("squeeze", "evaluate"):
        pid = start(command, log, every_epoch=True)
        assert until(lambda stage=stage: list((run / "checkpoints").glob(f"{stage}-*.json")), pid)
        os.kill(pid, signal.SIGTERM)
        assert wait(pid) == 143
        found = status(run)
        (shown,) = [found.stages[STAGES.index(stage)].checkpoints]
        ((unit, (epochs, of)),) = shown.items()
        assert 1 <= epochs < of == 50
        assert f"will resume: {stage} {unit}, after epoch {epochs} of 50" in list(status_lines(found))
        here = found.stages[STAGES.index(stage)]
        assert here.units is not None and here.share == pytest.approx((here.units_done + epochs / of) / here.units)


def test_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(tmp_path)]) == 2
    assert "there is no run here" in capsys.readouterr().err
