"""Local folders of image files: report what `datasets` would silently read in an unintended way."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from srel_hub.data.metadata import misread_numbers
from srel_hub.data.split_folders import METADATA
from srel_hub.errors import UserError, first_few


HARMLESS = (".txt", ".md", ".json", ".yaml", ".yml", ".db", ".html", ".pdf", ".zip")  # no remark if these are skipped

Files = Mapping[str, Sequence[str]]  # of every split


def check_folder(root: Path, files: Files, number_column: str | None) -> list[str]:
    """Compare the content of a folder with what `datasets` read from it.

    Args:
        root: the folder.
        files: the files that `datasets` reads, by split.
        number_column: the label column if its values are read as numbers, else None.

    Returns:
        remarks for the user, which name skipped files.

    Raises:
        UserError: for links to folders, which are not followed; for class folders with the same name in several places,
            which become one class; for labels such as 007 in a metadata.csv, which become 7.
    """
    problems = [
        f"{link} is a link to a folder, and `datasets` does not follow links; copy or move the folder here"
        for link in linked_folders(root)
    ]
    if not any(Path(file).name in METADATA for split in files.values() for file in split):
        problems += [
            f"the class folder {name} occurs several times ({' and '.join(places)}), and would become one class; use "
            "one folder per class, directly in the folder of its split"
            for split in files.values()
            for name, places in _class_folders(split).items()
            if len(places) > 1
        ]
    if number_column is not None:
        paths = [Path(file) for split in files.values() for file in split]
        problems += [problem for path in paths for problem in misread_numbers(path, number_column)]
    if problems:
        raise UserError("\n".join(first_few(problems)))
    return _skipped_files(root, {Path(file).resolve() for split in files.values() for file in split})


def linked_folders(root: Path) -> Iterator[Path]:
    """Yield links to folders below `root`, except in hidden folders such as .venv, which hold no images."""
    for folder, names, _ in os.walk(root):
        names[:] = [name for name in names if not name.startswith((".", "__"))]
        yield from (Path(folder) / name for name in sorted(names) if (Path(folder) / name).is_symlink())


def _class_folders(files: Sequence[str]) -> dict[str, list[str]]:
    """Return the folders of each class name."""
    folders = sorted({Path(file).parent for file in files})
    return {name: [str(f) for f in folders if f.name == name] for name in {folder.name for folder in folders}}


def _skipped_files(root: Path, used: set[Path]) -> list[str]:
    """Return a remark if `datasets` skips files that are neither hidden nor of a type in HARMLESS."""
    skipped = [
        file
        for file in sorted(root.rglob("*"))
        if file.is_file()
        and file.suffix.lower() not in HARMLESS
        and not any(part.startswith((".", "__")) for part in file.relative_to(root).parts)
        and file.resolve() not in used
    ]
    if not skipped:
        return []
    examples = ", ".join(str(file) for file in skipped[:3])
    return [f"{root}: skipped files: {len(skipped)} ({examples}{', ...' if len(skipped) > 3 else ''})"]
