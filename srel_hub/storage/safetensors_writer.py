"""safetensors files written piece by piece, so that no tensor is ever whole in memory."""

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from srel_hub.core.encodings import Layout


DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}

Write = Callable[[str, int, NDArray[Any]], None]


def itemsize(code: str) -> int:
    return np.dtype(DTYPES[code]).itemsize


def header(layout: Layout, metadata: Mapping[str, str]) -> tuple[bytes, dict[str, int]]:
    """The file's first bytes, and where each tensor begins in it.

    As the library's own save_file writes them: tensors by falling alignment, then name. With several metadata keys its
    order is random, so files that are to be the same have one.
    """
    entries: dict[str, Any] = {"__metadata__": dict(metadata)}
    offset = 0
    for name, (code, shape) in sorted(layout.items(), key=lambda item: (-itemsize(item[1][0]), item[1][0], item[0])):
        stop = offset + itemsize(code) * math.prod(shape)
        entries[name] = {"dtype": code, "shape": list(shape), "data_offsets": [offset, stop]}
        offset = stop
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    first = 8 + len(text)
    return len(text).to_bytes(8, "little") + text, {name: first + entries[name]["data_offsets"][0] for name in layout}


def file_bytes(layout: Layout, metadata: Mapping[str, str]) -> int:
    """Size of the file."""
    return len(header(layout, metadata)[0]) + sum(itemsize(code) * math.prod(shape) for code, shape in layout.values())


@contextlib.contextmanager
def create_safetensors(path: Path, layout: Layout, metadata: Mapping[str, str]) -> Iterator[Write]:
    """Create a file of this layout and give `write(name, row, array)`, which puts rows in their place.

    Written, not mapped: on a full disk a write is an error, a mapped page kills the process.
    """
    text, begins = header(layout, metadata)
    with path.open("wb") as file:
        file.write(text)
        file.truncate(file_bytes(layout, metadata))

        def write(name: str, row: int, array: NDArray[Any]) -> None:
            code, shape = layout[name]
            file.seek(begins[name] + row * itemsize(code) * math.prod(shape[1:]))
            file.write(np.ascontiguousarray(array, dtype=DTYPES[code]).data)

        yield write
