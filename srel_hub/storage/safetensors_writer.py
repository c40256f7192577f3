"""Write safetensors files row by row, without holding a complete tensor in memory."""

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

Write = Callable[[str, int, NDArray[Any]], None]  # write(tensor name, first row, rows)


def itemsize(code: str) -> int:
    """Return the bytes of one element of a safetensors dtype code, such as 2 for 'F16'."""
    return np.dtype(DTYPES[code]).itemsize


def header(layout: Layout, metadata: Mapping[str, str]) -> tuple[bytes, dict[str, int]]:
    """Return the first bytes of a file, and the position in bytes at which each tensor begins.

    The bytes are those that the library's own save_file writes: tensors are sorted by decreasing item size, then name.
    Use one metadata key. With several, save_file writes them in random order, so equal files would differ.
    """
    entries: dict[str, Any] = {"__metadata__": dict(metadata)}
    offset = 0
    for name, (code, shape) in sorted(layout.items(), key=lambda item: (-itemsize(item[1][0]), item[1][0], item[0])):
        stop = offset + itemsize(code) * math.prod(shape)
        entries[name] = {"dtype": code, "shape": list(shape), "data_offsets": [offset, stop]}
        offset = stop
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8 bytes
    first = 8 + len(text)
    return len(text).to_bytes(8, "little") + text, {name: first + entries[name]["data_offsets"][0] for name in layout}


def file_bytes(layout: Layout, metadata: Mapping[str, str]) -> int:
    """Return the size of a file of this layout, in bytes."""
    return len(header(layout, metadata)[0]) + sum(itemsize(code) * math.prod(shape) for code, shape in layout.values())


@contextlib.contextmanager
def create_safetensors(path: Path, layout: Layout, metadata: Mapping[str, str]) -> Iterator[Write]:
    """Create a safetensors file of this layout and fill it in any order.

    The file is written, not memory-mapped: on a full disk a write is an error, but a mapped page kills the process.

    Yields:
        write(name, row, array): store `array`, cast to the tensor's dtype, from row `row` on. Rows that are never
        written are 0.
    """
    text, offsets = header(layout, metadata)
    with path.open("wb") as file:
        file.write(text)
        file.truncate(file_bytes(layout, metadata))

        def write(name: str, row: int, array: NDArray[Any]) -> None:
            code, shape = layout[name]
            file.seek(offsets[name] + row * itemsize(code) * math.prod(shape[1:]))
            file.write(np.ascontiguousarray(array, dtype=DTYPES[code]).data)

        yield write
