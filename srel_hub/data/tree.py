"""List the files and folders below a local folder, without opening a file."""

import os
import stat
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image


HIDDEN = (".", "__")  # folders whose names begin so are not read, as in `datasets`
NO_IMAGES = (".h5", ".hdf")  # Pillow registers these suffixes, but such a file may hold any number of images


@dataclass(frozen=True, order=True)
class File:
    """A regular file.

    Attributes:
        path: its path below the root, with "/" between the names.
        size: in bytes.
        modified: time of the last change, in nanoseconds.
    """

    path: str
    size: int
    modified: int


@dataclass
class Tree:
    """Everything below a folder. Paths are relative to `root`, with "/" between the names.

    Attributes:
        root: the folder.
        files: regular files that are not hidden, sorted by path.
        folders: folders that are not hidden.
        hidden: hidden folders, with the number of images directly in them. What is below them is not listed.
        unread: what is not listed in `files`, by reason.
        problems: what makes the listing incomplete or ambiguous, as messages.
    """

    root: Path
    files: list[File] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    hidden: dict[str, int] = field(default_factory=dict)
    unread: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    problems: list[str] = field(default_factory=list)


def image_suffixes() -> frozenset[str]:
    """Return the suffixes, in lower case, of the files that Pillow can open."""
    known = Image.registered_extensions()
    return frozenset(suffix for suffix, kind in known.items() if kind in Image.OPEN).difference(NO_IMAGES)


def suffix_of(path: str) -> str:
    """Return the last suffix of a file name in lower case: '.jpg' for 'train/A.JPG', '' if there is none."""
    return os.path.splitext(path)[1].lower()


def shown(text: str) -> str:
    """Return a path for a message: line breaks and bytes that are not UTF-8 are escaped."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def list_tree(root: Path) -> Tree:
    """List everything below a folder. Links are followed; a folder that links lead to twice is a problem."""
    tree, suffixes = Tree(root), image_suffixes()
    real_root = os.path.realpath(root)
    seen, stack = {real_root: "the whole folder"}, [("", real_root)]
    while stack:  # not a recursion: a path may have more names than Python has stack frames
        folder, real = stack.pop()
        for entry in _entries(tree, folder):
            path = f"{folder}/{entry.name}" if folder else entry.name
            status = _status(tree, entry, path)
            if status is None:
                continue
            if stat.S_ISREG(status.st_mode):
                _add_file(tree, File(path, status.st_size, status.st_mtime_ns), entry.name)
            elif not stat.S_ISDIR(status.st_mode):
                tree.unread["special files such as pipes"].append(path)
            elif _is_readable_folder(tree, path, entry, suffixes):
                target = os.path.realpath(entry.path) if entry.is_symlink() else os.path.join(real, entry.name)
                if entry.is_symlink() and Path(real).is_relative_to(target):
                    tree.unread["links to a folder that contains the link"].append(path)
                elif target in seen:
                    both = " and ".join(map(shown, sorted((path, seen[target]))))
                    tree.problems.append(
                        f"{both} are the same folder, because one of them is a link, so its images would be read "
                        "twice; remove the link"
                    )
                else:
                    seen[target] = path
                    tree.folders.append(path)
                    stack.append((path, target))
    tree.files.sort()
    tree.folders.sort()
    return tree


def _entries(tree: Tree, folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(tree.root / folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        tree.problems.append(
            f"{shown(folder) or 'the folder'} cannot be opened ({error.strerror}); change its permissions, or move it "
            "elsewhere"
        )
        return []


def _status(tree: Tree, entry: os.DirEntry[str], path: str) -> os.stat_result | None:
    """Return the status of an entry, or of what it links to; None if there is nothing."""
    try:
        return entry.stat()
    except OSError:
        tree.unread["broken links" if entry.is_symlink() else "files that cannot be opened"].append(path)
        return None


def _add_file(tree: Tree, file: File, name: str) -> None:
    if not _is_utf8(name):
        tree.unread["files whose names are not valid UTF-8"].append(file.path)
    elif name.startswith("."):
        tree.unread["hidden files"].append(file.path)
    else:
        tree.files.append(file)


def _is_readable_folder(tree: Tree, path: str, entry: os.DirEntry[str], suffixes: frozenset[str]) -> bool:
    """Return whether a folder is listed; otherwise note it."""
    if not _is_utf8(entry.name):
        tree.problems.append(f"{shown(path)}: the name of this folder is not valid UTF-8; rename it")
        return False
    if not entry.name.startswith(HIDDEN):
        return True
    try:
        names = os.listdir(entry.path)
    except OSError:
        names = []
    tree.hidden[path] = sum(suffix_of(name) in suffixes and not name.startswith(".") for name in names)
    return False


def _is_utf8(name: str) -> bool:
    """Return whether a file name can be written to a text file; bytes that are not UTF-8 become lone surrogates."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)
