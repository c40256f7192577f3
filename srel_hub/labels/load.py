"""labels.load."""

import sys
from pathlib import Path

from srel_hub.errors import UserError
from srel_hub.hub.repository import Folder, Store, front_matter, open_store
from srel_hub.labels.dataset import Condensed, _wanted
from srel_hub.labels.manifest import Manifest, read_manifest
from srel_hub.storage.files import format_bytes


MANIFEST = "soft_labels/manifest.json"


def load_condensed(path: str | Path, epochs: int | None = None, revision: str | None = None) -> Condensed:
    """Open a condensed dataset. Of a Hub dataset nothing but card and manifest is downloaded yet.

    Args:
        path: a Hub dataset id, or a folder such as `runs/quickstart/dataset`.
        epochs: how many epochs will be trained; by default as many as are stored.
        revision: branch, tag or commit on the Hub; by default `main` as it is now.

    Raises:
        UserError: where there is no such dataset or revision, for a label format this version does not know, or for
            labels that do not fit the images.
        UnavailableError: an OSError, where the Hub cannot be reached and the cache does not have what is asked for.
    """
    store = open_store(path, "dataset", revision or None, MANIFEST)
    if isinstance(store, Folder) and (store.path / "dataset" / "data").is_dir():
        raise UserError(f"{path} is a run; the dataset in it is {store.path / 'dataset'}")
    manifest = read_manifest(store.fetch(MANIFEST))
    front_matter(store)
    if epochs is None:
        epochs = manifest.epochs
    if not isinstance(epochs, int) or epochs < 1:
        raise UserError(f"epochs={epochs}: give the number of epochs to train (stored: {manifest.epochs})")
    condensed = Condensed(store, manifest, epochs)
    if condensed.download_bytes:
        print(_price(store, manifest, epochs), file=sys.stderr)
    condensed.require_rows()
    return condensed


def _price(store: Store, manifest: Manifest, epochs: int) -> str:
    """What a user is told before the first large download."""
    wanted = list(_wanted(store, manifest, epochs))
    parts = {kind: sum(size for size, one in wanted if one == kind) for kind in ("images", "soft labels")}
    stored = min(epochs, manifest.epochs)
    return (
        f"{store}: to download {format_bytes(sum(parts.values()))}: images {format_bytes(parts['images'])} now, "
        f"soft labels {format_bytes(parts['soft labels'])} as their {stored} epochs are trained"
    )
