"""Files that appear whole, and never in the place of a folder."""

import errno
import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from srel_hub.errors import UserError
from srel_hub.storage.files import atomic_write, write_json, write_text


@pytest.mark.parametrize("name", ["kept", ".", ".."])
def test_a_file_never_replaces_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "precious").write_text("p")
    monkeypatch.chdir(tmp_path if name == "kept" else tmp_path / "kept")
    for write in (write_text, write_json):
        with pytest.raises(UserError, match="is a folder; pass the name of a file"):
            write(Path(name), "page")
    assert (tmp_path / "kept" / "precious").read_text() == "p" and len(list(tmp_path.rglob("*"))) == 2


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_files_have_the_mode_of_the_umask_whatever_library_writes_them(tmp_path: Path, umask: int) -> None:
    """safetensors makes its files readable for their owner alone."""

    def save(file: Path) -> None:
        save_file({"weights": torch.zeros(3)}, file)

    before = os.umask(umask)
    try:
        with atomic_write(tmp_path / "weights.safetensors") as temporary:
            save(temporary)
        with atomic_write(tmp_path / "folder") as temporary:
            (temporary / "below").mkdir(parents=True)
            save(temporary / "below" / "weights.safetensors")
            (temporary / "text").write_text("t")
    finally:
        os.umask(before)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.rglob("*") if file.is_file()}
    assert modes == dict.fromkeys(("weights.safetensors", "text"), 0o666 & ~umask)
    assert not list(tmp_path.rglob(".*"))


def test_every_file_of_a_run_has_the_mode_of_the_umask(finished: Path) -> None:
    os.umask(umask := os.umask(0))
    others = {f: stat.S_IMODE(f.stat().st_mode) for f in finished.rglob("*") if f.is_file()}
    assert {file: oct(mode) for file, mode in others.items() if mode != 0o666 & ~umask} == {}


def test_a_full_disk_is_an_os_error_whichever_library_reports_it(tmp_path: Path) -> None:
    message = "Error while serializing: I/O error: No space left on device (os error 28)"
    with pytest.raises(OSError, match="No space left on device") as caught, atomic_write(tmp_path / "weights"):
        raise SafetensorError(message)
    assert caught.value.errno == errno.ENOSPC and not list(tmp_path.iterdir())


def test_the_message_is_that_of_safetensors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "weights") as temporary:
        save_file({"a": torch.zeros(3)}, temporary / "missing" / "file")
