"""Decide which file of a local folder belongs to which split and class, and report everything that is not read.

`datasets` searches for split words anywhere in a path, so that a class folder "test tube" becomes a test split. Here, a
split is a folder at the top, or the whole folder is one split, and a class is the folder below it.
"""

import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from srel_hub.data.split_folders import METADATA, listed, split_folders, split_of
from srel_hub.data.tree import File, Tree, image_suffixes, shown, suffix_of
from srel_hub.errors import UserError, first_few


LAYOUTS = (
    "Supported layouts: train/ant/1.jpg and train/bee/2.jpg (one folder per class, at least two classes, no image "
    "beside the folders); train/1.jpg with train/metadata.csv (columns file_name,label); parquet files. Labels must "
    "be class labels, strings or whole numbers"
)
# Suffixes of files that are never images. Other files in a class folder without images may be its images.
OTHER_TYPES = frozenset(
    (
        ".txt",
        ".md",
        ".rst",
        ".json",
        ".jsonl",
        ".yaml",
        ".yml",
        ".toml",
        ".xml",
        ".csv",
        ".tsv",
        ".html",
        ".htm",
        ".pdf",
    )
    + (".doc", ".docx", ".xls", ".xlsx", ".db", ".ini", ".log", ".py", ".ipynb", ".sh", ".zip", ".gz", ".tar", ".tgz")
    + (
        ".7z",
        ".rar",
        ".parquet",
        ".arrow",
        ".npy",
        ".npz",
        ".mat",
        ".pkl",
        ".pt",
        ".pth",
        ".safetensors",
        ".lnk",
        ".url",
    )
)
HIDDEN_TOOLS = ("__MACOSX", "__pycache__", ".ipynb_checkpoints", ".thumbnails", ".git", ".Trashes")  # never classes


@dataclass
class ImageSplit:
    """The files of one split.

    Attributes:
        name: `train`, `test`, `validation`, or the name in the recipe.
        folder: its folder below the root; '' if the whole folder is the split.
        classes: the images of each class folder, in the order of their paths; empty if labels are in `metadata`.
        metadata: files that list the images and their labels.
        files: all files of the split.
        problems: why the split cannot be used, as messages.
        is_unlabeled: whether a problem is that its images have no labels.
    """

    name: str
    folder: str
    classes: dict[str, list[File]] = field(default_factory=dict)
    metadata: list[File] = field(default_factory=list)
    files: list[File] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    is_unlabeled: bool = False

    @property
    def images(self) -> list[File]:
        """Return the images of all class folders in the order of their paths, which is that of `datasets`."""
        return sorted(file for images in self.classes.values() for file in images)


@dataclass
class ImageFolder:
    """A local folder of image files.

    Attributes:
        root: the folder.
        splits: by name.
        unread: paths that are not read, by reason.
        remarks: what the user should know about how the folder is read.
    """

    root: Path
    splits: dict[str, ImageSplit]
    unread: dict[str, list[str]]
    remarks: list[str]


def read_image_folder(tree: Tree, named: Collection[str] = ()) -> ImageFolder:
    """Decide which image belongs to which split and class. Problems of a single split are stored with it.

    Args:
        tree: the listed folder, which has images.
        named: names of splits in the recipe.

    Raises:
        UserError: if the splits cannot be told apart from classes, or folders cannot be listed.
    """
    if tree.problems:
        raise UserError("\n".join(first_few([f"{tree.root}: {problem}" for problem in tree.problems])))
    folders, remarks = split_folders(tree, named)
    unread = {reason: list(paths) for reason, paths in tree.unread.items()}
    suffixes = image_suffixes()
    splits = {name: _read_split(tree, name, folder, suffixes, unread) for name, folder in folders.items()}
    inside = {file.path for split in splits.values() for file in split.files}
    outside = [file.path for file in tree.files if file.path not in inside]
    is_image = {path: suffix_of(path) in suffixes for path in outside}
    _note(unread, "images beside the folders of the splits", (path for path in outside if is_image[path]))
    _note_others(unread, [path for path in outside if not is_image[path]])
    _note(unread, "hidden folders", tree.hidden)
    problems = _lookalike_classes(splits)
    if problems:
        raise UserError("\n".join(first_few([f"{tree.root}: {problem}" for problem in problems])))
    return ImageFolder(tree.root, splits, {key: sorted(paths) for key, paths in unread.items() if paths}, remarks)


def _note(unread: dict[str, list[str]], reason: str, paths: Iterable[str]) -> None:
    unread.setdefault(reason, []).extend(paths)


def _note_others(unread: dict[str, list[str]], paths: Sequence[str]) -> None:
    _note(unread, "files that are not images", (path for path in paths if suffix_of(path) in OTHER_TYPES))
    _note(unread, "files of types that cannot be read", (path for path in paths if suffix_of(path) not in OTHER_TYPES))


def _read_split(
    tree: Tree, name: str, folder: str, suffixes: frozenset[str], unread: dict[str, list[str]]
) -> ImageSplit:
    """Return a split with its class folders or metadata files, and note what is not read."""
    prefix = f"{folder}/" if folder else ""
    split = ImageSplit(name, folder, files=[file for file in tree.files if file.path.startswith(prefix)])
    split.metadata = [file for file in split.files if Path(file.path).name in METADATA]
    if split.metadata:
        _note_others(
            unread, [f.path for f in split.files if f not in split.metadata and suffix_of(f.path) not in suffixes]
        )
        return split
    names = [path[len(prefix) :] for path in tree.folders if path.startswith(prefix)]
    classes: dict[str, list[File]] = {name: [] for name in names if "/" not in name}
    nested, beside, others = list[File](), list[File](), list[File]()
    for file in split.files:
        below, *rest = file.path[len(prefix) :].split("/")
        if suffix_of(file.path) not in suffixes:
            others.append(file)
        elif not rest:
            beside.append(file)
        elif len(rest) > 1:
            nested.append(file)
        else:
            classes[below].append(file)
    if not any(classes.values()) and not nested:
        split.is_unlabeled = True
        split.problems.append(_no_labels(tree, split, len(beside)))
        return split
    split.problems += _nested_classes(tree, prefix, nested)
    split.problems += _left_out(tree, prefix, classes, nested, others)
    split.classes = {name: images for name, images in classes.items() if images or _is_empty(tree, prefix + name)}
    _note(unread, "images beside the class folders", (file.path for file in beside))
    _note_others(unread, [file.path for file in others])
    return split


def _is_empty(tree: Tree, folder: str) -> bool:
    return not any(path.startswith(f"{folder}/") for path in (*(file.path for file in tree.files), *tree.folders))


def _no_labels(tree: Tree, split: ImageSplit, count: int) -> str:
    place = shown(split.folder) or "the folder"
    at_the_top = [file.path for file in tree.files if file.path in METADATA]
    if split.folder and at_the_top:
        return (
            f"{at_the_top[0]} is one level too high: it must be in the folder {place}, beside the images that it "
            "lists, because each split is read on its own"
        )
    if not count:
        return f"{place} has no image file"
    tables = [file.path for file in tree.files if suffix_of(file.path) in (".csv", ".tsv", ".json", ".jsonl")]
    verb = "is" if len(tables) == 1 else "are"
    hint = f". {listed(tables)} {verb} not read, because only metadata.csv and metadata.jsonl are" if tables else ""
    return f"{place} has {count:,} images without labels: it has neither class folders nor a metadata file{hint}"


def _nested_classes(tree: Tree, prefix: str, nested: Sequence[File]) -> list[str]:
    """Report folders in class folders: either level could be the classes."""
    inner: dict[str, list[str]] = {}
    for file in nested:
        below, middle, *_ = file.path[len(prefix) :].split("/")
        if middle not in inner.setdefault(below, []):
            inner[below].append(middle)
    if not inner:
        return []
    tops = [path for path in tree.folders if path.startswith(prefix) and "/" not in path[len(prefix) :]]
    first, names = next(iter(inner.items()))
    if not prefix and len(tops) == 1:
        return [f"all images are below {shown(first)} ({listed(names)}); set source.path={tree.root / first}"]
    if not prefix and all(split_of(name) for name in names):
        return [
            f"{shown(first)} holds folders named like splits ({listed(names)}), but the folders of the splits must be "
            f"at the top: {shown(names[0])}/{shown(first)} instead of {shown(first)}/{shown(names[0])}"
        ]
    return [
        f"{shown(prefix + top)} holds images in its own folders ({listed(names)}), but a class is the folder directly "
        f"below {'the split' if prefix else 'the top'}; if these are the classes, move them up, as "
        f"{shown(prefix + names[0])}; if {shown(top)} is one class, move their images into it"
        for top, names in inner.items()
    ]


def _left_out(
    tree: Tree, prefix: str, classes: Mapping[str, Sequence[File]], nested: Sequence[File], others: Sequence[File]
) -> Iterator[str]:
    """Report class folders that would be lost: hidden ones, those with unknown types only, and broken links."""
    for path, count in tree.hidden.items():
        name = path[len(prefix) :]
        if path.startswith(prefix) and "/" not in name and count and name not in HIDDEN_TOOLS:
            yield (
                f"the folder {shown(path)} with {count:,} images is hidden, because its name begins with "
                f"{'.' if name.startswith('.') else '__'}, so this class would be lost; rename it, for example to "
                f"{shown(name.strip('._') or 'class')}, or move it elsewhere"
            )
    for path in tree.unread.get("broken links", []):
        if path.startswith(prefix) and "/" not in path[len(prefix) :] and not suffix_of(path):
            yield f"{shown(path)} is a broken link beside the class folders; restore the folder or remove the link"
    has_nested = {file.path[len(prefix) :].split("/")[0] for file in nested}
    types: dict[str, Counter[str]] = {}
    for file in others:
        types.setdefault(file.path[len(prefix) :].split("/")[0], Counter())[suffix_of(file.path) or "no suffix"] += 1
    for name, images in classes.items():
        unknown = {suffix: count for suffix, count in types.get(name, {}).items() if suffix not in OTHER_TYPES}
        if not images and name not in has_nested and unknown:
            kinds = ", ".join(f"{count:,} with {suffix}" for suffix, count in sorted(unknown.items()))
            yield (
                f"the class folder {shown(prefix + name)} has no image that can be read ({kinds}), so this class would "
                "be lost; convert its images to PNG or JPEG, or move the folder elsewhere"
            )


def _lookalike_classes(splits: Mapping[str, ImageSplit]) -> list[str]:
    """Report class folders that are meant to be one class: 'café' in two Unicode forms, or train/Cat and test/cat."""
    paths, by_form, by_fold, problems = dict[str, str](), dict[str, str](), dict[str, str](), list[str]()
    for split in splits.values():
        for name in split.classes:
            form = " ".join(unicodedata.normalize("NFC", name).split())
            # Within one split, A and a may be two classes.
            folded = by_fold.setdefault(form.casefold(), name)
            other = by_form.setdefault(form, name if folded in split.classes else folded)
            path = paths.setdefault(name, f"{split.folder}/{name}" if split.folder else name)
            if other != name:
                problems.append(
                    f"the class folders {paths[other]!a} and {path!a} differ only in case, in spaces or in the Unicode "
                    "form of a letter, so one class would become two; rename one of them"
                )
    return problems
