"""The number of epochs of a checkpoint, in a small file beside it, so that `srel-hub status` need not read weights."""

from pathlib import Path

from srel_hub.storage.files import read_json, write_json


def write_epochs(checkpoint: Path, epochs: int) -> None:
    """Write the number of epochs after which a checkpoint was saved."""
    write_json(epochs_file(checkpoint), {"epochs": epochs})


def read_epochs(checkpoint: Path) -> int | None:
    """Return the number of epochs after which a checkpoint was saved; None if there is none."""
    if not checkpoint.is_file():
        return None
    try:
        return int(read_json(epochs_file(checkpoint))["epochs"])
    except (FileNotFoundError, ValueError, KeyError):  # the process was killed between the two files
        return None


def epochs_file(checkpoint: Path) -> Path:
    """Return the path of the file beside a checkpoint."""
    return checkpoint.with_name(f"{checkpoint.name}.json")
