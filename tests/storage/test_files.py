"""Files that appear whole, and never in the place of a folder."""

from pathlib import Path

import pytest

from srel_hub.errors import UserError
from srel_hub.storage.files import write_json, write_text


@pytest.mark.parametrize("name", ["kept", ".", ".."])
def test_a_file_never_replaces_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "precious").write_text("p")
    monkeypatch.chdir(tmp_path if name == "kept" else tmp_path / "kept")
    for write in (write_text, write_json):
        with pytest.raises(UserError, match="is a folder; pass the name of a file"):
            write(Path(name), "page")
    assert (tmp_path / "kept" / "precious").read_text() == "p" and len(list(tmp_path.rglob("*"))) == 2
