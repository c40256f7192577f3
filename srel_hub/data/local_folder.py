"""Find out what a local folder holds: image files, data files, or a README.md that names its files."""

import os
from collections import Counter
from collections.abc import Collection
from glob import escape
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import metadata_load

from srel_hub.data.damaged_files import require_readable
from srel_hub.data.folders import LAYOUTS, ImageFolder, read_image_folder
from srel_hub.data.split_folders import METADATA, listed
from srel_hub.data.table_files import BINARY, FORMATS, TableFolder, read_table_folder, table_kind
from srel_hub.data.tree import Tree, image_suffixes, list_tree, suffix_of
from srel_hub.errors import UserError, first_line


README, STANDALONE = "README.md", ".huggingface.yaml"  # the files in which `datasets` looks for `configs:`
TEXT = ("json", "csv")  # data files that hold no images themselves
LISTED_TYPES = 5


def read_local_folder(root: Path, named: Collection[str] = ()) -> ImageFolder | TableFolder | None:
    """Decide which file of a local folder belongs to which split.

    Args:
        root: the folder.
        named: names of splits in the recipe.

    Returns:
        the files by split; None if the folder's README.md names them, so that `datasets` decides.

    Raises:
        UserError: if the folder cannot be read unambiguously.
    """
    if readme_names_files(root):
        return None
    tree = list_tree(root)
    images = [file.path for file in tree.files if suffix_of(file.path) in image_suffixes()]
    kind = table_kind(tree)
    has_classes = len({os.path.dirname(path) for path in images}) > 1
    has_labels = has_classes or any(Path(file.path).name in METADATA for file in tree.files)
    if images and (has_labels or kind in (None, *TEXT)):
        if kind in BINARY:
            raise UserError(_both(tree, kind, images))
        return read_image_folder(tree, named)
    if kind is None:
        raise UserError(_nothing(tree))
    return read_table_folder(tree, kind, named)


def readme_names_files(root: Path) -> bool:
    """Return whether the YAML block of the folder's README.md has `configs:` that name data files.

    Raises:
        UserError: if the YAML cannot be read.
    """
    metadata: dict[str, Any] = {}
    for name, load in ((README, metadata_load), (STANDALONE, lambda file: yaml.safe_load(file.read_text("utf-8")))):
        if (root / name).is_file():
            try:
                metadata.update(load(root / name) or {})
            except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
                require_readable(root / name)  # it knows the line
                reason = " ".join(str(error).split()) or first_line(error)
                raise UserError(
                    f"{root / name}: its YAML cannot be read ({reason}); correct it, or move the file elsewhere"
                ) from None
    configs = metadata.get("configs")
    entries = configs if isinstance(configs, list) else []
    return any(isinstance(entry, dict) and {"data_files", "data_dir"} & set(entry) for entry in entries)


def escaped(files: Collection[str], root: Path | None = None) -> list[str]:
    """Return patterns for `data_files` that match only these files, whose names may contain `[`, `*` or `?`.

    Args:
        files: paths, or URLs, which are returned unchanged.
        root: the folder that relative paths begin at.
    """
    paths = files if root is None else [os.path.join(os.path.abspath(root), file) for file in files]
    return [path if "://" in path else escape(path) for path in paths]


def _both(tree: Tree, kind: str, images: Collection[str]) -> str:
    tables = [file.path for file in tree.files if suffix_of(file.path) in FORMATS[kind]]
    return (
        f"{tree.root} holds both images in folders ({listed(images)}) and {kind} files ({listed(tables)}), so it is "
        "unclear which of them are the dataset; move one kind elsewhere, or set source.path to a folder with only one"
    )


def _nothing(tree: Tree) -> str:
    types = Counter(suffix_of(file.path) or "no suffix" for file in tree.files)
    found = ", ".join(f"{count:,} with {suffix}" for suffix, count in types.most_common(LISTED_TYPES)) or "none"
    return f"{tree.root} has no file that can be read as an image or a table (files: {found}). {LAYOUTS}"
