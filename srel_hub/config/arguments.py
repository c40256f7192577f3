"""Arguments of the public functions: their types, and overrides as text."""

import json
import operator
import os
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any, SupportsIndex

from srel_hub.errors import UserError


Overrides = Mapping[str, Any] | Sequence[str]


def require_path(name: str, value: object, allowed: str) -> None:
    """Check that an argument of a public function is a path.

    Raises:
        UserError: If it is neither a string nor a path. The message says what is allowed.
    """
    if not isinstance(value, (str, os.PathLike)) or isinstance(os.fspath(value), bytes):
        raise UserError(f"{name}={value!r}: must be a string or a path, got {type(value).__name__}; pass {allowed}")


def require_text(name: str, value: object, allowed: str) -> None:
    """Check that an optional argument of a public function is a string.

    Raises:
        UserError: If it is neither a string nor None. The message says what is allowed.
    """
    if value is not None and not isinstance(value, str):
        raise UserError(f"{name}={value!r}: must be a string or None, got {type(value).__name__}; pass {allowed}")


def require_flag(name: str, value: object) -> None:
    """Check that an argument of a public function is a bool.

    Raises:
        UserError: If it is not.
    """
    if not isinstance(value, bool):
        raise UserError(f"{name}={value!r}: must be True or False, got {type(value).__name__}")


def whole_number(name: str, value: object, least: int | None = None, purpose: str = "") -> int:
    """Return an integer argument as an `int`. Integer scalars of numpy and torch are integers too.

    Args:
        name: The name of the argument, for the message.
        value: The argument.
        least: The smallest allowed number; None: any.
        purpose: Text that ends the message, such as ' (stored: 300)'.

    Raises:
        UserError: If the value is not an integer, or too small.
    """
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):  # RuntimeError: a tensor of several numbers
        number = None
    if number is None or _is_bool(value) or (least is not None and number < least):
        allowed = "a whole number" if least is None else f"a whole number of at least {least}"
        raise UserError(f"{name}={value!r}: must be {allowed}{purpose}")
    return number


def _is_bool(value: object) -> bool:
    """Return whether a value is true or false, which Python and torch also use as 1 or 0."""
    return isinstance(value, bool) or str(getattr(value, "dtype", "")) in ("bool", "torch.bool")


def override_texts(overrides: Overrides) -> list[str]:
    """Return overrides as on the command line. Values of a mapping are written as JSON, which the YAML parser reads.

    Raises:
        UserError: If the overrides are neither a mapping from strings nor a list of strings, or a value cannot be
            written.
    """
    if isinstance(overrides, Mapping):
        return [_override_text(name, value) for name, value in overrides.items()]
    form = "a mapping such as {'recover.ipc': 5}, or a list of strings such as ['recover.ipc=5']"
    if isinstance(overrides, (str, bytes)) or not isinstance(overrides, Iterable):
        raise UserError(f"overrides={overrides!r}: must be {form}, got {type(overrides).__name__}")
    texts = list(overrides)
    wrong = [text for text in texts if not isinstance(text, str)]
    if wrong:
        raise UserError(f"overrides: {wrong[0]!r} is a {type(wrong[0]).__name__}; overrides must be {form}")
    return texts


def _override_text(name: object, value: object) -> str:
    if not isinstance(name, str):
        raise UserError(f"overrides: the key {name!r} must be a field's name, such as 'recover.ipc'")
    try:
        return f"{name}={json.dumps(value, ensure_ascii=False, allow_nan=False, default=_plain)}"
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{name}={value!r}: must be a number, a string, a path, None, or a list or mapping of these ({error})"
        ) from None


def _plain(value: Any) -> int | float | str | bytes:
    """Return a number of NumPy or torch, or a path, as JSON can hold it."""
    if isinstance(value, SupportsIndex):
        return operator.index(value)
    if isinstance(value, Real):
        return float(value)
    return os.fspath(value)  # type: ignore[no-any-return]


def ineffective(overrides: Sequence[str]) -> list[str]:
    """Return a message about each override of a command line that a later one makes ineffective.

    A section may come before its own fields, as in `squeeze.network={model: convnet} squeeze.network.width=0.5`.
    """
    messages = []
    for index, later in enumerate(overrides):
        key = later.partition("=")[0]
        for earlier in overrides[:index]:
            other = earlier.partition("=")[0]
            if other == key:
                messages.append(f"{key} is set twice; {earlier} has no effect, because {later} follows")
            elif other.startswith(f"{key}."):
                messages.append(f"{later} replaces the whole section, so {earlier} has no effect; put {later} first")
    return messages
