"""Types of recipe fields (bounds and patterns), and the checks that several sections share."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError


# pydantic reads a string below a field as the field's description. It takes the string from the source file, so
# descriptions are missing if only byte code is installed. Validation does not need them.
STRICT = ConfigDict(extra="forbid", use_attribute_docstrings=True)

# For `field(default=..., metadata=SPARSE)`: written only if it differs from its default. A field that a later version
# adds is sparse, so that recipes without it, their fingerprints and the published recipe.yaml stay the same.
SPARSE = {"sparse": True}

LINE = r"^[^\r\n]+$"
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
REF = r"^[A-Za-z0-9][A-Za-z0-9_-]*([./][A-Za-z0-9_-]+)*$"  # names of branches and tags that Git and the Hub accept
LICENSE_NAME = r"^[a-z0-9][a-z0-9.-]*$"
MODULE = r"^[A-Za-z_][A-Za-z0-9_]*$"
FACTORY = r"^[A-Za-z_][A-Za-z0-9_]*:[A-Za-z_][A-Za-z0-9_]*$"
SHA256 = r"^[0-9a-f]{64}$"
PATTERNS = {  # what a message says instead of the pattern
    LINE: "one line of text",
    NAME: "a name of letters, digits, '.', '_' and '-' that begins with a letter or a digit",
    REF: "a name of letters, digits, '_' and '-' that begins with a letter or a digit and may have single '.' and '/' "
    "inside",
    LICENSE_NAME: "a name of lower-case letters, digits, '.' and '-' that begins with a letter or a digit",
    MODULE: "the name of a Python module without folder and suffix, such as my_net",
    FACTORY: "a module and a function of it, such as my_net:build",
    SHA256: "64 digits from 0 to 9 and a to f",
}
LONGEST_NAME = 96  # characters; the Hub's limit for a repository's id
EXAMPLE_ID = "my-name/my-dataset"


def _refuse_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise PydanticCustomError("bool_as_number", "must be a number")
    return value


# Without it, pydantic reads true as 1. It stands behind the bounds, which the JSON schema would lose otherwise.
Number = BeforeValidator(_refuse_bool)
Count = Annotated[int, Field(ge=1), Number]
Whole = Annotated[int, Field(ge=0), Number]
Group = Annotated[int, Field(ge=2, le=1024), Number]
AtLeastTwo = Annotated[int, Field(ge=2), Number]  # BatchNorm cannot train on a batch of one
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False), Number]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False), Number]
Side = Annotated[int, Field(ge=1, le=32767), Number]  # pixels; stored crop boxes are int16
Roll = Annotated[int, Field(ge=-32767, le=32767), Number]
Interval = tuple[Positive, Positive]
Width = Annotated[float, Field(gt=0, le=64, allow_inf_nan=False), Number]
Threads = Annotated[int, Field(ge=1, le=1024), Number]
Line = Annotated[str, Field(pattern=LINE)]
Name = Annotated[str, Field(pattern=NAME, max_length=LONGEST_NAME)]
LicenseName = Annotated[str, Field(pattern=LICENSE_NAME)]
Ref = Annotated[str, Field(pattern=REF)]
Sha256 = Annotated[str, Field(pattern=SHA256)]
Unit = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), Number]
Color = tuple[Unit, Unit, Unit]  # one value per RGB channel
Spread = tuple[Positive, Positive, Positive]


def section_of_path(value: Any) -> Any:
    """Return the section of a path alone, such as `pretrained: org/classifier`."""
    return {"path": value} if isinstance(value, str) else value


def require(condition: bool, message: str) -> None:
    """Check a condition that pydantic cannot express.

    Args:
        condition: The condition, which must be true.
        message: What is wrong, the value, what is allowed and what to do.

    Raises:
        ValueError: If the condition is false. pydantic adds the section's name to the message.
    """
    if not condition:
        raise ValueError(message)


def check_interval(name: str, interval: tuple[float, float], highest: float = float("inf")) -> None:
    """Check that an interval is in order.

    Args:
        name: The field, for the message.
        interval: The two bounds, low and high.
        highest: The largest allowed upper bound.

    Raises:
        ValueError: Unless low <= high <= highest.
    """
    low, high = interval
    bound = "" if highest == float("inf") else f" <= {highest:g}"
    require(low <= high <= highest, f"{name}=[{low:g}, {high:g}]: must be [low, high] with low <= high{bound}")


def is_local(path: str) -> bool:
    """Return whether a path is a place on this machine. Otherwise it is a Hub id."""
    return path.startswith(("/", "~", ".")) or Path(path).exists()


def public_name(path: str) -> str:
    """Return the name of a place for cards: a Hub id unchanged, a local path without its parent folders."""
    return Path(path).resolve().name if is_local(path) else path
