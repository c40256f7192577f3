"""Decoded images: uint8 tensors memory-mapped from a file, so that memory does not grow with their number."""

import itertools
import mmap
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

from srel_hub.storage.safetensors_writer import create_safetensors


Picture = tuple[int, NDArray[np.uint8]]  # the row of an image, and its pixels uint8 [H, W, 3]

MOST_OF_MEMORY = 0.25  # of the machine's, which the images of a condensed dataset may take
MOST_OF_DEVICE = 0.5  # of a device's free memory that images may take; the rest is for the network


def write_pixels(path: Path, count: int, images: Iterable[Picture]) -> None:
    """Write images of one size to a safetensors file with one tensor, `pixels` uint8 [count, 3, H, W].

    Args:
        path: path of the file.
        count: number of images.
        images: (row, pixels uint8 [H, W, 3]) of each image, in any order.
    """
    remaining = iter(images)
    first = next(remaining)  # read ahead for the size
    height, width, _ = first[1].shape
    layout = {"pixels": ("U8", (count, 3, height, width))}
    with create_safetensors(path, layout, {}) as write:
        for row, picture in itertools.chain([first], remaining):
            write("pixels", row, picture.transpose(2, 0, 1))


def in_memory(count: int, images: Iterable[Picture]) -> Tensor:
    """Return images of one size in memory, as uint8 [count, 3, H, W] (see `write_pixels`)."""
    arrived = iter(images)
    first = next(arrived)
    height, width, _ = first[1].shape
    pixels = torch.empty(count, 3, height, width, dtype=torch.uint8)
    for row, picture in itertools.chain([first], arrived):
        pixels[row] = torch.from_numpy(picture.copy()).permute(2, 0, 1)
    return pixels


def map_pixels(path: Path) -> Tensor:
    """Return `pixels` uint8 [N, 3, H, W] of a file, memory-mapped: pages are read when used. Do not modify it."""
    with safe_open(path, framework="pt") as tensors:
        pixels: Tensor = tensors.get_tensor("pixels")
    return pixels


def in_memory_or_mapped(count: int, size: tuple[int, int], images: Iterable[Picture]) -> Tensor:
    """Return `count` images of `size` (height, width) as uint8 [count, 3, H, W].

    The images are mapped from a temporary file if they would take more than a quarter of the machine's memory.
    """
    small = count * 3 * size[0] * size[1] <= MOST_OF_MEMORY * psutil.virtual_memory().total
    return in_memory(count, images) if small else map_temporary(count, size, images)


def map_temporary(count: int, size: tuple[int, int], images: Iterable[Picture]) -> Tensor:
    """Return `count` images as a tensor mapped from a file that the operating system deletes with the tensor.

    A `TemporaryFile` has no name on POSIX and is deleted on its last close on Windows. Deleting a named file, as a
    `TemporaryDirectory` would, fails on Windows as long as it is mapped.
    """
    image_bytes = 3 * size[0] * size[1]
    with tempfile.TemporaryFile(prefix="srel-pixels-") as file:
        for row, picture in images:
            file.seek(row * image_bytes)
            file.write(np.ascontiguousarray(picture.transpose(2, 0, 1)).data)
        file.flush()
        # A private copy-on-write mapping, since torch warns about memory that it cannot write to.
        mapping = mmap.mmap(file.fileno(), count * image_bytes, access=mmap.ACCESS_COPY)
    return torch.frombuffer(mapping, dtype=torch.uint8).view(count, 3, *size)


def to_device_if_it_fits(pixels: Tensor, device: torch.device) -> Tensor:
    """Return the images on `device`, unless they would take more than half of a GPU's free memory.

    In that case the images are returned unchanged, and the caller moves each batch.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        if pixels.nbytes > MOST_OF_DEVICE * free:
            return pixels
    return pixels.to(device)
