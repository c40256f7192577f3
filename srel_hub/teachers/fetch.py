"""Find a pretrained network: a place on disk, or a repository on the Hub, which is downloaded."""

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from srel_hub.config import Pretrained, is_local
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
    path = Path(spec.path).expanduser()
    if path.exists():
        if spec.revision is not None:
            raise UserError(f"{where}: a local path has no revision {spec.revision}; remove the revision")
        if path.is_file() and path.suffix not in SUFFIXES:
            raise UserError(f"{where}: a file of weights must end in {', '.join(SUFFIXES)}")
        return path
    if is_local(spec.path):
        raise UserError(f"{where}: there is no such folder or file")
    try:
        with hide_loading_bars():
            return Path(snapshot_download(spec.path, revision=spec.revision, allow_patterns=list(files)))
    except GatedRepoError:
        reason = f"this model is gated on the Hub; request access on the model's page, then {LOG_IN}"
    except RevisionNotFoundError:
        reason = f"the repository on the Hub has no revision {spec.revision}"
    except RepositoryNotFoundError:
        reason = (
            "this is not a local folder or file, and not a model on the Hub that you can access; check the spelling; "
            "if "
        )
        reason += f"it is private, {LOG_IN}"
    except LocalEntryNotFoundError:
        reason = "this is not a local folder or file, it is not in the cache, and the Hub cannot be reached"
    except (HFValidationError, OSError) as error:
        reason = f"this is not a local folder or file, and the Hub reports: {first_line(error)}"
    raise UserError(f"{where}: {reason}")
