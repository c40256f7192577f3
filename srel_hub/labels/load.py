"""`load_condensed`: open a condensed dataset by its folder or its name on the Hub."""

import sys
from pathlib import Path
from typing import SupportsIndex

from srel_hub.config.arguments import whole_number
from srel_hub.hub.repository import Store, front_matter
from srel_hub.labels.dataset import Condensed
from srel_hub.labels.manifest import MANIFEST, Manifest
from srel_hub.labels.read_manifest import read_manifest
from srel_hub.labels.repository_files import missing_downloads, open_dataset
from srel_hub.storage.files import format_bytes


def load_condensed(path: str | Path, epochs: SupportsIndex | None = None, revision: str | None = None) -> Condensed:
    """Open a condensed dataset.

    From the Hub, this downloads the card, the manifest and the images. Labels are downloaded epoch by epoch, when they
    are used, and the teacher when `Condensed.teacher` is called. Before a download its size is printed to stderr.

    Args:
        path: A dataset on the Hub, `namespace/name`, or a folder such as `runs/quickstart/dataset`.
        epochs: How many epochs to train; by default as many as are stored.
        revision: A branch, tag or commit on the Hub; by default the newest commit of `main`.

    Returns:
        The dataset. Iterate over it to train.

    Raises:
        UserError: If there is no such dataset or revision, this version does not support its label format, or the
            labels do not fit the images.
        UnavailableError: If the Hub cannot be reached and the cache does not have the dataset. It is an OSError.

    Examples:
        >>> import torch
        >>> from srel_hub import load_condensed
        >>> condensed = load_condensed("runs/quickstart/dataset", epochs=300)
        >>> for epoch in condensed:
        ...     for indices in torch.randperm(len(epoch)).split(20):
        ...         pixel_values, logits = epoch.batch(indices)
    """
    store = open_dataset(path, revision)
    manifest = read_manifest(store.fetch(MANIFEST))
    front_matter(store)  # load_dataset would read it, so it must be harmless
    purpose = f", the epochs to train (stored: {manifest.epochs})"
    count = whole_number("epochs", manifest.epochs if epochs is None else epochs, 1, purpose)
    condensed = Condensed(store, manifest, count)
    if condensed.download_bytes:
        print(_describe_download(store, manifest, count), file=sys.stderr)
    condensed.require_rows()
    return condensed


def _describe_download(store: Store, manifest: Manifest, epochs: int) -> str:
    sizes = {"images": 0, "soft labels": 0}
    for kind, size in missing_downloads(store, manifest, epochs):
        sizes[kind] += size
    stored = min(epochs, manifest.epochs)
    return (
        f"{store}: {format_bytes(sum(sizes.values()))} to download: images {format_bytes(sizes['images'])} now, "
        f"soft labels {format_bytes(sizes['soft labels'])} during the training of {stored} stored epochs"
    )
