"""Errors of the operating system, as users read them: file, cause, and what to do."""

import errno
import os
import sys
from pathlib import Path

import pytest

from srel_hub.commands.program import main
from srel_hub.errors import ErrorCollector, UnavailableError, UserError, explain_os_error, first_line
from srel_hub.runs.stage_cli import cli
from srel_hub.storage.files import write_text


@pytest.mark.parametrize("number", sorted(errno.errorcode))
def test_every_error_has_the_file_a_cause_and_a_fix(number: int) -> None:
    text = explain_os_error(OSError(number, os.strerror(number), "runs/x"))
    assert text.startswith("runs/x: ") and "; " in text and "[Errno" not in text


def test_messages_of_our_own_are_kept() -> None:
    assert explain_os_error(UnavailableError("the Hub cannot be reached", 3)) == "the Hub cannot be reached"
    assert explain_os_error(ConnectionError()) == "ConnectionError"
    assert explain_os_error(OSError(errno.ENOSPC, "No space left on device")).startswith(
        "No space left on device; free some space"
    )


def test_the_number_of_an_error_is_never_shown() -> None:
    assert first_line(ConnectionError("[Errno 111] Connection refused")) == "Connection refused"
    assert first_line(OSError("[Errno -2] Name or service not known\nadvice")) == "Name or service not known"
    assert first_line(OSError(errno.ENOSPC, "No space left")) == "No space left"
    assert first_line(ValueError(" ")) == "ValueError"


def test_a_collector_tells_mistakes_from_a_hub_that_cannot_be_reached() -> None:
    errors = ErrorCollector()
    errors.raise_all()
    with errors.collect():
        raise UnavailableError("the Hub cannot be reached")
    with pytest.raises(UnavailableError, match="^the Hub cannot be reached$"):
        errors.raise_all()
    with errors.collect():
        raise UserError("recover.ipc=0")
    with pytest.raises(UserError, match="^the Hub cannot be reached\nrecover.ipc=0$"):
        errors.raise_all()


def test_two_files_are_both_named() -> None:
    with pytest.raises(OSError) as caught:
        os.rename("no-such-a", "no-such-b")
    assert explain_os_error(caught.value).startswith("no-such-a -> no-such-b: No such file or directory; ")


def test_the_file_that_was_to_be_written_is_named_not_its_temporary_name(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError) as caught:
        write_text(tmp_path / "file" / "x.txt", "")
    assert ".tmp" not in explain_os_error(caught.value)
    if sys.platform == "linux":
        with pytest.raises(OSError) as caught:
            write_text(Path("/proc/x.txt"), "")
        assert explain_os_error(caught.value).startswith("/proc/x.txt: ")


@pytest.mark.skipif(sys.platform != "linux", reason="/proc/self/mem is a file that cannot be read")
@pytest.mark.parametrize("words", [["plan"], ["recipe", "show"], ["sweep"], ["condense"], ["continual"]])
def test_a_file_that_cannot_be_read_is_a_problem_of_the_machine(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status = main([*words, "/proc/self/mem"])
    except SystemExit as stopped:
        status = int(stopped.code or 0)
    printed = capsys.readouterr().err
    assert status == 1 and "[Errno" not in printed and "Traceback" not in printed
    assert printed.startswith("error: ") and "the disk cannot be read or written; check it" in printed


@pytest.mark.skipif(sys.platform != "linux", reason="in /proc nobody can create a folder")
def test_a_run_directory_that_cannot_be_created_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli(lambda run: run.begin(), ["quickstart", "run.root=/proc/runs"])
    printed = capsys.readouterr().err
    assert stopped.value.code == 1 and printed.startswith("error: /proc/runs") and "[Errno" not in printed


def test_a_reader_that_stops_early_is_no_error() -> None:
    """As in `srel-hub recipe reference | head -1`; in a process of its own, whose output it closes."""
    read, write = os.pipe()
    os.close(read)
    if (pid := os.fork()) == 0:
        log = os.open(os.devnull, os.O_WRONLY)
        os.dup2(write, 1)
        os.dup2(log, 2)
        sys.stdout = os.fdopen(1, "w")
        os._exit(main(["recipe", "reference"]))
    os.close(write)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
