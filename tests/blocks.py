"""Blocks of code in documents: find them, and run them as a reader would."""

import contextlib
import io
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


def code_blocks(markdown: str, language: str = "python") -> list[str]:
    """Return the blocks of one language in a document, in order."""
    return [text for found, text in all_blocks(markdown) if found == language]


def all_blocks(markdown: str) -> list[tuple[str, str]]:
    """Return the language and text of every block of a document, in order."""
    return re.findall(r"^```(\w*)\n(.*?)^```", markdown, re.M | re.S)


def commands(block: str) -> Iterator[list[str]]:
    """Yield the words of each command of a `bash` block."""
    for line in block.splitlines():
        yield shlex.split(line)


def run_command(words: list[str], folder: Path) -> None:
    """Run `srel-hub ...`, `accelerate launch -m MODULE ...`, `python FILE ...`, `cp` or `mv` in a folder.

    It runs in this process, which saves the imports (seconds per command). Other tests start the launcher itself.
    """
    if words[0] in ("cp", "mv"):
        subprocess.run(words, cwd=folder, check=True)
        return
    if "srel-hub" in words:
        words = ["-m", "srel_hub", *words[words.index("srel-hub") + 1 :]]
    words = words[words.index("-m") if "-m" in words else 1 :]
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", words[1:] if words[0] == "-m" else words)
        try:
            if words[0] == "-m":
                runpy.run_module(words[1], run_name="__main__", alter_sys=True)
            else:
                runpy.run_path(words[0], run_name="__main__")
        except SystemExit as end:
            assert not end.code, words


def run_block(block: str, folder: Path) -> str:
    """Run a `python` block in a folder, and return what it prints."""
    output = io.StringIO()
    # A script's own folder comes first in sys.path, so that it can import the modules beside it.
    with contextlib.chdir(folder), contextlib.redirect_stdout(output), pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        exec(compile(block, "block", "exec"), namespace := {})
    del namespace
    return output.getvalue()
