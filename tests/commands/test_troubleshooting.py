"""Messages of common mistakes are found on the page Troubleshooting by their words."""

import re
from pathlib import Path

import pytest
from commands.test_exit_codes import status_of
from conftest import ROOT


HEADINGS = re.findall("^### `(.*)`$", (ROOT / "docs" / "troubleshooting.md").read_text(), re.M)
LISTED = [
    ["condens", "quickstart"],
    ["verify", "--fsat"],
    ["sweep", "quickstart", "seed=1,2", "recover.ipc=1", "recover.ipc=2"],
    ["sweep", "quickstart", "seed=1,2", "squeeze.epochs=1", "squeeze={epochs: 2}"],
    ["sweep", "quickstart", "seed=1,2", "seed=3"],
    ["sweep", "quickstart", "seed=1,2", "seed=3,4"],
    ["compare", "folder", "--plot", "x.foo"],
    ["compare", "folder", "--csv", "no/x.csv"],
    ["report", "folder", "--out", "folder"],
    ["plan", "quickstart", "recover.itertions=3"],
    ["plan", "quickstart", "recover.lr=fast"],
    ["plan", "quickstart", "recover.sizes=32"],
    ["plan", "quickstart", "evaluate={epochs: 1, epochs: 2}"],
    ["plan", "quickstart", "evaluate=[1"],
    ["plan", "quickstart", "nonsense"],
    ["plan", "quickstart", "evaluate.students.0.width=1"],
    ["plan", "quickstart", "source.path=folder"],
    ["plan", "quickstart", "squeeze.epochs=3", "squeeze.optimizer.warmup_epochs=5"],
    ["plan", "quickstart", "publish.repo_id=mine"],
    ["plan", "quikstart"],
    ["plan", "folder"],
    ["recipe", "show", "temperature"],
    ["verify", "runs/nothing"],
    ["verify", "folder/nothing"],
    ["verify", "folder"],
    ["verify", "file"],
    ["compare", "folder"],
    ["status", "runs/nothing"],
    ["init", "folder/nothing"],
    ["init", "./nothing"],
    ["init", "file"],
    ["init", "folder", "--out", "kept.yaml"],
]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "kept.yaml").write_text("mine")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("words", LISTED, ids=" ".join)
def test_the_message_of_a_mistake_has_a_heading(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(words) == 2
    printed = capsys.readouterr().err
    for line in printed.splitlines():
        if line.startswith(("error: ", "  ")) and not line.startswith("     ") and ": the recipe has" not in line:
            found = [heading for heading in HEADINGS if heading in line and heading != ", got "]
            assert found or ", got " in line, line
