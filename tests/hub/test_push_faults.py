"""Every request of a push fails in every way, and pushes are killed at any time: the same command completes them.

`make test` runs a seeded sample. `make test-long` runs all, resumes where it was stopped (`.long/`), and writes the
table `tests/tables/push_faults.md`.
"""

import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from local_hub.client import Hub

from srel_hub.config import load_recipe
from srel_hub.errors import UnavailableError, UserError
from srel_hub.publish import publish
from srel_hub.runs.run import Run


DATASET = "alice/colors-ipc3"
KINDS = ("500", "503", "429", "cut", "lost")
SAMPLED, KILLS = 3, 10
PROGRESS = ROOT / ".long" / "push_faults.jsonl"
TABLE = ROOT / "tests" / "tables" / "push_faults.md"
AT_ONCE, AGAIN = "completes", "completes with the second command"


@pytest.fixture
def alice(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    monkeypatch.setenv("HF_TOKEN", "hf_alice")
    monkeypatch.setattr(time, "sleep", lambda _: None)  # a Hub that fails on demand needs no pause
    return hub


def push(folder: Path) -> str | None:
    """Run one command, and return its message if it fails."""
    try:
        publish(Run(load_recipe(folder, [f"run.root={folder.parent}", f"publish.repo_id={DATASET}"])))
    except (UserError, UnavailableError) as error:
        return str(error)
    return None


def whole(folder: Path) -> dict[str, set[str]]:
    """Return the files that each repository must hold."""
    return {
        name: {path.relative_to(folder / part).as_posix() for path in (folder / part).rglob("*") if path.is_file()}
        for name, part in ((f"datasets/{DATASET}", "dataset"), (f"models/{DATASET}-teacher", "teacher_repo"))
    }


def require_nothing_half(hub: Hub, folder: Path) -> None:
    """Assert that a repository has all files or none, at most one commit of ours, and no dataset lacks its teacher."""
    complete = {}
    for name, files in whole(folder).items():
        refs = hub.state()["repos"].get(name, {"refs": {"main": {"files": {}, "titles": [""]}}})["refs"]
        assert set(refs["main"]["files"]) in (files, set()), name
        assert len(refs["main"]["titles"]) <= 2, f"{name}: a commit was made twice"
        assert refs.get("v1.0", refs["main"]) == refs["main"], name
        complete[name.split("/")[0]] = set(refs["main"]["files"]) == files
    assert complete["models"] or not complete["datasets"]


def require_whole(hub: Hub, folder: Path) -> None:
    require_nothing_half(hub, folder)
    for name in whole(folder):
        assert "v1.0" in hub.state()["repos"][name]["refs"], name
        assert hub.state()["repos"][name]["refs"]["main"]["files"], name


def sent(log: list[dict[str, Any]]) -> list[str]:
    """Return the objects whose upload succeeded."""
    return [
        entry["path"].split("?")[0]
        for entry in log
        if entry["method"] == "PUT" and entry["status"] == 200 and entry["fault"] is None
    ]


def try_fault(hub: Hub, folder: Path, nth: int, kind: str) -> tuple[str, str]:
    """Push with the nth request failing; again if that stopped. Returns the request and the outcome."""
    hub.reset()
    hub.faults({"kind": kind, "nth": nth})
    stopped = push(folder)
    log = hub.log()
    struck = next((named(entry) for entry in log if entry["fault"] == kind), "none")
    assert len(sent(log)) == len(set(sent(log))), "an object was sent twice"
    require_nothing_half(hub, folder)
    if stopped is not None:
        assert re.search(r"[a-z]{4}", stopped) and "Traceback" not in stopped and len(stopped) < 1000, stopped
        hub.faults()
        assert push(folder) is None
        assert not set(sent(hub.log())) & set(sent(log)), "what was there was sent again"
    require_whole(hub, folder)
    return struck, AT_ONCE if stopped is None else AGAIN


def named(entry: dict[str, Any]) -> str:
    """Return a request without what differs from run to run."""
    path = re.sub("[0-9a-f]{64}", "SHA256", entry["path"].split("?")[0])
    path = re.sub(r"epoch-\d+", "epoch-N", re.sub("[0-9a-f]{40}", "COMMIT", path))
    return f"{entry['method']} {path}"


def requests_of_a_push(hub: Hub, folder: Path) -> int:
    hub.reset()
    assert push(folder) is None
    return len(hub.log())


def test_a_sample_of_failing_requests(alice: Hub, own: Path) -> None:
    count = requests_of_a_push(alice, own)
    draw = random.Random(20261122)
    for kind in draw.sample(KINDS, SAMPLED):
        try_fault(alice, own, draw.randint(1, count), kind)


def test_a_commit_whose_answer_is_lost_is_made_once(alice: Hub, own: Path) -> None:
    for name in ("models", "datasets"):
        alice.reset()
        alice.faults({"kind": "lost", "path": f"{name}/.*/commit/"})
        assert push(own) is None
        require_whole(alice, own)
        assert Counter(entry["path"].split("/")[-2] for entry in alice.log() if "/commit/" in entry["path"]) == {
            "commit": 2
        }


def test_a_retry_waits_as_long_as_the_hub_asks(alice: Hub, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    alice.faults({"kind": "429", "path": "datasets/.*/commit/"})
    assert push(own) is None
    assert waited == [3.0]  # our own first pause is shorter


@pytest.mark.parametrize(
    "path",
    [
        "/commit/",
        *(pytest.param(path, marks=pytest.mark.long) for path in ("create", "_lfs", "objects/batch", "/tag/")),
        *(pytest.param(path, marks=pytest.mark.long) for path in ("/resolve/", "_cdn")),
    ],
)
def test_a_hub_that_stays_down_stops_the_push_with_a_message(alice: Hub, own: Path, path: str) -> None:
    alice.faults({"kind": "503", "path": path, "times": 999})
    stopped = push(own)
    assert stopped is not None and "the Hub responded with status 503" in stopped and "colors-ipc3" in stopped, stopped
    require_nothing_half(alice, own)
    already = set(sent(alice.log()))
    alice.faults()
    assert push(own) is None
    require_whole(alice, own)
    assert not set(sent(alice.log())) & already


def kill_at(hub: Hub, folder: Path, nth: int, kind: str) -> str:
    """Kill a push in its own process while its nth request is held, and run the same command again."""
    hub.reset()
    hub.faults({"kind": kind, "nth": nth})
    command = [sys.executable, "-m", "srel_hub.publish", str(folder), f"publish.repo_id={DATASET}"]
    process = subprocess.Popen(command, env=dict(os.environ), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait = REAL_SLEEP
    while process.poll() is None and not any(entry["fault"] for entry in hub.log()):
        wait(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    struck = next(named(entry) for entry in hub.log() if entry["fault"])
    already = set(sent(hub.log()))
    require_nothing_half(hub, folder)
    hub.faults()
    assert push(folder) is None
    require_whole(hub, folder)
    assert not set(sent(hub.log())) & already
    assert not list(folder.glob(".read-back-*"))
    return struck


REAL_SLEEP = time.sleep


def test_a_push_that_was_killed_is_completed_by_the_same_command(alice: Hub, own: Path) -> None:
    kill_at(alice, own, random.Random(7).randint(8, 40), "late")


@pytest.mark.long
@pytest.mark.timeout(4 * 3600)
def test_every_request_failing_in_every_way_and_ten_kills(alice: Hub, own: Path) -> None:
    count = requests_of_a_push(alice, own)
    PROGRESS.parent.mkdir(exist_ok=True)
    known = json.dumps([count, sources()])
    rows = [json.loads(line) for line in PROGRESS.read_text().splitlines()] if PROGRESS.is_file() else []
    done = {row["case"]: row for row in rows if row["of"] == known}
    cases = [f"{kind} {nth}" for nth in range(1, count + 1) for kind in KINDS]
    draw = random.Random(1)
    cases += [f"{'hold' if index % 2 else 'late'} {draw.randint(1, count)}" for index in range(KILLS)]
    with PROGRESS.open("a") as file:
        for case in cases:
            if case not in done:
                kind, nth = case.split()
                kills = kind in ("hold", "late")
                struck, outcome = (
                    (kill_at(alice, own, int(nth), kind), "killed, " + AGAIN)
                    if kills
                    else try_fault(alice, own, int(nth), kind)
                )
                done[case] = {"of": known, "case": case, "request": struck, "outcome": outcome}
                file.write(json.dumps(done[case]) + "\n")
                file.flush()
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text(table([done[case] for case in cases], count))


def sources() -> str:
    """Return a digest of the modules that the results depend on."""
    digest = hashlib.sha256()
    for name in ("hub/client", "hub/push", "hub/push_plan", "hub/read_back", "hub/compare_rows", "reports/publish"):
        digest.update((ROOT / "srel_hub" / f"{name}.py").read_bytes())
    return digest.hexdigest()


def table(rows: list[dict[str, str]], count: int) -> str:
    """Return the table: one row per request, one column per fault, with what the push did."""
    requests = list(dict.fromkeys(row["request"] for row in rows if not row["outcome"].startswith("killed")))
    signs = {AT_ONCE: "completes", AGAIN: "second command"}
    lines = [
        "# A push whose requests fail",
        "",
        f"{count} requests of one push (three classes, two epochs), each failing once in five ways, make",
        f"{count * len(KINDS)} pushes. 'completes': it went on by itself; 'second command': it stopped with a",
        "message, and the same command completed it. There was never a second commit, a half-visible state, or an",
        "object sent that was there. Written by `make test-long`.",
        "",
        "| request | " + " | ".join(KINDS) + " |",
        "| --- |" + " --- |" * len(KINDS),
    ]
    for request in requests:
        cells = []
        for kind in KINDS:
            outcomes = Counter(r["outcome"] for r in rows if r["request"] == request and r["case"].split()[0] == kind)
            cells.append(", ".join(f"{signs[outcome]} ({n})" for outcome, n in sorted(outcomes.items())) or "-")
        lines.append(f"| `{request}` | " + " | ".join(cells) + " |")
    killed = Counter(row["request"] for row in rows if row["outcome"].startswith("killed"))
    lines += ["", f"Killed (SIGKILL) {sum(killed.values())} times, then completed by the second command, at:", ""]
    lines += [f"- `{request}`{f' ({n} times)' if n > 1 else ''}" for request, n in killed.items()]
    return "\n".join(lines) + "\n"
