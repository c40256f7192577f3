"""Tell the splits of a local folder from its classes: a split is a folder at the top, or the whole folder."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from srel_hub.data.tree import Tree, image_suffixes, shown, suffix_of
from srel_hub.errors import UserError


SPLITS = {  # folders at the top that are splits, in any case
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
}
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
EXAMPLES = 3  # paths that a message lists


Value = TypeVar("Value")


def split_of(name: str, named: Collection[str] = ()) -> str | None:
    """Return the split that a folder at the top stands for, or None.

    Args:
        name: the name of the folder.
        named: names of splits in the recipe, which are splits whatever they are.
    """
    return SPLITS.get(name.lower(), name if name in named else None)


def find_split(splits: Collection[str], name: str) -> str | None:
    """Return the split that a name in the recipe stands for, such as `validation` for `val`; None if there is none."""
    return next((split for split in (name, SPLITS.get(name.lower())) if split in splits), None)


def in_order(splits: Mapping[str, Value]) -> dict[str, Value]:
    """Return a mapping from splits with `train`, `validation` and `test` first."""
    return {name: splits[name] for name in (*dict.fromkeys(SPLITS.values()), *splits) if name in splits}


def listed(paths: Iterable[str], limit: int = EXAMPLES) -> str:
    """Return the first paths for a message: 'a.txt, b.txt, c.txt, ... (7 in all)'."""
    all_paths = list(paths)
    examples = ", ".join(map(shown, all_paths[:limit]))
    return examples if len(all_paths) <= limit else f"{examples}, ... ({len(all_paths):,} in all)"


def split_folders(tree: Tree, named: Collection[str]) -> tuple[dict[str, str], list[str]]:
    """Return the folder of each split ('' for the whole folder), and remarks.

    Raises:
        UserError: if the folders at the top are a mixture of splits and others, or two of them are the same split.
    """
    counts, depths = _images_at_the_top(tree)
    splits = {top: split_of(top, named) for top in counts if split_of(top, named) is not None}
    others = [top for top in counts if top not in splits]
    if splits and others:
        if _are_all_classes(tree, list(splits), others, depths):
            (name,) = splits
            return {"train": ""}, [f"the folder {name} holds images, no class folders, so it is read as a class"]
        raise UserError(_mixture(tree, counts, list(splits), others))
    if not splits:
        return {"train": ""}, []
    folders: dict[str, str] = {}
    for top, split in splits.items():
        assert split is not None
        if split in folders:
            raise UserError(
                f"{tree.root}: the folders {shown(folders[split])} and {shown(top)} are both the split {split}; merge "
                "them into one folder, or move one of them elsewhere"
            )
        folders[split] = top
    return in_order(folders), []


def _images_at_the_top(tree: Tree) -> tuple[dict[str, int], dict[str, set[int]]]:
    """Return the number of images below each folder at the top, and the numbers of folders on the way to them."""
    suffixes = image_suffixes()
    counts: dict[str, int] = {}
    depths: dict[str, set[int]] = {}
    for file in tree.files:
        top, *rest = file.path.split("/")
        is_image = suffix_of(file.path) in suffixes
        if rest and (is_image or rest[-1] in METADATA):
            counts[top] = counts.get(top, 0) + is_image
            depths.setdefault(top, set()).add(len(rest))
    return counts, depths


def _are_all_classes(
    tree: Tree, splits: Sequence[str], others: Sequence[str], depths: Mapping[str, Collection[int]]
) -> bool:
    """Return whether a folder with the name of a split is a class, as the folder `train` of CIFAR-100 is.

    All folders must hold images and no class folders. If two of them are named like splits, or there is only one other
    folder, then splits without labels beside a folder of figures are as likely.
    """
    has_metadata = any(Path(file.path).name in METADATA for file in tree.files)
    flat = all(set(depths[top]) == {1} for top in (*splits, *others))
    return len(splits) == 1 and len(others) > 1 and flat and not has_metadata


def _mixture(tree: Tree, counts: Mapping[str, int], splits: Sequence[str], others: Sequence[str]) -> str:
    def named(tops: Sequence[str]) -> str:
        return listed((f"{top} ({counts[top]:,} images)" for top in tops), limit=6)

    return (
        f"{tree.root}: some of the folders at the top are named like splits: {named(splits)}; others are not: "
        f"{named(others)}. If these others do not belong to the dataset, move them elsewhere. If they are classes, "
        f"move them into the splits, for example to {shown(splits[0])}/{shown(others[0])}. If one of them is a "
        "split, rename it to train, validation or test, or name it in the recipe, as "
        f"source.eval_split={shown(others[0])}. If all of these folders are classes, move all of them into one "
        f"new folder named train, for example to train/{shown(others[0])} and train/{shown(splits[0])}"
    )
