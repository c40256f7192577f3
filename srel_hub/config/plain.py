"""config.plain."""

import dataclasses
import hashlib
import json
from typing import Any


def as_dict(recipe: Any) -> dict[str, Any]:
    """A recipe, or a section of one, as plain JSON values."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(recipe), allow_nan=False))
    return plain


def canonical(value: Any) -> str:
    """Canonical JSON of a section or of plain values: sorted keys, no spaces."""
    plain = as_dict(value) if dataclasses.is_dataclass(value) else value
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def fingerprint(value: Any) -> str:
    """sha256 of the canonical JSON."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()
