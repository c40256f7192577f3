"""config.fields."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"must be a number, got {str(value).lower()}")
    return value


Number = BeforeValidator(_no_bool)  # pydantic would read true as 1
Count = Annotated[int, Number, Field(ge=1)]
Whole = Annotated[int, Number, Field(ge=0)]
Group = Annotated[int, Number, Field(ge=2, le=1024)]
AtLeastTwo = Annotated[int, Number, Field(ge=2)]
Positive = Annotated[float, Number, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Number, Field(ge=0, allow_inf_nan=False)]
Side = Annotated[int, Number, Field(ge=1, le=32767)]
Roll = Annotated[int, Number, Field(ge=-32767, le=32767)]
Interval = tuple[Positive, Positive]
Width = Annotated[float, Number, Field(gt=0, le=64, allow_inf_nan=False)]
Threads = Annotated[int, Number, Field(ge=1, le=1024)]
Line = Annotated[str, Field(pattern=r"^[^\r\n]+$", title="one line of text")]
Name = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=96, title="letters, digits and ._- (96 at most)"),
]

STRICT = ConfigDict(extra="forbid")
REF = r"^[A-Za-z0-9][A-Za-z0-9_-]*([./][A-Za-z0-9_-]+)*$"  # a branch or tag that git takes
Ref = Annotated[str, Field(pattern=REF, title="a name that git takes")]
EXAMPLE_ID = "my-name/my-dataset"


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _check_interval(name: str, interval: tuple[float, float], highest: float = float("inf")) -> None:
    low, high = interval
    bound = "" if highest == float("inf") else f" <= {highest:g}"
    _require(low <= high <= highest, f"{name}=[{low:g}, {high:g}]: must be [low, high] with low <= high{bound}")


def is_local(path: str) -> bool:
    """Whether a path means a place on this machine, not a Hub id."""
    return path.startswith(("/", "~", ".")) or Path(path).exists()


def public_name(path: str) -> str:
    """A Hub id as it is, a local path without the folders above."""
    return Path(path).resolve().name if is_local(path) else path
