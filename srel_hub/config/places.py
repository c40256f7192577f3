"""Whether a text names a place on this machine or a repository of the Hub. All commands and fields decide it here."""

import difflib
from pathlib import Path
from typing import Literal

from srel_hub.config.fields import is_local
from srel_hub.errors import UnavailableError, UserError


Expected = Literal["folder", "folder or file"]


def missing_place(path: str, expected: Expected = "folder", namespace: bool = False) -> str | None:
    """Return what is wrong with a path that does not exist; None if it exists, or may be an id on the Hub.

    A text is a path if it begins with `/`, `.` or `~`, or has more than one slash.

    Args:
        path: What the user wrote.
        expected: What the path may name.
        namespace: Whether ids on the Hub always have the form namespace/name. Old ids, such as `mnist`, have none.

    Returns:
        For example 'there is no such folder (did you mean runs/quickstart?)'.
    """
    is_path = is_local(path) or path.count("/") > 1 or (namespace and "/" not in path)
    return missing_local(path, expected) if is_path else None


def missing_local(path: str, expected: Expected = "folder") -> str | None:
    """Return what is wrong with a path that does not exist, where an id on the Hub is not allowed; None if it exists.

    Args:
        path: What the user wrote.
        expected: What the path may name.
    """
    return None if expanded(path).exists() else f"there is no such {expected}{nearest_place(path)}"


def nearest_place(path: str) -> str:
    """Return ' (did you mean X?)' with the existing path that is most similar to a missing one, or ''.

    Only the first missing part is replaced. What follows is kept if it exists below the replacement.
    """
    place = expanded(path)
    missing = next((part for part in (*reversed(place.parents), place) if not part.exists()), None)
    if missing is None:
        return ""
    try:
        names = sorted(entry.name for entry in missing.parent.iterdir())
    except OSError:  # not a folder, or not readable
        return ""
    close = difflib.get_close_matches(missing.name, names, n=1)
    if not close:
        return ""
    suggestion = missing.with_name(close[0])
    whole = suggestion / place.relative_to(missing)
    return f" (did you mean {whole if whole.exists() else suggestion}?)"


def unreachable(where: str, path: str, reason: str) -> UserError | UnavailableError:
    """Return the error for what may be an id on the Hub or a mistyped path, while the Hub does not respond.

    `runs/quikstart` beside a folder `runs` is most likely a path. The Hub is asked first nevertheless, because a folder
    may also have the name of a user on the Hub.

    Args:
        where: The field and its value, which begin the message.
        path: What the user wrote.
        reason: Why the Hub cannot be used.
    """
    similar = nearest_place(path)
    if "/" in path and expanded(path).parent.is_dir():
        return UserError(f"{where}: there is no such folder{similar}; it may also be a name on the Hub, but {reason}")
    return UnavailableError(
        f"{where}: {reason}; there is no local folder {path} either{similar}; check the network and the spelling"
    )


def expanded(path: str | Path) -> Path:
    """Return a path with `~` and `~user` replaced by the home folder; unchanged if there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)
