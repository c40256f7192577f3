"""The places of a condensed dataset's files: images, labels, teacher, and the files that are still to be downloaded."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from srel_hub.config.arguments import require_path, require_text
from srel_hub.errors import UserError
from srel_hub.hub.repository import Folder, Repository, Store, open_repository, open_store
from srel_hub.labels.manifest import MANIFEST, Manifest


def open_dataset(path: str | Path, revision: str | None) -> Store:
    """Return the folder or Hub repository of a condensed dataset.

    Raises:
        UserError: If an argument has the wrong type; if there is no such folder, dataset or revision; or if the folder
            holds no condensed dataset, such as a run.
        UnavailableError: If the Hub cannot be reached and the cache does not have the dataset.
    """
    require_path("path", path, "the folder of a dataset, or namespace/name on the Hub")
    require_text("revision", revision, "a branch, tag or commit on the Hub")
    store = open_store(path, "dataset", revision or None, MANIFEST)
    if isinstance(store, Folder):
        if (store.path / "dataset" / "data").is_dir():
            raise UserError(f"{path} is a run; the dataset in it is {store.path / 'dataset'}; pass that path instead")
        if not (store.path / MANIFEST).is_file():
            raise UserError(
                f"{path}: this folder is not a condensed dataset, because it has no {MANIFEST}; pass the folder of a "
                "dataset, such as runs/quickstart/dataset"
            )
    return store


def data_files(store: Store, manifest: Manifest) -> list[str]:
    """Return the parquet files of the split `train`, in order, by their paths in the repository.

    The list comes from the manifest, because a cache may lack files and a folder may have further ones.

    Raises:
        UserError: If the manifest lists no parquet file, or not all of them.
    """
    names = sorted(
        other.name
        for other in manifest.others
        if other.name.startswith("data/train-") and other.name.endswith(".parquet")
    )
    count = len(names)
    if not names or names != [f"data/train-{index:05d}-of-{count:05d}.parquet" for index in range(count)]:
        raise UserError(
            f"{store}: the dataset is not complete: the manifest lists {', '.join(names) or 'no data/train-*.parquet'}"
        )
    return names


def label_file_path(store: Store, name: str) -> Path:
    """Return the local path of a label file, downloading it if needed."""
    return store.fetch(f"soft_labels/{name}")


def teacher_store(store: Store, manifest: Manifest) -> Store:
    """Return the teacher's repository: `../teacher_repo` of a local folder, or the one that the manifest names.

    Raises:
        UserError: If the teacher was not published.
        UnavailableError: If the Hub cannot be reached and the cache does not have the teacher.
    """
    if isinstance(store, Folder):
        sibling = store.path.resolve().parent / "teacher_repo"
        if sibling.is_dir():
            return Folder(sibling)
        if manifest.teacher.repo_id is None:
            raise UserError(f"{store}: its teacher was not published, and {sibling} does not exist")
    if manifest.teacher.repo_id is None:
        raise UserError(f"{store}: its teacher was not published")
    return open_repository(manifest.teacher.repo_id, "model", manifest.teacher.tag, "config.json")


def missing_downloads(
    store: Store, manifest: Manifest, epochs: int
) -> Iterator[tuple[Literal["images", "soft labels"], int]]:
    """Yield kind and size in bytes of every file that a training of `epochs` epochs needs and the cache lacks."""
    if isinstance(store, Repository) and store.files is not None:
        used = {manifest.pool_epoch(epoch) for epoch in range(epochs)}
        files = [file for file in manifest.files if not used.isdisjoint(range(file.epoch, file.epoch + file.epochs))]
        labels = [f"soft_labels/{file.name}" for file in files]
        kinds: tuple[tuple[Literal["images", "soft labels"], list[str]], ...] = (
            ("images", data_files(store, manifest)),
            ("soft labels", labels),
        )
        for kind, names in kinds:
            for name in names:
                blob = store.blob(name)
                if blob is not None and not (store.snapshot / name).exists():
                    yield kind, blob.size
