"""Find a pretrained network: a place on disk, or a repository on the Hub, which is downloaded."""

import functools
from collections.abc import Sequence
from pathlib import Path

import httpx2
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from srel_hub.config import Pretrained
from srel_hub.config.places import expanded, missing_place, nearest_place, unreachable
from srel_hub.errors import UserError, first_line
from srel_hub.teachers.classifier import hide_loading_bars
from srel_hub.teachers.weight_files import SUFFIXES


FILES = ("config.json", "preprocessor_config.json", "*.safetensors", "*.safetensors.index.json")
LOG_IN = "log in with `hf auth login` or set HF_TOKEN"


def fetch(spec: Pretrained, where: str, files: Sequence[str] = FILES) -> Path:
    """Return the local folder or file of a teacher, after downloading it from the Hub if needed.

    Args:
        spec: the recipe's section.
        where: the recipe's field and value, which begin the message.
        files: patterns of the files to download.

    Raises:
        UserError: if the teacher does not exist or cannot be accessed.
    """
    path = expanded(spec.path)
    if path.exists():
        if spec.revision is not None:
            raise UserError(f"{where}: a local path has no revision {spec.revision}; remove the revision")
        if path.is_file() and path.suffix not in SUFFIXES:
            raise UserError(f"{where}: a file of weights must end in {', '.join(SUFFIXES)}")
        return path
    missing = missing_place(spec.path, "folder or file")
    if missing is not None:
        raise UserError(f"{where}: {missing}")
    try:
        with hide_loading_bars():
            return _download(spec, files)
    except GatedRepoError:
        reason = f"this model is gated on the Hub; request access on the model's page, then {LOG_IN}"
    except RevisionNotFoundError:
        reason = f"the repository on the Hub has no revision {spec.revision}"
    except RepositoryNotFoundError:
        reason = (
            "this is not a local folder or file, and not a model on the Hub that you can access"
            f"{nearest_place(spec.path)}; check the spelling; if it is private, {LOG_IN}"
        )
    except LocalEntryNotFoundError:
        reason = "the Hub cannot be reached, and the model is not in the cache"
        raise unreachable(where, spec.path, reason) from None
    except (HFValidationError, OSError) as error:
        reason = f"this is not a local folder or file, and the Hub reports: {first_line(error)}"
    raise UserError(f"{where}: {reason}")


def _download(spec: Pretrained, files: Sequence[str]) -> Path:
    download = functools.partial(snapshot_download, spec.path, revision=spec.revision, allow_patterns=list(files))
    try:
        return Path(download())
    except httpx2.RequestError:  # a connection that breaks; huggingface_hub uses its cache only if there is none at all
        return Path(download(local_files_only=True))
